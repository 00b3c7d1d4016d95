// Command source needs no Vault: it has a rotation.Source of its own, which makes short-lived users of PostgreSQL, moves
// their end, and drops them. It is the whole of what another issuer of credentials needs: Issue, and where there is
// something to prolong and to give back, Renew and Revoke.
//
//	psql -c 'CREATE ROLE issuer LOGIN CREATEROLE' -c 'CREATE ROLE app_rw NOLOGIN' -c 'GRANT app_rw TO issuer WITH ADMIN OPTION'
//	ISSUER_URL='postgres://issuer@db.internal/app' \
//	DATABASE_URL='postgres://db.internal/app' \
//	go run ./source -group app_rw -ttl 10s -max-ttl 30s
//
// It asks the database every second whom it has logged in as, and prints a line when that is somebody else:
//
//	logged in as app_1763803321_QWERTY…
//	logged in as app_1763803348_ASDFGH…
//
// Ctrl-C drops the last one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/pgvault"
)

func main() {
	issuer := &issuer{}
	flag.StringVar(&issuer.group, "group", "app_rw", "`role` whose members may use the tables")
	flag.DurationVar(&issuer.ttl, "ttl", time.Hour, "how long a user is good for, unless renewed")
	flag.DurationVar(&issuer.maxTTL, "max-ttl", 24*time.Hour, "how long with renewals")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, issuer, os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "source:", err)
		os.Exit(1)
	}
}

// run prints the database's users until ctx ends.
func run(ctx context.Context, issuer *issuer, getenv func(string) string, out io.Writer) (err error) {
	if issuer.admin, err = pgxpool.New(ctx, getenv("ISSUER_URL")); err != nil {
		return err
	}
	defer issuer.admin.Close() // last: the pool revokes with it

	config, err := pgvault.ParseConfig(getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	config.Source = issuer
	pool, err := pgvault.NewWithConfig(ctx, config)
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
