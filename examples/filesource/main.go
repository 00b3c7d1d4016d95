// Command filesource queries PostgreSQL with a login that something else keeps in files: Vault Agent, Vault Secrets
// Operator, a Secrets Store CSI driver. When they are replaced it goes over to the new one.
//
//	go run ./filesource -files /etc/db 'postgres://db.internal/app?sslmode=verify-full'
//	go run ./filesource -files /run/app/db.json 'postgres://db.internal/app?sslmode=verify-full'
//
// It logs every second whom it has logged in as, and what happens to the credential:
//
//	… level=INFO msg=query user=app-1
//	… level=INFO msg="vaultpool: published" generation=2 reason="source changed" took=10.6ms
//	… level=INFO msg=query user=app-2
//
// A directory has one file for the user name and one for the password; a name that ends in .json is a JSON file. What
// has to write them is in the documentation of package filesource.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation/filesource"
)

func main() {
	files := flag.String("files", "/etc/db", "`path` of a directory with the files username and password, or of a JSON file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *files, flag.Arg(0), slog.New(slog.NewTextHandler(os.Stdout, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "filesource:", err)
		os.Exit(1)
	}
}

// run queries until ctx ends.
func run(ctx context.Context, files, databaseURL string, logger *slog.Logger) (err error) {
	config, err := poolConfig(files, databaseURL, logger)
	if err != nil {
		return err
	}
	pool, err := pgvault.NewWithConfig(ctx, config) // waits for the files, 30 s at most
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Shutdown(context.WithoutCancel(ctx))) }()

	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		var user string
		if err := pool.QueryRow(ctx, "SELECT current_user").Scan(&user); err != nil && ctx.Err() == nil {
			logger.Error("query", "error", err) // the pool recovers by itself
		} else if err == nil {
			logger.Info("query", "user", user)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// poolConfig is that of a pool whose credentials are in files.
func poolConfig(files, databaseURL string, logger *slog.Logger) (*pgvault.Config, error) {
	config, err := pgvault.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	from := filesource.Config{Dir: files, Logger: logger}
	if strings.HasSuffix(files, ".json") {
		from = filesource.Config{File: files, Logger: logger}
	}
	if config.Source, err = filesource.New(from); err != nil {
		return nil, err
	}
	config.Rotation.Logger = logger
	// Less than the old user has left to live when the files are replaced. They do not say how long that is.
	config.Rotation.DrainTimeout = 2 * time.Minute
	return config, nil
}
