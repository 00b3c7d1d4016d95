package pgvault_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// drainTimeout sets how long the connections of a replaced credential may go on.
func drainTimeout(d time.Duration) func(*pgvault.Config) {
	return func(c *pgvault.Config) { c.Rotation.DrainTimeout = d }
}

// atRevocation counts, whenever Vault is asked for a revocation, how many of these connections' sessions
// are still there. It is -1 until the first.
func (s *service) atRevocation(t *testing.T, conns ...querier) *atomic.Int64 {
	t.Helper()
	pids := make([]int32, len(conns))
	for i, conn := range conns {
		check(t, conn.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pids[i]))
	}
	most := new(atomic.Int64)
	most.Store(-1)
	s.vault.Before("sys/leases/revoke", func() {
		n := s.alive(t, pids)
		most.Store(max(most.Load(), n))
	})
	return most
}

// alive counts the sessions of these backends.
func (s *service) alive(t *testing.T, pids []int32) (n int64) {
	t.Helper()
	err := s.bed.Postgres.Superuser.QueryRow(context.Background(),
		"SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)", pids).Scan(&n)
	if err != nil {
		t.Errorf("look for sessions: %v", err)
	}
	return n
}

// isEnded tells whether an error says that the connection was ended for its credential's sake: ours,
// or what the server says to those whose session is terminated.
func isEnded(err error) bool {
	var pgErr *pgconn.PgError
	return errors.Is(err, rotation.ErrEnded) || errors.As(err, &pgErr) && pgErr.Code == "57P01"
}

// hazard 6: a hijacked connection is counted until its owner closes it, and only then is its lease
// revoked.
func TestHazard06_HijackedUntilClosed(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	old := s.Rotator().Status().User
	conn := s.acquire(t).Hijack()
	s.rotate(t)
	eventually(t, "one connection left", func(context.Context) bool { return s.connections(1) == 1 })
	if g, ok := s.generation(1); !ok || g.State != rotation.StateDraining || !s.hasUser(t, old) {
		t.Errorf("with a hijacked connection open, its generation is %+v", g)
	}
	if user := sessionUser(t, conn); user != old {
		t.Errorf("the hijacked connection is of %s, not %s", user, old)
	}
	s.events.None(t, rotation.Revoked)
	check(t, conn.Close(t.Context()))
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// hazard 6: or until the drain deadline, at which its session is ended.
func TestHazard06_HijackedPastDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: drainTimeout(300 * time.Millisecond)})
	old := s.Rotator().Status().User
	conn := s.acquire(t).Hijack()
	atRevocation := s.atRevocation(t, conn)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if n := atRevocation.Load(); n != 0 {
		t.Errorf("%d sessions were left when the lease was revoked", n)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1", 1); !isEnded(err) {
		t.Errorf("its next statement returned %v, which does not say why", err)
	}
}

// hazard 7: the pool has forgotten a connection whose BeforeClose is slow; its lease is not revoked
// before its socket is closed.
func TestHazard07_SlowBeforeClose(t *testing.T) {
	t.Parallel()
	var g gate
	s := open(t, setup{configure: func(c *pgvault.Config) {
		c.BeforeClose = func(*pgx.Conn) { _ = g.Pass(context.Background()) }
	}})
	t.Cleanup(g.Open)
	old := sessionUser(t, s)
	held := s.acquire(t)
	g.ShutAfter(1, 1) // the first is that of the new credential's proof
	s.rotate(t)
	eventually(t, "the proof is over", func(context.Context) bool { return s.connections(2) == 0 })
	held.Release()
	g.Queue(t, 1)
	eventually(t, "the pool has forgotten the old connection", func(context.Context) bool {
		return s.Stat().TotalConns() <= 1 && s.connections(2) == 1
	})
	if n := s.connections(1); n != 1 {
		t.Errorf("the engine counts %d connections of the old generation, where one is not closed yet", n)
	}
	if !s.hasUser(t, old) {
		t.Error("the lease was revoked before the socket was closed")
	}
	s.events.None(t, rotation.Drained, rotation.Revoked)
	g.Open()
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// hazard 11: a connection that its caller never gives back holds up neither rotation nor Close for
// ever: at their deadline its session is ended, and then the lease revoked.
func TestHazard11_LeakedConnection(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=4", configure: drainTimeout(300 * time.Millisecond)})
	old := s.Rotator().Status().User
	leaked := s.acquire(t)
	atRevocation := s.atRevocation(t, leaked)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if n := atRevocation.Load(); n != 0 {
		t.Errorf("%d sessions were left when the lease was revoked", n)
	}
	if e := s.events.Wait(t, rotation.DrainDeadline, 1); e.Connections != 1 {
		t.Errorf("the event counts %d connections at the deadline, not 1", e.Connections)
	}
	check(t, s.Ping(t.Context())) // others are not touched

	alsoLeaked := s.acquire(t)
	s.vault.Heal()
	atRevocation = s.atRevocation(t, alsoLeaked)
	within(t, 3*time.Second, "Shutdown", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := s.Shutdown(ctx)
		if err == nil || !strings.Contains(err.Error(), "1 connections were still in use") || !strings.Contains(err.Error(), "2 connections that were never released") {
			t.Errorf("Shutdown returned %v, which does not say what was leaked", err)
		}
	})
	if n := atRevocation.Load(); n != 0 {
		t.Errorf("%d sessions were left when Close revoked the lease", n)
	}
	s.checkNothingLeft(t)
	if _, err := alsoLeaked.Exec(t.Context(), "SELECT 1", 1); !isEnded(err) {
		t.Errorf("its next statement returned %v, which does not say why", err)
	}
	leaked.Release()
	alsoLeaked.Release()
}

// hazard 12: a transaction that lasts longer than a rotation is not disturbed.
func TestHazard12_LongTransaction(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	old := s.Rotator().Status().User
	tx, err := s.Begin(t.Context())
	check(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", rowName(t, 1))
	check(t, err)
	for range 3 {
		s.rotate(t)
	}
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", rowName(t, 2))
	check(t, err)
	if user := sessionUser(t, tx); user != old {
		t.Errorf("the transaction goes on as %s, where it began as %s", user, old)
	}
	s.events.Wait(t, rotation.Revoked, 2) // the others do not wait for it
	if !s.hasUser(t, old) {
		t.Error("its lease was revoked")
	}
	check(t, tx.Commit(t.Context()))
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
	if n := s.items(t, t.Name()+"%"); n != 2 {
		t.Errorf("%d rows were committed, not 2", n)
	}
}

// items counts rows of a shared table.
func (s *service) items(t *testing.T, like string) (n int) {
	t.Helper()
	check(t, s.bed.Postgres.Superuser.QueryRow(t.Context(), "SELECT count(*) FROM items WHERE name LIKE $1", like).Scan(&n))
	return n
}

// hazard 12: past the drain deadline its session is ended, then the lease revoked, and the error and an
// event say why.
func TestHazard12_TransactionPastDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: drainTimeout(300 * time.Millisecond)})
	old := s.Rotator().Status().User
	tx, err := s.Begin(t.Context())
	check(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", rowName(t, 1))
	check(t, err)
	atRevocation := s.atRevocation(t, tx)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if n := atRevocation.Load(); n != 0 {
		t.Errorf("%d sessions were left when the lease was revoked", n)
	}
	if e := s.events.Wait(t, rotation.DrainDeadline, 1); e.Connections != 1 {
		t.Errorf("the event counts %d connections at the deadline, not 1", e.Connections)
	}
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil || e.Connections != 1 {
		t.Errorf("sessions ended: %d, error %v", e.Connections, e.Err)
	}
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", rowName(t, 2))
	if !isEnded(err) {
		t.Errorf("the transaction's next statement returned %v, which does not say why", err)
	}
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("it could be committed")
	}
	if n := s.items(t, t.Name()+"%"); n != 0 {
		t.Errorf("%d of its rows are there", n)
	}
}

// hazard 34: PostgreSQL cannot drop a user who has a temporary table in a live session. Since the lease
// is revoked strictly after the last session, it never has to.
func TestHazard34_TemporaryTable(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	old := s.Rotator().Status().User
	held := s.acquire(t)
	_, err := held.Exec(t.Context(), "CREATE TEMPORARY TABLE mine (id int)")
	check(t, err)
	var released atomic.Bool
	s.vault.Before("sys/leases/revoke", func() {
		if !released.Load() {
			t.Error("the lease is revoked under a connection in use")
		}
	})
	s.rotate(t)
	if n := s.connections(1); n != 1 {
		t.Errorf("the engine counts %d connections, where one is in use", n)
	}
	_, err = held.Exec(t.Context(), "INSERT INTO mine VALUES (1)")
	check(t, err)
	released.Store(true)
	held.Release()
	s.waitRevoked(t, 1, old)
}

// hazard 49: at the drain deadline a statement is running, which would go on without its socket, and does
// not heed that it is cancelled: its session is gone before the lease is revoked, and what it wrote is not committed.
func TestHazard49_StatementPastDeadline(t *testing.T) {
	t.Parallel()
	statementPastDeadline(t, setup{configure: drainTimeout(500 * time.Millisecond)})
}

// The same where sessions take on another role than the one that has logged in, as those of users whose
// objects are to belong to somebody who stays do. That one may not end the sessions of this one.
func TestHazard49_StatementPastDeadline_AnotherRole(t *testing.T) {
	t.Parallel()
	statementPastDeadline(t, setup{params: "role=" + shared.Postgres.Database + "_rw", configure: drainTimeout(500 * time.Millisecond)})
}

func statementPastDeadline(t *testing.T, setup setup) {
	t.Helper()
	s := open(t, setup)
	old := s.Rotator().Status().User
	conn := s.acquire(t)
	atRevocation := s.atRevocation(t, conn)
	done := make(chan error, 1)
	tx, err := conn.Begin(t.Context())
	check(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", rowName(t, 1))
	check(t, err)
	go func() {
		_, err := tx.Exec(context.Background(), "SELECT stubborn_sleep($1)", 600)
		done <- err
	}()
	eventually(t, "the statement runs", func(ctx context.Context) bool {
		sessions, err := s.bed.Postgres.Sessions(ctx, old)
		check(t, err)
		return len(sessions) == 1 && sessions[0].State == "active" && strings.Contains(sessions[0].Query, "stubborn_sleep")
	})
	s.rotate(t)
	if err := receive(t, "the statement's end", done); !isEnded(err) {
		t.Errorf("the statement returned %v, which does not say why", err)
	}
	s.waitRevoked(t, 1, old)
	if n := atRevocation.Load(); n != 0 {
		t.Errorf("%d sessions were left when the lease was revoked", n)
	}
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil {
		t.Errorf("the sessions' end is not certain: %v", e.Err)
	}
	if n := s.items(t, t.Name()+"%"); n != 0 {
		t.Errorf("%d of its rows are there", n)
	}
}

// hazard 11: one that is given back at last, long after its socket was closed, is not handed out again.
func TestHazard11_GivenBackAfterTheDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=1", configure: drainTimeout(300 * time.Millisecond)})
	old := s.Rotator().Status().User
	leaked := s.acquire(t)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	// The pool stops looking at each connection a second after a rotation.
	time.Sleep(1500 * time.Millisecond)
	leaked.Release()
	if _, err := s.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the next caller was handed it: %v", err)
	}
}
