// Command webservice is a small web service on PostgreSQL, written as one is written with pgxpool. Its connections
// log in with credentials leased from Vault, which change while it runs; the only trace of that in its code is
// pgvault.New where pgxpool.New would be.
//
// It reads VAULT_ADDR, VAULT_TOKEN and the rest of Vault's usual environment, and is told by the connection string
// where its credentials come from:
//
//	DATABASE_URL='postgres://db.internal/app?sslmode=verify-full&vault_path=database/creds/app' webservice
package main

import (
	"context"
	_ "embed"
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

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

//go:embed schema.sql
var schema string

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
		_, err := io.WriteString(stdout, schema)
		return err
	}
	logger := slog.New(slog.NewJSONHandler(stdout, nil))

	pool, err := pgvault.New(ctx, cfg.databaseURL)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	pool.Rotator().Subscribe(func(e rotation.Event) { logEvent(logger, e) }) // until the pool is closed

	err = serve(ctx, cfg, newServer(&postgresStore{pool}, pool.Rotator(), cfg.requestTimeout, logger), logger)

	// No request is left: give the connections and the lease back. What could not be given back is an error.
	logger.Info("closing the database pool")
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.poolTimeout)
	defer cancel()
	if closeErr := pool.Shutdown(closing); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close the database pool: %w", closeErr))
	}
	if err == nil {
		logger.Info("stopped")
	}
	return err
}

// serve answers requests until ctx ends, then lets those that are under way finish.
func serve(ctx context.Context, cfg config, handler http.Handler, logger *slog.Logger) error {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", cfg.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", cfg.listen, err)
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
