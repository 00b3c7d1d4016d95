// Command staticrole logs in to PostgreSQL as a user who stays the same, and whose password Vault changes: a static
// role. The pool reads the new password a second after the change, or at once when a login is refused. Connections
// that are open stay, since PostgreSQL asks for a password at the login only.
//
//	export VAULT_ADDR=https://vault.internal:8200 VAULT_TOKEN=…
//	DATABASE_URL='postgres://db.internal/app?sslmode=verify-full&vault_path=database/static-creds/app' go run ./staticrole
//
// It logs whom it is logged in as, and a line for each password that is put in place:
//
//	… level=INFO msg="logged in" user=app session=4711
//	… level=INFO msg="new connections log in with another password" generation=2
//
// The first comes once: the session goes on. In Vault, a static role is set up by
//
//	vault write database/static-roles/app db_name=app username=app rotation_period=24h
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("DATABASE_URL"), slog.New(slog.NewTextHandler(os.Stdout, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "staticrole:", err)
		os.Exit(1)
	}
}

// run logs what changes until ctx ends.
func run(ctx context.Context, databaseURL string, logger *slog.Logger) (err error) {
	pool, err := pgvault.New(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Shutdown(context.WithoutCancel(ctx))) }()

	pool.Rotator().Subscribe(func(e rotation.Event) {
		if e.Kind == rotation.Published {
			logger.Info("new connections log in with another password", "generation", e.Generation)
		}
	})
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for last := 0; ; {
		var user string
		var session int
		err := pool.QueryRow(ctx, "SELECT session_user, pg_backend_pid()").Scan(&user, &session)
		if err != nil && ctx.Err() == nil {
			logger.Error("query", "error", err) // the pool recovers by itself
		} else if err == nil && session != last {
			logger.Info("logged in", "user", user, "session", session)
			last = session
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
