package pgvault_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// callers keep n workers busy with queries of a length until stop, which returns how many succeeded. None may fail.
func (c crowded) callers(t *testing.T, n int, length time.Duration) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Exec(context.WithoutCancel(ctx), fmt.Sprintf("SELECT pg_sleep(%f)", length.Seconds())); err != nil {
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
	for name, load := range map[string]struct {
		callers int
		length  time.Duration
	}{"some idle": {2, 2 * time.Millisecond}, "saturated": {12, 2 * time.Millisecond}, "saturated, slow": {30, 200 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := openCrowded(t)
			stop := c.callers(t, load.callers, load.length)
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

// hazard 52: where others take what room there is, what is open is kept for as long as it may serve: two or three
// connections are lost by closing them in vain, by us, by a caller, and once more in the second half of the drain window,
// not one after the other.
func TestHazard52_RoomIsTaken(t *testing.T) {
	t.Parallel()
	for name, callers := range map[string]int{"some idle": 2, "saturated": 12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := openCrowded(t)
			stop := c.callers(t, callers, 2*time.Millisecond)
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
			if least < crowd-3 {
				t.Errorf("%d of %d connections were left", least, crowd)
			}
			c.events.None(t, rotation.DrainDeadline)
			c.waitRevoked(t, 1, old)
		})
	}
}

// A statement that fails with the code of a full server says nothing about the server: it is not repeated, nor is what
// may have been done already, while connections are being replaced.
func TestStatementFailsLikeAFullServer(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=3"})
	check(t, s.bed.Postgres.Exec(t.Context(), fmt.Sprintf(`
		CREATE SEQUENCE full_calls;
		GRANT USAGE ON SEQUENCE full_calls TO %s;
		CREATE FUNCTION like_full() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM nextval('full_calls'); -- which no rollback undoes
			RAISE EXCEPTION 'as if it were full' USING ERRCODE = '53300';
		END $$;
		CREATE TABLE full_items (name text);
		GRANT INSERT ON full_items TO %[1]s;
		CREATE TRIGGER full_trigger BEFORE INSERT ON full_items FOR EACH ROW EXECUTE FUNCTION like_full()`, group(s.bed))))
	t.Cleanup(func() {
		check(t, s.bed.Postgres.Exec(context.Background(), "DROP TABLE full_items; DROP FUNCTION like_full; DROP SEQUENCE full_calls"))
	})
	held := s.acquire(t)
	s.rotate(t)
	if _, err := s.Exec(t.Context(), "INSERT INTO full_items VALUES ('one')"); err == nil {
		t.Error("Exec succeeded")
	}
	if _, err := s.CopyFrom(t.Context(), pgx.Identifier{"full_items"}, []string{"name"}, pgx.CopyFromRows([][]any{{"two"}})); err == nil {
		t.Error("CopyFrom succeeded")
	}
	held.Release()
	var calls int
	check(t, s.bed.Postgres.Superuser.QueryRow(t.Context(), "SELECT last_value FROM full_calls").Scan(&calls))
	if calls != 2 {
		t.Errorf("2 statements ran %d times", calls)
	}
}
