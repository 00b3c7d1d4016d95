// Command approle logs in to Vault by AppRole, and to PostgreSQL with the credential that Vault then issues. Both go on
// for as long as it runs: it renews the token and the lease, logs in again before the token's end, and replaces the
// credential at the lease's.
//
//	export VAULT_ADDR=https://vault.internal:8200
//	export DATABASE_URL='postgres://db.internal/app?sslmode=verify-full&vault_path=database/creds/app'
//	ROLE_ID=… SECRET_ID_FILE=/run/secrets/secret-id go run ./approle
//
// It asks the database every second whom it has logged in as, and prints a line when that is somebody else:
//
//	logged in as v-approle-app-5yxVbz1S…
//	logged in as v-approle-app-Rk40Lq9E…
//
// Ctrl-C gives back the credential and the token. In Vault, AppRole is set up by
//
//	vault auth enable approle
//	vault write auth/approle/role/app token_policies=app token_ttl=20m token_max_ttl=24h
//	vault read -field=role_id auth/approle/role/app/role-id
//	vault write -f -field=secret_id auth/approle/role/app/secret-id
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/vaultpool/vaultpool/pgvault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "approle:", err)
		os.Exit(1)
	}
}

// run prints the database's users until ctx ends.
func run(ctx context.Context, getenv func(string) string, out io.Writer) (err error) {
	config, err := pgvault.ParseConfig(getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	// The file is read at each login, so that it may be replaced while the program runs.
	secretID := &approle.SecretID{FromFile: getenv("SECRET_ID_FILE")}
	if config.Vault.Auth, err = approle.NewAppRoleAuth(getenv("ROLE_ID"), secretID); err != nil {
		return fmt.Errorf("AppRole, with ROLE_ID and SECRET_ID_FILE: %w", err)
	}
	pool, err := pgvault.NewWithConfig(ctx, config) // logs in to Vault, and then to the database
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Shutdown(context.WithoutCancel(ctx))) }()

	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for last := ""; ; {
		var user string
		if err := pool.QueryRow(ctx, "SELECT session_user").Scan(&user); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err) // the pool recovers by itself
		} else if err == nil && user != last {
			fmt.Fprintln(out, "logged in as", user)
			last = user
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
