package pgvaultstdlib_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// atOnce uses n connections at the same time, and gives them back.
func (s *service) atOnce(t *testing.T, n int) {
	t.Helper()
	conns := make([]*sql.Conn, n)
	for i := range conns {
		var err error
		conns[i], err = s.Conn(t.Context())
		kit.Check(t, err)
	}
	for _, conn := range conns {
		kit.Check(t, conn.Close())
	}
}

// database/sql keeps no idle connection: all are the pool's, which replaces them long before the deadline.
func TestIdleConnectionsAreNotPinned(t *testing.T) {
	t.Parallel()
	const conns = 4
	s := open(t, setup{params: "pool_max_conns=4"}) // drains for 5 minutes
	s.SetMaxIdleConns(conns)                        // has nothing to act on
	s.atOnce(t, conns)
	if stats := s.Stats(); stats.Idle != 0 || stats.OpenConnections != 0 {
		t.Errorf("database/sql keeps %d connections, %d of them idle", stats.OpenConnections, stats.Idle)
	}
	if n := s.rotator().Status().Generations[0].Connections; n != conns {
		t.Errorf("%d connections are open, not %d", n, conns)
	}
	old := s.user()
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// In a DB at its limit, where somebody always waits for the one connection, it is not handed on and on: it is
// replaced like any other.
func TestSaturated(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=4"})
	s.SetMaxOpenConns(1)
	s.SetMaxIdleConns(0)
	stop := s.load(t, 4, func(ctx context.Context, _ int) error {
		var n int
		return s.QueryRowContext(ctx, "SELECT $1::int", 7).Scan(&n)
	})
	old := s.user()
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	stop()
	s.events.None(t, rotation.DrainDeadline, rotation.CredentialLost, rotation.LoginRefused)
}

// load has workers call work again and again until stop is called. Nothing may fail.
func (s *service) load(t *testing.T, workers int, work func(ctx context.Context, worker int) error) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := work(context.Background(), i); err != nil {
					t.Errorf("worker %d, with generation %d: %v", i, s.rotator().Status().Generation, err)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(done)
		running.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// Under a mixed load, first with leases of seconds that are replaced by themselves, then with one rotation
// after the other, nothing fails, every write is there, and nothing is left at the end.
func TestLoad(t *testing.T) {
	t.Parallel()
	const workers, byThemselves, rotations = 8, 2, 12
	s := open(t, setup{role: testbed.RoleOptions{DefaultTTL: 12 * time.Second, MaxTTL: 12 * time.Second}, params: "pool_max_conns=6"})
	statement, err := s.PrepareContext(t.Context(), "SELECT count(*) FROM items WHERE name = $1")
	kit.Check(t, err)
	defer func() { kit.Check(t, statement.Close()) }()
	var written [workers]int
	name := func(worker int) string { return fmt.Sprint(t.Name(), " ", worker) }
	stop := s.load(t, workers, func(ctx context.Context, worker int) error {
		if err := insertInto(ctx, s, name(worker)); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
		written[worker]++
		if err := s.inTransaction(ctx, name(worker)); err != nil {
			return fmt.Errorf("transaction: %w", err)
		}
		written[worker]++
		var n int
		if err := statement.QueryRowContext(ctx, name(worker)).Scan(&n); err != nil {
			return fmt.Errorf("statement: %w", err)
		}
		if n != written[worker] {
			return fmt.Errorf("%d rows, not %d", n, written[worker])
		}
		return nil
	})
	s.events.Wait(t, rotation.Published, 1+byThemselves)
	for range rotations {
		id := s.rotator().Status().Generation
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id-1) // else there would be too many leases at once
	}
	stop()
	s.events.None(t, rotation.CredentialLost, rotation.LoginRefused, rotation.DrainDeadline, rotation.RevokeFailed)
	total := 0
	for worker, n := range written {
		if got := items(t, name(worker)); got != n || n == 0 {
			t.Errorf("worker %d wrote %d rows, of which %d are there", worker, n, got)
		}
		total += n
	}
	kit.Check(t, s.Close())
	s.checkNothingLeft(t)
	t.Logf("%d rows written over %d rotations", total, len(s.events.Of(rotation.Published, 0)))
}

func (s *service) inTransaction(ctx context.Context, name string) error {
	tx, err := s.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return err
	}
	if err := insertInto(ctx, tx, name); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// hazards 12, 17: a Tx and a Conn keep their session across a rotation, and hold up the revocation until
// they are done.
func TestHazard17_TxAndConnAcrossRotation(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=4"})
	old := s.user()
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	statement, err := tx.PrepareContext(t.Context(), insertItem)
	kit.Check(t, err)
	defer func() { _ = statement.Close() }()
	_, err = statement.ExecContext(t.Context(), t.Name())
	kit.Check(t, err)
	conn, err := s.Conn(t.Context())
	kit.Check(t, err)
	_, err = conn.ExecContext(t.Context(), "SET application_name TO 'kept'")
	kit.Check(t, err)
	before := map[querier]int{}
	for _, q := range []querier{tx, conn} {
		_, before[q] = session(t, q)
	}
	s.rotate(t)
	if user, _ := session(t, s); user == old { // another connection: these two are in use
		t.Errorf("a new session is of %s, who was replaced", user)
	}
	for q, pid := range before {
		if user, now := session(t, q); user != old || now != pid {
			t.Errorf("the session is %d of %s, not %d of %s", now, user, pid, old)
		}
	}
	_, err = statement.ExecContext(t.Context(), t.Name())
	kit.Check(t, err)
	kit.Check(t, tx.Commit())
	var application string
	kit.Check(t, conn.QueryRowContext(t.Context(), "SHOW application_name").Scan(&application))
	if n := items(t, t.Name()); n != 2 || application != "kept" {
		t.Errorf("%d rows were committed, and the application is called %q", n, application)
	}
	if g := s.rotator().Status().Generations[0]; g.Generation != 1 || g.Connections == 0 {
		t.Errorf("with a Conn in use the oldest generation is %+v", g)
	}
	s.events.None(t, rotation.Revoked)
	kit.Check(t, conn.Close())
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline)
}

// hazards 17, 51: a Stmt used from many goroutines goes on through rotations, on whatever connection, and
// leaves no statement at the server.
func TestHazard51_StmtAcrossRotations(t *testing.T) {
	t.Parallel()
	const conns = 4
	s := open(t, setup{params: "pool_max_conns=4"})
	const query = "SELECT session_user, $1::int"
	statement, err := s.PrepareContext(t.Context(), query)
	kit.Check(t, err)
	defer func() { _ = statement.Close() }()
	var mu sync.Mutex // guards users
	var users []string
	stop := s.load(t, 2*conns, func(ctx context.Context, worker int) error {
		var user string
		var n int
		if err := statement.QueryRowContext(ctx, worker).Scan(&user, &n); err != nil {
			return err
		}
		if n != worker {
			return fmt.Errorf("the statement returned %d, not %d", n, worker)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(users, user) {
			users = append(users, user)
		}
		return nil
	})
	for id := range uint64(3) {
		old := s.user()
		s.rotate(t)
		s.waitRevoked(t, id+1, old)
	}
	stop()
	if !slices.Contains(users, s.user()) || len(users) != 4 {
		t.Errorf("the statement was run by %v; the last user is %s", users, s.user())
	}
	for range conns {
		conn, err := s.Conn(t.Context())
		kit.Check(t, err)
		defer func() { kit.Check(t, conn.Close()) }()
		var left []string
		kit.Check(t, conn.QueryRowContext(t.Context(),
			`SELECT array_agg(name) FROM pg_prepared_statements WHERE statement = $1`, query).Scan(&arrayOf{&left}))
		if len(left) > 0 {
			t.Errorf("left at the server: statements %v", left)
		}
	}
}

// hazard 12: a session in use past the drain deadline is ended at the server, then the lease revoked. The
// error says why, and the DB goes on with another connection.
func TestHazard12_PastTheDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *pgvault.Config) { c.Rotation.DrainTimeout = 300 * time.Millisecond }})
	old := s.user()
	conn, err := s.Conn(t.Context())
	kit.Check(t, err)
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	insert(t, tx, t.Name())
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if e := s.events.Wait(t, rotation.DrainDeadline, 1); e.Connections != 2 {
		t.Errorf("the event says %d connections", e.Connections)
	}
	for name, q := range map[string]querier{"Conn": conn, "Tx": tx} {
		if _, err := q.ExecContext(t.Context(), insertItem, t.Name()); !errors.Is(err, rotation.ErrEnded) {
			t.Errorf("%s: the statement past the deadline returned: %v", name, err)
		}
	}
	if err := conn.PingContext(t.Context()); err == nil {
		t.Error("the Conn goes on")
	}
	if err := tx.Commit(); err == nil {
		t.Error("the transaction was committed")
	}
	_ = conn.Close()
	if n := items(t, t.Name()); n != 0 {
		t.Errorf("%d rows were committed", n)
	}
	kit.Check(t, s.PingContext(t.Context()))
}

// calls are the ways into a DB that need a connection.
var calls = map[string]func(ctx context.Context, s *service, name string) error{
	"Ping": func(ctx context.Context, s *service, _ string) error { return s.PingContext(ctx) },
	"Exec": func(ctx context.Context, s *service, name string) error { return insertInto(ctx, s, name) },
	"Query": func(ctx context.Context, s *service, _ string) error {
		var n int
		return s.QueryRowContext(ctx, "SELECT $1::int", 7).Scan(&n)
	},
	"Tx": func(ctx context.Context, s *service, name string) error { return s.inTransaction(ctx, name) },
	"Prepare": func(ctx context.Context, s *service, name string) error {
		statement, err := s.PrepareContext(ctx, insertItem)
		if err != nil {
			return err
		}
		defer func() { _ = statement.Close() }()
		_, err = statement.ExecContext(ctx, name)
		return err
	},
	"Conn": func(ctx context.Context, s *service, name string) error {
		conn, err := s.Conn(ctx)
		if err != nil {
			return err
		}
		return errors.Join(insertInto(ctx, conn, name), conn.Close())
	},
}

// writes counts the calls that write a row.
const writes = 4

// hazards 35, 43, 46: the role is dropped behind our back. All calls whose login is refused sit out the one
// rotation that follows, none fails, and each does what it was asked, once.
func TestHazard35_RefusedLogin(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=20"})
	held, err := s.Conn(t.Context()) // the one connection that is open
	kit.Check(t, err)
	dropRole(t, s.user())
	s.callAll(t)
	kit.Check(t, held.Close())
	if id, n := s.rotator().Status().Generation, s.issues(); id != 2 || n != 2 {
		t.Errorf("generation %d after %d issues, not 2 after 2", id, n)
	}
}

// callAll makes all calls at once.
func (s *service) callAll(t *testing.T) {
	t.Helper()
	var running sync.WaitGroup
	for name, call := range calls {
		running.Go(func() {
			if err := call(t.Context(), s, t.Name()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	running.Wait()
	if n := items(t, t.Name()); n != writes {
		t.Errorf("%d rows were written, not %d", n, writes)
	}
}

// A DB over a pool that others use as well: refused logins are sat out here, too, and closing it leaves the
// pool open.
func TestOpenDB(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{params: "pool_max_conns=20"})
	pool, err := pgvault.NewWithConfig(t.Context(), s.config)
	kit.Check(t, err)
	t.Cleanup(func() {
		kit.Check(t, pool.Shutdown(context.Background()))
		s.checkNothingLeft(t)
	})
	s.DB = stdlib.OpenDB(pool)
	if s.rotator() != pool.Rotator() {
		t.Error("the DB's rotator is not the pool's")
	}
	held, err := pool.Acquire(t.Context())
	kit.Check(t, err)
	dropRole(t, s.user())
	s.callAll(t)
	held.Release()
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("an idle DB holds %d connections of the pool", n)
	}
	conn, err := s.Conn(t.Context())
	kit.Check(t, err)
	kit.Check(t, conn.Raw(func(driverConn any) error {
		return driverConn.(*stdlib.Conn).Conn().Ping(t.Context())
	}))
	kit.Check(t, conn.Close())
	kit.Check(t, s.Close())
	kit.Check(t, pool.Ping(t.Context()))
}
