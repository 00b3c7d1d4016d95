package pgvault_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

type callerKey struct{}

// paid counts the connections that were built while a caller, whose context says so, waited.
type paid struct{ atomic.Int64 }

func (p *paid) hook(ctx context.Context, _ *pgx.ConnConfig) error {
	if ctx.Value(callerKey{}) != nil {
		p.Add(1)
	}
	return nil
}

func asCaller(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, true)
}

// take returns n connections, in use.
func (s *service) take(t *testing.T, n int) (held []*pgxpool.Conn) {
	t.Helper()
	for range n {
		held = append(held, s.acquire(t))
	}
	return held
}

func release(held []*pgxpool.Conn) {
	for _, conn := range held {
		conn.Release()
	}
}

// Whoever is handed an old connection, while all that are idle are new, gets one of these. The pool is made whole
// again without a caller's help.
func TestHandedOutOld_TakesIdleNew(t *testing.T) {
	t.Parallel()
	var logins paid
	s := open(t, setup{params: "pool_max_conns=3", configure: func(c *pgvault.Config) {
		c.Rotation.DrainTimeout = 4 * patience
		c.BeforeConnect = logins.hook
	}})
	held := s.take(t, 3)
	inUse, old := held[0], s.Rotator().Status().User
	release(held[1:])
	s.rotate(t)
	eventually(t, "those that are idle are replaced", func(context.Context) bool { return s.connections(1) == 1 })

	eventually(t, "the one in use is not handed out again", func(ctx context.Context) bool {
		inUse.Release()
		conn, err := s.Acquire(asCaller(ctx))
		check(t, err)
		inUse = conn
		return sessionUser(t, conn) != old
	})
	eventually(t, "the pool has as many as before", func(context.Context) bool {
		return s.connections(1) == 0 && s.connections(2) == 3 && s.Stat().TotalConns() == 3
	})
	inUse.Release()
	if n := logins.Load(); n > 0 {
		t.Errorf("a caller logged in %d times, while connections were idle", n)
	}
}

// A caller who is to get another connection may find an idle one, and log in nowhere. What the pool has lost by that
// is made up for, though all others are in use and nobody waits: the drain goes on as fast as before, not only in the
// second half of its window.
func TestHandedOutOld_AllInUseNobodyWaits(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=4", configure: func(c *pgvault.Config) { c.Rotation.DrainTimeout = 4 * patience }})
	held, old := s.take(t, 3), s.Rotator().Status().User
	s.rotate(t)
	idle := func(n int32) {
		eventually(t, "it is idle", func(context.Context) bool { return s.Stat().IdleConns() == n })
	}
	for sessionUser(t, held[0]) == old { // until the replacer is at work: now the pool grows
		held[0].Release()
		idle(1)
		held[0] = s.acquire(t)
	}
	spare := s.acquire(t)
	for sessionUser(t, held[1]) == old {
		spare.Release()
		idle(1)
		held[1].Release()
		idle(2)
		if held[1] = s.acquire(t); sessionUser(t, held[1]) == old {
			spare = s.acquire(t)
		}
	}
	eventually(t, "the pool has as many as before", func(context.Context) bool { return s.Stat().IdleConns() == 1 })
	release(held)
	s.events.Wait(t, rotation.Revoked, 1)
}

// In the second half of the drain window nobody gets an old connection, so that no use shorter than that is cut:
// here, uses that all begin and end together, one after the other, in a pool that never has an idle connection.
func TestHandedOutOld_NotInTheSecondHalf(t *testing.T) {
	t.Parallel()
	const many, window = 4, 16 * time.Second
	s := open(t, setup{params: "pool_max_conns=4", configure: func(c *pgvault.Config) { c.Rotation.DrainTimeout = window }})
	held := s.take(t, many)
	s.rotate(t)
	start := time.Now()
	time.Sleep(window/2 - time.Since(start) + 500*time.Millisecond)
	release(held)
	held = s.take(t, many)
	time.Sleep(window - time.Since(start))
	for _, conn := range held {
		if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Errorf("a use that began in the second half of the drain window was cut: %v", err)
		}
	}
	release(held)
	s.events.Wait(t, rotation.Revoked, 1)
	s.events.None(t, rotation.DrainDeadline)
}

// While the pool has idle connections and room for more, rotations make no caller log in: not even one who comes
// just when all idle connections are taken so that a new one is built.
func TestRotation_CallersFindWhatIsIdle(t *testing.T) {
	t.Parallel()
	const rotations, callers, idle = 5, 2, 10
	var logins paid
	s := open(t, setup{params: "pool_max_conns=20", configure: func(c *pgvault.Config) {
		c.Rotation.DrainTimeout = 4 * time.Second
		c.BeforeConnect = logins.hook
	}})
	release(s.take(t, idle))
	ctx, stop := context.WithCancel(asCaller(t.Context()))
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for ctx.Err() == nil {
				if err := s.AcquireFunc(context.WithoutCancel(ctx), func(*pgxpool.Conn) error { return nil }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range rotations {
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, uint64(i+1))
	}
	stop()
	running.Wait()
	// A few may have been on their way to the pool at that very moment, more of them on a busy machine.
	if n := logins.Load(); n > rotations*idle/5 {
		t.Errorf("callers logged in %d times, in %d replacements of connections, while others were idle", n, rotations*idle)
	}
}
