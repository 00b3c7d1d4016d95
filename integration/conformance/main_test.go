// Package conformance_test runs the suite that every adapter passes, on a real Vault, PostgreSQL and MariaDB. One case
// of one adapter: go test -run TestPQ/Hazard49 ./conformance
package conformance_test

import (
	"context"
	"os"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/conformance"
	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// bed serves all cases, in parallel, each with a role of its own.
var bed *testbed.Bed

func TestMain(m *testing.M) {
	var undo func(context.Context) error
	os.Exit(kit.Package{
		Bed: &bed, Options: testbed.Options{Postgres: true, MariaDB: true}, Parallel: 10,
		Prepare: func(ctx context.Context) (err error) {
			undo, err = conformance.PreparePostgres(ctx, bed)
			return err
		},
		Clean: func(ctx context.Context) error { return undo(ctx) },
	}.Main(m))
}

// setMaxConns lets a sql.DB keep all the connections it may have.
func setMaxConns(pool *conformance.Pool, n int) *conformance.Pool {
	pool.SetMaxOpenConns(n)
	pool.SetMaxIdleConns(n)
	return pool
}
