package pgvault_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// crowded is a service with ten connections at a server that has, from now on, room for so many more than are open.
type crowded struct{ *service }

const crowd = 10

func openCrowded(t *testing.T) crowded {
	t.Helper()
	bed, err := testbed.Start(context.WithoutCancel(t.Context()), testbed.Options{Postgres: true, Progress: os.Stderr})
	check(t, err)
	t.Cleanup(func() { check(t, bed.Close()) })
	check(t, createGroup(t.Context(), bed))
	s := open(t, setup{bed: bed, params: fmt.Sprint("pool_max_conns=", crowd), configure: drainTimeout(8 * time.Second)})
	release(s.take(t, crowd))
	return crowded{s}
}

// room lets n more connect than do; with less than 0, nobody can for a while, whoever closes a connection.
func (c crowded) room(t *testing.T, n int) {
	t.Helper()
	check(t, c.bed.Postgres.Exec(t.Context(), fmt.Sprintf(`
		DO $$ BEGIN
			EXECUTE format('ALTER DATABASE %%I CONNECTION LIMIT %%s', current_database(),
				(SELECT count(*) + %d FROM pg_stat_activity WHERE datname = current_database()));
		END $$`, n)))
}

// callers keep n workers busy with short queries until stop, which returns how many succeeded. None may fail.
func (c crowded) callers(t *testing.T, n int) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Exec(context.WithoutCancel(ctx), "SELECT pg_sleep(0.002)"); err != nil {
					t.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	return func() int64 {
		cancel()
		running.Wait()
		return calls.Load()
	}
}

// hazard 52: a server that becomes full when the new credential is in place. What is old is replaced by closing it
// first, whether some of it is idle or none ever, and no call fails.
func TestHazard52_FullWhileReplacing(t *testing.T) {
	t.Parallel()
	for name, callers := range map[string]int{"some idle": 2, "saturated": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := openCrowded(t)
			stop := c.callers(t, callers)
			old := sessionUser(t, c)
			c.rotate(t)
			c.room(t, 0)
			c.events.Wait(t, rotation.Revoked, 1)
			if stop() == 0 {
				t.Error("no calls")
			}
			c.events.None(t, rotation.DrainDeadline)
			c.waitRevoked(t, 1, old)
		})
	}
}

// hazard 52: where others take what room there is, what is open is kept for as long as it may serve: one connection is
// lost by closing it in vain, not one after the other.
func TestHazard52_RoomIsTaken(t *testing.T) {
	t.Parallel()
	for name, callers := range map[string]int{"some idle": 2, "saturated": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := openCrowded(t)
			stop := c.callers(t, callers)
			old := sessionUser(t, c)
			c.rotate(t)
			c.room(t, -5)
			g, _ := c.generation(1)
			least := crowd
			for time.Until(g.DrainBy) > 3*time.Second {
				least = min(least, c.connections(1)+c.connections(2))
				time.Sleep(5 * time.Millisecond)
			}
			c.room(t, crowd)
			c.events.Wait(t, rotation.Revoked, 1)
			if stop() == 0 {
				t.Error("no calls")
			}
			if least < crowd-1 {
				t.Errorf("%d of %d connections were left", least, crowd)
			}
			c.events.None(t, rotation.DrainDeadline)
			c.waitRevoked(t, 1, old)
		})
	}
}
