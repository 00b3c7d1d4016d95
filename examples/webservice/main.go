// Command webservice is a small web service on PostgreSQL, or on MySQL or MariaDB, written as one is written with
// pgxpool or database/sql. Its connections log in with credentials leased from Vault, which change while it runs; the
// only trace of that in its code is pgvault.New where pgxpool.New would be, and mysqlvault's connector where the
// driver's would be.
//
// It reads VAULT_ADDR, VAULT_TOKEN and the rest of Vault's usual environment, and is told by the connection string
// where its credentials come from:
//
//	go run ./webservice -print-schema | psql app
//	DATABASE_URL='postgres://db.internal/app?sslmode=verify-full&vault_path=database/creds/app' go run ./webservice
//
//	go run ./webservice -db mysql -print-schema | mariadb app
//	DATABASE_URL='tcp(db.internal:3306)/app?tls=true&vault_path=database/creds/app' go run ./webservice -db mysql
//
// It logs in JSON, what happens to its credentials included, and serves items, accounts and transfers between them:
//
//	curl localhost:8080/items -d '{"name": "bolt", "quantity": 3}'
//	curl localhost:8080/transfers -d '{"from": 1, "to": 2, "amount": 30}'
//
// http://localhost:8080/vaultpool/ is the status page of the credentials, /metrics is for Prometheus, and /healthz and
// /readyz are for an orchestrator. -help lists the flags. `make demo` runs it under load, with leases of seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "webservice:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, which is the normal end and no error.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	cfg, err := parseConfig(args, getenv, os.Stderr)
	if err != nil {
		return err
	}
	if cfg.printSchema {
		_, err := io.WriteString(stdout, schemas[cfg.database])
		return err
	}
	logger := slog.New(slog.NewJSONHandler(stdout, nil))

	db, err := openDatabase(ctx, cfg)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	db.rotator.Subscribe(func(e rotation.Event) { logEvent(logger, e) }) // until the database is closed

	err = serveDatabase(ctx, cfg, db, logger)

	// No request is left: give the connections and the lease back.
	logger.Info("closing the database")
	if closeErr := db.close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close the database: %w", closeErr))
	}
	if err == nil {
		logger.Info("stopped")
	}
	return err
}

// serveDatabase serves what there is on the database until ctx ends: all of it at one address, or what is for operators at
// one of its own.
func serveDatabase(ctx context.Context, cfg config, db *database, logger *slog.Logger) (err error) {
	mux := http.NewServeMux()
	(&server{store: db.store, timeout: cfg.requestTimeout, logger: logger}).mount(mux)
	operators := mux
	if cfg.operators != "" {
		operators = http.NewServeMux()
	}
	stopMetrics, err := mountOperators(operators, db.rotator, cfg.allowRotate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopMetrics()) }()
	if cfg.operators == "" {
		return serve(ctx, cfg, cfg.listen, mux, logger)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel() // neither goes on without the other
		ended <- serve(ctx, cfg, cfg.operators, operators, logger.With("for", "operators"))
	}()
	err = serve(ctx, cfg, cfg.listen, mux, logger)
	cancel()
	return errors.Join(err, <-ended)
}

// serve answers requests until ctx ends, then lets those that are under way finish.
func serve(ctx context.Context, cfg config, address string, handler http.Handler, logger *slog.Logger) error {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      cfg.requestTimeout + 5*time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	logger.Info("listening", "address", listener.Addr().String())

	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	logger.Info("stopping: no new requests, waiting for those under way")
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.drainTimeout)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		return errors.Join(fmt.Errorf("wait %v for requests under way: %w", cfg.drainTimeout, err), server.Close())
	}
	return nil
}

// logEvent writes what happens to the credentials into the service's own log.
func logEvent(logger *slog.Logger, e rotation.Event) {
	level := slog.LevelInfo
	if e.Err != nil {
		level = slog.LevelWarn
	}
	logger.LogAttrs(context.Background(), level, "database credential", slog.Any("rotation", e))
}
