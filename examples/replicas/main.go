// Command replicas is a program with two pools, one of a PostgreSQL primary, to write, and one of its replicas, to read,
// that share one credential leased from Vault: one Rotator, and so one lease and one database user, whatever the number
// of pools. A new credential is put in place when every host has accepted it, so that a replica that lags is waited
// for; one that is down is not.
//
// It reads VAULT_ADDR, VAULT_TOKEN and the rest of Vault's usual environment:
//
//	VAULT_PATH=database/creds/app \
//	PRIMARY_URL='postgres://db.internal/app?sslmode=verify-full' \
//	REPLICA_URL='postgres://replica-1.internal,replica-2.internal/app?sslmode=verify-full&target_session_attrs=prefer-standby' \
//	go run ./replicas
//
// It logs every second whom each pool has logged in as, and where, and what happens to the credential:
//
//	{"time":…,"level":"INFO","msg":"logged in","user":"v-token-app-5yxVbz1S…","standby":false}
//	{"time":…,"level":"INFO","msg":"logged in","user":"v-token-app-5yxVbz1S…","standby":true}
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
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	if err := run(ctx, os.Getenv, slog.New(slog.NewJSONHandler(os.Stdout, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "replicas:", err)
		os.Exit(1)
	}
}

// run asks both pools who they are, again and again until ctx ends, which is no error.
func run(ctx context.Context, getenv func(string) string, logger *slog.Logger) (err error) {
	db, err := open(ctx, getenv, logger)
	if err != nil {
		return fmt.Errorf("open the databases: %w", err)
	}
	defer func() { err = errors.Join(err, db.close()) }()
	for {
		if err := db.look(ctx, logger); err != nil && ctx.Err() == nil {
			logger.Warn("query", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// databases is the two pools and what they share.
type databases struct {
	rotator          *rotation.Rotator
	primary, replica *pgvault.Pool
}

// open waits for the first credential, and for both servers to accept it. After a failure nothing is left.
func open(ctx context.Context, getenv func(string) string, logger *slog.Logger) (*databases, error) {
	source, err := vaultsource.New(ctx, vaultsource.Config{Path: getenv("VAULT_PATH"), Logger: logger})
	if err != nil {
		return nil, err
	}
	db := new(databases)
	if db.rotator, err = rotation.New(ctx, source, rotation.Config{Logger: logger}); err != nil {
		return nil, err
	}
	if db.primary, err = openPool(ctx, getenv("PRIMARY_URL"), db.rotator); err != nil {
		return nil, errors.Join(fmt.Errorf("the primary: %w", err), db.close())
	}
	if db.replica, err = openPool(ctx, getenv("REPLICA_URL"), db.rotator); err != nil {
		return nil, errors.Join(fmt.Errorf("the replicas: %w", err), db.close())
	}
	return db, nil
}

// openPool opens a pool whose connections log in with the Rotator's credential. What the Vault parameters of a
// connection string say otherwise, the Rotator knows.
func openPool(ctx context.Context, connString string, rotator *rotation.Rotator) (*pgvault.Pool, error) {
	config, err := pgvault.ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	config.Rotator = rotator
	return pgvault.NewWithConfig(ctx, config)
}

// close closes the pools first and then the Rotator, which revokes the lease when no connection is left. Last would come
// a source that logs in by itself (vaultsource.Config.Auth); this one was given its token.
func (db *databases) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // an orchestrator kills after 30
	defer cancel()
	var errs []error
	for _, pool := range []*pgvault.Pool{db.replica, db.primary} {
		if pool != nil { // nil: the start failed before it
			each, cancel := context.WithTimeout(ctx, 5*time.Second)
			errs = append(errs, pool.Shutdown(each))
			cancel()
		}
	}
	return errors.Join(append(errs, db.rotator.Close(ctx))...)
}

// look logs whom each pool's connection has logged in as, and where.
func (db *databases) look(ctx context.Context, logger *slog.Logger) error {
	var errs []error
	for _, pool := range []*pgvault.Pool{db.primary, db.replica} {
		var user string
		var standby bool
		err := pool.QueryRow(ctx, "SELECT session_user, pg_is_in_recovery()").Scan(&user, &standby)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		logger.Info("logged in", "user", user, "standby", standby)
	}
	return errors.Join(errs...)
}
