package stdlib_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// The whole change to a service that lives in database/sql: the import, the driver's
// name, and one parameter.
func Example() {
	ctx := context.Background()
	db, err := sql.Open("pgvault", "postgres://db.internal/app?pool_max_conns=20&vault_path=database/creds/app")
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { // drains, and revokes the lease
		if err := db.Close(); err != nil {
			log.Print(err)
		}
	}()

	var name string
	if err := db.QueryRowContext(ctx, "SELECT name FROM items WHERE id = $1", 1).Scan(&name); err != nil {
		log.Print(err)
	}
}

// One pool for code that uses pgx and code that wants a sql.DB.
func ExampleOpenDB() {
	ctx := context.Background()
	pool, err := pgvault.New(ctx, "postgres://db.internal/app?vault_path=database/creds/app")
	if err != nil {
		log.Print(err)
		return
	}
	defer pool.Close()
	db := stdlib.OpenDB(pool)
	defer func() { _ = db.Close() }() // leaves the pool open
}

// What a connection string cannot say comes from a Config: here hooks, and a source of
// credentials other than Vault.
func ExampleRegisterDriver() {
	config, err := pgvault.ParseConfig("postgres://db.internal/app?sslmode=verify-full")
	if err != nil {
		fmt.Println(err)
		return
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SET search_path TO app")
		return err
	}
	config.Source = rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "an authentication token"), rotation.Lease{TTL: 15 * time.Minute}, nil
	})
	if err := stdlib.RegisterDriver("app", config); err != nil {
		fmt.Println(err)
		return
	}
	db, err := sql.Open("app", "vault_drain_timeout=1m") // sends nothing
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("open connections:", db.Stats().OpenConnections)
	fmt.Println("taken back:", db.Close() == nil)
	// Output:
	// open connections: 0
	// taken back: true
}

// The state of the credential behind a sql.DB.
func ExampleRotatorOf() {
	ctx := context.Background()
	config, err := pgvault.ParseConfig("postgres://127.0.0.1:1/app?sslmode=disable")
	if err != nil {
		fmt.Println(err)
		return
	}
	config.Source = rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "an authentication token"), rotation.Lease{TTL: 15 * time.Minute}, nil
	})
	pool, err := pgvault.NewWithConfig(ctx, config) // as with pgxpool, it is no error that the database is not there
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	db := stdlib.OpenDB(pool)
	defer func() { _ = db.Close() }()
	s := stdlib.RotatorOf(db).Status()
	fmt.Println(s.User, s.Usable)
	// Output: app true
}

// A connection as pgx knows it, for what database/sql has no words for.
func ExampleConn() {
	ctx := context.Background()
	db, err := sql.Open("pgvault", "postgres://db.internal/app?vault_path=database/creds/app")
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = conn.Close() }()
	err = conn.Raw(func(driverConn any) error {
		_, err := driverConn.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{"items"}, []string{"name"},
			pgx.CopyFromRows([][]any{{"a"}, {"b"}}))
		return err
	})
	if err != nil {
		log.Print(err)
	}
}
