// Package pgvault_test tries pgvault on a real Vault and a real PostgreSQL. Each test names the
// hazards that it covers by their numbers.
package pgvault_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// shared serves all tests that need no fault of a server, in parallel, each with a role of its own.
var shared *testbed.Bed

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	flag.Parse()
	if !isFlagGiven("test.parallel") {
		// Tests wait more than they compute.
		_ = flag.Set("test.parallel", "8")
	}
	fail := func(err error) {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if connString := os.Getenv(crasher); connString != "" {
		fail(runUntilKilled(connString))
		return code
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // Vault may have to be built
	defer cancel()
	var err error
	if shared, err = testbed.Start(ctx, testbed.Options{Postgres: true, Progress: os.Stderr, Audit: true}); err != nil {
		fail(err)
		return code
	}
	if err := createGroup(ctx, shared); err != nil {
		fail(errors.Join(err, shared.Close()))
		return code
	}
	code = m.Run()
	if err := errors.Join(kit.CheckHeard(shared), faulty.close(), dropGroup(ctx, shared), shared.Close()); err != nil {
		fail(err)
	}
	if err := goleak.Find(); err != nil {
		fail(err)
	}
	return code
}

func isFlagGiven(name string) (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// faulty serves the tests that hurt a server, one at a time.
var faulty faultyBed

type faultyBed struct {
	turn sync.Mutex // held by the test whose turn it is, and by close
	bed  *testbed.Bed
	dir  string
}

// use returns the bed, for this test alone until its end. Its servers are always our own, and
// PostgreSQL serves TLS.
func (f *faultyBed) use(t *testing.T) *testbed.Bed {
	t.Helper()
	f.turn.Lock()
	t.Cleanup(f.turn.Unlock)
	if f.bed == nil {
		var err error
		if f.dir, err = os.MkdirTemp("", "pgvault-test-vault-"); err != nil {
			t.Fatal(err)
		}
		f.bed, err = testbed.Start(context.WithoutCancel(t.Context()), testbed.Options{
			Postgres: true, PostgresTLS: true, VaultDir: f.dir, Progress: os.Stderr,
		})
		if err != nil {
			t.Fatal(err)
		}
		check(t, createGroup(t.Context(), f.bed))
	}
	return f.bed
}

func (f *faultyBed) close() error {
	f.turn.Lock()
	defer f.turn.Unlock()
	if f.bed == nil {
		return nil
	}
	return errors.Join(f.bed.Close(), os.RemoveAll(f.dir))
}
