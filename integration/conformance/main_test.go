// Package conformance_test runs the suite that every adapter passes, on a real Vault, PostgreSQL and MariaDB. One case
// of one adapter: go test -run TestPQ/Hazard49 ./conformance
package conformance_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/internal/conformance"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// bed serves all cases, in parallel, each with a role of its own.
var bed *testbed.Bed

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // cases wait more than they compute
		_ = flag.Set("test.parallel", "10")
	}
	fail := func(err error) {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // Vault may have to be built
	defer cancel()
	var err error
	if bed, err = testbed.Start(ctx, testbed.Options{Postgres: true, MariaDB: true, Progress: os.Stderr}); err != nil {
		fail(err)
		return code
	}
	undo, err := conformance.PreparePostgres(ctx, bed)
	if err != nil {
		fail(errors.Join(err, bed.Close()))
		return code
	}
	code = m.Run()
	if err := errors.Join(undo(ctx), bed.Close()); err != nil {
		fail(err)
	}
	if err := goleak.Find(); err != nil {
		fail(err)
	}
	return code
}

// setMaxConns lets a sql.DB keep all the connections it may have.
func setMaxConns(pool *conformance.Pool, n int) *conformance.Pool {
	pool.SetMaxOpenConns(n)
	pool.SetMaxIdleConns(n)
	return pool
}
