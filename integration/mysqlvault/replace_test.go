package mysqlvault_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// load has n callers execute a statement again and again until stop, which returns how many were done. Each
// failure fails the test.
func (s *service) load(t *testing.T, n int, statement string) (stop func() int64) {
	t.Helper()
	var stopped atomic.Bool
	var done, failed atomic.Int64
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			for !stopped.Load() {
				if _, err := s.ExecContext(t.Context(), statement); err != nil {
					if failed.Add(1) < 4 {
						t.Errorf("after %d calls: %v", done.Load(), err)
					}
					return
				}
				done.Add(1)
			}
		})
	}
	return func() int64 {
		stopped.Store(true)
		callers.Wait()
		return done.Load()
	}
}

// Connections that are handed out and given back without a use between, while sessions are exchanged (for the
// race detector).
func TestUnusedConnectionsAcrossRotations(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *mysqlvault.Config) { c.Rotation.DrainTimeout = 100 * time.Millisecond }})
	s.SetMaxIdleConns(0) // each is new
	var stop atomic.Bool
	var callers sync.WaitGroup
	for range 6 {
		callers.Go(func() {
			for !stop.Load() {
				c, err := s.Conn(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(3 * time.Millisecond)
				_ = c.Close()
			}
		})
	}
	for id := uint64(1); id <= 6; id++ {
		s.rotate(t)
		s.events.Wait(t, rotation.Draining, id)
	}
	s.events.Wait(t, rotation.Revoked, 6)
	stop.Store(true)
	callers.Wait()
}

// Uses in step that last longer than a quarter of the drain window: none is cut, though all connections come
// back at once, and always in use.
func TestLongUsesInStep(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *mysqlvault.Config) { c.Rotation.DrainTimeout = 6 * time.Second }})
	const conns = 4
	s.SetMaxOpenConns(conns)
	s.fill(t, conns)
	stop := s.load(t, conns, "DO SLEEP(2)")
	for id := uint64(1); id <= 2; id++ {
		old := s.user()
		s.rotate(t)
		s.waitRevoked(t, id, old)
	}
	stop()
	s.events.None(t, rotation.DrainDeadline)
}

// A session that was logged in to replace another waits for a long transaction to end. Its own credential dies
// meanwhile: nobody gets it.
func TestSpareThatDied(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	s.SetMaxIdleConns(4)
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	s.rotate(t)
	second := s.user()
	kit.Eventually(t, "a session is ready", func(context.Context) bool { return s.connections(2) == 1 })
	dropUser(t, second)
	if got := whoami(t, s); got == second { // refused, and rotated
		t.Fatalf("a caller got the dropped user %s", got)
	}
	kit.Check(t, tx.Rollback())
	var held []*sql.Conn
	for range 3 {
		c, err := s.Conn(t.Context())
		kit.Check(t, err)
		held = append(held, c)
		if got := whoami(t, c); got == second {
			t.Errorf("a caller got the dropped user %s", got)
		}
	}
	for _, c := range held {
		kit.Check(t, c.Close())
	}
	s.events.Wait(t, rotation.Revoked, 2)
}

// A login that failed for one call does not fail the next one on the same connection.
func TestErrorIsThatOfTheCall(t *testing.T) {
	t.Parallel()
	var hold kit.Gate
	s := open(t, setup{role: testbed.RoleOptions{DefaultTTL: 12 * time.Second}, configure: func(c *mysqlvault.Config) { c.DialFunc = gated(&hold) }})
	s.SetMaxOpenConns(1)
	s.fill(t, 1)
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	hold.ShutAfter(1, 1000) // the probe of the next one passes, and no more
	kit.Check(t, shared.Vault.Client.Sys().RevokeWithContext(t.Context(), leases[0]))
	s.events.Wait(t, rotation.Draining, 1) // dead: the lease is known to be gone
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	c, err := s.Conn(ctx)
	kit.Check(t, err)
	if err := c.PingContext(ctx); err == nil {
		t.Error("a call without a session succeeded")
	}
	hold.Open()
	kit.Eventually(t, "a session is ready", func(context.Context) bool { return s.connections(2) > 0 })
	for range 2 {
		if err := c.PingContext(t.Context()); err != nil {
			t.Errorf("the next call, with time: %v", err)
		}
	}
	kit.Check(t, c.Close())
}

// hazard 52: the server is full, once with idle connections and once with none: what is old is replaced by
// closing it first, and no call fails.
func TestHazard52_ServerFull(t *testing.T) {
	t.Parallel()
	for name, callers := range map[string]int{"some idle": 2, "saturated": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bed, err := testbed.Start(context.WithoutCancel(t.Context()), testbed.Options{MariaDB: true, Progress: os.Stderr})
			kit.Check(t, err)
			t.Cleanup(func() { kit.Check(t, bed.Close()) })
			s := open(t, setup{bed: bed, configure: func(c *mysqlvault.Config) { c.Rotation.DrainTimeout = 6 * time.Second }})
			const conns = 10 // as max_connections cannot be set to less
			s.SetMaxOpenConns(conns)
			s.fill(t, conns)
			stop := s.load(t, callers, "DO SLEEP(0.002)")
			old := s.user()
			s.rotate(t)
			var n int
			kit.Check(t, bed.MariaDB.Root.QueryRowContext(t.Context(),
				"SELECT count(*) FROM information_schema.processlist WHERE user <> 'system user'").Scan(&n))
			kit.Check(t, bed.MariaDB.Exec(t.Context(), fmt.Sprintf("SET GLOBAL max_connections = %d", n)))
			s.events.Wait(t, rotation.Revoked, 1)
			kit.Check(t, bed.MariaDB.Exec(t.Context(), "SET GLOBAL max_connections = 100"))
			if stop() == 0 {
				t.Error("no calls")
			}
			s.events.None(t, rotation.DrainDeadline)
			s.checkGone(t, old)
		})
	}
}
