package pgvault_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// Everything pgxpool.ParseConfig takes, and where the credentials come from.
func ExampleParseConfig() {
	config, err := pgvault.ParseConfig("postgres://db.internal/app?sslmode=verify-full&pool_max_conns=20" +
		"&vault_path=database/creds/app&vault_drain_timeout=2m")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(config.ConnConfig.Host, config.MaxConns)
	fmt.Println(config.Vault.Path, config.Rotation.DrainTimeout)
	// Output:
	// db.internal 20
	// database/creds/app 2m0s
}

// A parameter that does not exist is an error, and so is a user: Vault issues it.
func ExampleParseConfig_mistakes() {
	_, err := pgvault.ParseConfig("postgres://db.internal/app?vault_role=app")
	fmt.Println(err)
	_, err = pgvault.ParseConfig("postgres://jack:secret@db.internal/app?vault_path=database/creds/app")
	fmt.Println(err)
	// Output:
	// pgvault: connection string: unknown parameter vault_role; there are vault_addr, vault_ca_cert, vault_close_timeout, vault_drain_timeout, vault_lease_ttl, vault_max_unrevoked, vault_namespace, vault_password_field, vault_path, vault_refresh_interval, vault_renew_increment, vault_start_timeout, vault_token_file, vault_username_field
	// pgvault: the connection string sets the password; remove it: user and password are issued, by Vault or whatever the source is, and change while the pool is open
}

// Any source of credentials serves. As with pgxpool, it is no error that the
// database is not there yet.
func ExampleNewWithConfig() {
	ctx := context.Background()
	config, err := pgvault.ParseConfig("postgres://127.0.0.1:1/app?sslmode=disable")
	if err != nil {
		fmt.Println(err)
		return
	}
	config.Source = rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "an authentication token"), rotation.Lease{TTL: 15 * time.Minute}, nil
	})
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	fmt.Println(pool.Rotator().Status().User, pool.Stat().MaxConns() > 0)
	// Output: app true
}

// The whole change to a service: the import, one word, and one parameter.
func ExampleNew() {
	ctx := context.Background()
	pool, err := pgvault.New(ctx, "postgres://db.internal/app?vault_path=database/creds/app")
	if err != nil {
		log.Print(err)
		return
	}
	defer pool.Close()

	var name string
	err = pool.QueryRow(ctx, "SELECT name FROM items WHERE id = $1", 1).Scan(&name)
	var none *rotation.NoCredentialError
	if errors.As(err, &none) {
		log.Printf("no login since %s", none.Since)
	}
}

// A pool that is rotated by hand, with what happens on the way. What is logged and shown
// never holds a password.
func ExamplePool_Rotate() {
	ctx := context.Background()
	config, err := pgvault.ParseConfig("postgres://127.0.0.1:1/app?sslmode=disable")
	if err != nil {
		fmt.Println(err)
		return
	}
	config.Rotation.IssueInterval = time.Millisecond
	n := 0
	config.Source = rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		n++ // never two at once
		return rotation.NewCredential(fmt.Sprintf("app-%d", n), "secret"), rotation.Lease{}, nil
	})
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	failed := make(chan rotation.Event, 100)
	pool.Rotator().Subscribe(func(e rotation.Event) {
		if e.Kind == rotation.ProbeFailed {
			failed <- e
		}
	})

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	err = pool.Rotate(short) // no host can be asked whether it accepts the new one
	fmt.Println("gave up waiting:", errors.Is(err, context.DeadlineExceeded))
	fmt.Println((<-failed).Kind, "for generation 2; logging in as", pool.Rotator().Status().User)
	// Output:
	// gave up waiting: true
	// probe failed for generation 2; logging in as app-1
}
