// Package conformance is the suite that every adapter passes on real servers: what hazards there are that do not
// depend on the driver, once, in terms of database/sql. Each case names the hazards that it covers by their
// numbers.
//
// What an adapter has of its own is its to test: hooks, retries by method, statements, what happens inside its
// pool. So is what needs a server of one's own, which the suite does not have: it shares one with all adapters.
package conformance

import (
	"context"
	"database/sql"
	"testing"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// Adapter is what the suite needs to know of one.
type Adapter struct {
	Server *Server
	// Open opens a pool and waits for its first credential, within ctx.
	Open func(ctx context.Context, o Options) (*Pool, error)
	// SQLPools says that database/sql keeps the idle connections, rather than a pool below it.
	SQLPools bool
	// Ended reports whether an error is what a connection returns that was ended at the drain deadline or by a
	// close.
	Ended func(error) bool
}

// Options say what to open.
type Options struct {
	Addr     string             // the server's host:port
	Vault    vaultsource.Config // where credentials come from
	Rotation rotation.Config
	Rotator  *rotation.Rotator // instead of both, if not nil: it is shared, and not the pool's to close
	MaxConns int               // the most that are open or idle
}

// Pool is an open one.
type Pool struct {
	*sql.DB
	Rotator *rotation.Rotator
	Close   func() error // closes the DB, and the Rotator unless it is shared
}

// Run runs the suite, in parallel.
func Run(t *testing.T, a *Adapter) {
	t.Helper()
	for _, cases := range [][]testCase{loginCases, drainCases, leaseCases, outageCases, refusedCases, probeCases, sharedCases, closeCases} {
		for _, c := range cases {
			if c.only != nil && !c.only(a) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, a)
			})
		}
	}
}

type testCase struct {
	name string
	run  func(*testing.T, *Adapter)
	only func(*Adapter) bool // nil: all adapters
}
