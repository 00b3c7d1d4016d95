//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"database/sql"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

var drainCases = []testCase{
	{name: "Hazard06_HeldUntilClosed", run: heldUntilClosed},
	{name: "Hazard06_11_LeakedConnection", run: leakedConnection},
	{name: "Hazard06_TakenAndNotUsed", run: takenAndNotUsed},
	{name: "Hazard11_GivenBackAfterTheDeadline", run: givenBackAfterTheDeadline},
	{name: "Hazard12_LongTransaction", run: longTransaction},
	{name: "Hazard12_TransactionPastDeadline", run: transactionPastDeadline},
	{name: "Hazard34_RevokedAfterTheLastSession", run: revokedAfterTheLastSession},
	{name: "Hazard49_StatementPastDeadline", run: statementPastDeadline},
	{name: "Hazard58_SessionState", run: sessionState},
	{name: "Hazard58_SessionStatePastDeadline", run: sessionStatePastDeadline},
}

// briefly is a drain window that is over soon.
var briefly = rotation.Config{DrainTimeout: 500 * time.Millisecond, CloseTimeout: 4 * time.Second}

// checkEnded waits until a generation is revoked whose connections had to be ended: so many.
func (s *service) checkEnded(t *testing.T, user string, conns int, atRevocation *atomic.Int64) {
	t.Helper()
	s.waitRevoked(t, 1, user)
	if n := atRevocation.Load(); n != 0 {
		t.Errorf("%d sessions were left when the lease was revoked", n)
	}
	if e := s.events.Wait(t, rotation.DrainDeadline, 1); e.Connections != conns {
		t.Errorf("the event counts %d connections at the deadline, not %d", e.Connections, conns)
	}
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil || e.Connections != conns {
		t.Errorf("sessions ended: %d, not %d; error %v", e.Connections, conns, e.Err)
	}
}

// use returns the error of a connection's next statement.
func (s *service) use(q querier) error {
	_, err := q.ExecContext(context.Background(), s.a.Server.sleep, 0)
	return err
}

// A connection in use is counted until it is given back, and only then is its lease revoked.
func heldUntilClosed(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	conn := s.conn(t)
	old, _ := s.whoAmI(t, conn)
	s.rotate(t)
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 2) // and the first not before
	if g, ok := s.generation(1); !ok || g.Connections != 1 || g.State != rotation.StateDraining || !s.hasUser(t, old) {
		t.Errorf("with a connection in use, its generation is %+v", g)
	}
	if user, _ := s.whoAmI(t, conn); user != old {
		t.Errorf("the connection in use is of %s, not %s", user, old)
	}
	kit.Check(t, conn.Close())
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// Connections that are taken and given back without any use, while they are replaced, end like others.
func takenAndNotUsed(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	old := s.user()
	var conns []*sql.Conn
	for range 5 {
		conns = append(conns, s.conn(t))
	}
	s.rotate(t)
	for _, conn := range conns {
		kit.Check(t, conn.Close())
	}
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// A connection that its caller never gives back holds up neither rotation nor closing for ever: at their deadline
// its session is ended, and then the lease revoked.
func leakedConnection(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: briefly, mayReport: true})
	leaked := s.conn(t)
	user, id := s.whoAmI(t, leaked)
	left := s.atRevocation(t, user, id)
	s.rotate(t)
	s.checkEnded(t, user, 1, left)
	kit.Check(t, s.PingContext(t.Context())) // others are not touched

	alsoLeaked := s.conn(t)
	user, id = s.whoAmI(t, alsoLeaked)
	s.vault.Heal()
	left = s.atRevocation(t, user, id)
	var err error
	kit.Within(t, 10*time.Second, "Close", func() { err = s.close() })
	if err == nil || !strings.Contains(err.Error(), "1 connections were still in use") {
		t.Errorf("Close returned %v, which does not say what was leaked", err)
	}
	if n := left.Load(); n != 0 {
		t.Errorf("%d sessions were left when Close revoked the lease", n)
	}
	s.checkNothingLeft(t)
	for _, conn := range []querier{leaked, alsoLeaked} {
		if err := s.use(conn); !a.Ended(err) {
			t.Errorf("its next statement returned %v, which does not say why", err)
		}
	}
}

// One that is given back at last, long after its session was ended, is not handed out again, and closing says nothing
// of it.
func givenBackAfterTheDeadline(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: briefly, maxConns: 1})
	leaked := s.conn(t)
	old, _ := s.whoAmI(t, leaked)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	kit.Check(t, leaked.Close())
	if user, _ := s.whoAmI(t, s); user == old {
		t.Errorf("handed out a connection of %s", user)
	}
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 2)
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
}

// A transaction that lasts longer than rotations is not disturbed.
func longTransaction(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	old := s.user()
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	defer func() { _ = tx.Rollback() }()
	s.insert(t, tx, t.Name()+" 1")
	for range 3 {
		s.rotate(t)
	}
	s.insert(t, tx, t.Name()+" 2")
	if user, _ := s.whoAmI(t, tx); user != old {
		t.Errorf("the transaction goes on as %s, where it began as %s", user, old)
	}
	s.events.Wait(t, rotation.Revoked, 2) // the others do not wait for it
	if !s.hasUser(t, old) {
		t.Error("its lease was revoked")
	}
	kit.Check(t, tx.Commit())
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
	if n := s.items(t, t.Name()+"%"); n != 2 {
		t.Errorf("%d rows were committed, not 2", n)
	}
}

// Past the drain deadline its session is ended, then the lease revoked, and the error and an event say why.
func transactionPastDeadline(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: briefly})
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	s.insert(t, tx, t.Name())
	user, id := s.whoAmI(t, tx)
	left := s.atRevocation(t, user, id)
	s.rotate(t)
	s.checkEnded(t, user, 1, left)
	if err := s.use(tx); !a.Ended(err) {
		t.Errorf("the transaction's next statement returned %v, which does not say why", err)
	}
	if err := tx.Commit(); err == nil {
		t.Error("it could be committed")
	}
	if n := s.items(t, t.Name()+"%"); n != 0 {
		t.Errorf("%d of its rows are there", n)
	}
}

// The lease is revoked strictly after the last connection was given back.
func revokedAfterTheLastSession(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	s.fill(t, 5)
	held := s.conn(t)
	old, _ := s.whoAmI(t, held)
	var released atomic.Bool
	s.vault.Before("sys/leases/revoke", func() {
		if !released.Load() {
			t.Error("the lease is revoked under a connection in use")
		}
	})
	s.rotate(t)
	s.waitConnections(t, 1)
	kit.Check(t, s.use(held))
	released.Store(true)
	kit.Check(t, held.Close())
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// At the drain deadline statements are running, which the server would go on with: their sessions are gone before the
// lease is revoked, and what they wrote is not committed.
func statementPastDeadline(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: briefly})
	conn := s.conn(t)
	old, statement := s.whoAmI(t, conn)
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	s.insert(t, tx, t.Name())
	_, transaction := s.whoAmI(t, tx)
	left := s.atRevocation(t, old, statement, transaction)
	failed := make(chan error, 1)
	go func() { // commits by itself when it is done, which must not happen
		_, err := conn.ExecContext(context.Background(), a.Server.insertSlow, t.Name())
		failed <- err
	}()
	kit.Eventually(t, "the statement runs", func(ctx context.Context) bool {
		sessions, err := a.Server.sessions(ctx, old)
		kit.Check(t, err)
		for _, session := range sessions {
			if session.PID == statement && session.State != "idle" && strings.Contains(session.Query, "sleep(300)") {
				return true
			}
		}
		return false
	})
	s.rotate(t)
	if err := kit.Receive(t, "the statement's end", failed); !a.Ended(err) {
		t.Errorf("the statement returned %v, which does not say why", err)
	}
	s.checkEnded(t, old, 2, left)
	if err := tx.Commit(); err == nil {
		t.Error("the transaction could be committed")
	}
	if n := s.items(t, t.Name()+"%"); n != 0 {
		t.Errorf("%d rows of ended sessions are there", n)
	}
}

// lock tries to take the case's lock.
func (s *service) lock(t *testing.T, q querier, number int64) bool {
	t.Helper()
	got := 0
	kit.Check(t, q.QueryRowContext(t.Context(), s.a.Server.tryLock, number).Scan(&got))
	return got == 1
}

// What a session holds it keeps while it drains.
func sessionState(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: rotation.Config{DrainTimeout: time.Minute}})
	s.fill(t, 5) // the others are replaced
	number := time.Now().UnixNano()
	conn := s.conn(t)
	old, _ := s.whoAmI(t, conn)
	_, err := conn.ExecContext(t.Context(), a.Server.setState)
	kit.Check(t, err)
	if !s.lock(t, conn, number) {
		t.Fatal("the lock is taken")
	}
	s.rotate(t)
	s.waitConnections(t, 1)
	s.rotate(t)
	kept := 0
	kit.Check(t, conn.QueryRowContext(t.Context(), a.Server.getState).Scan(&kept))
	if kept != 42 {
		t.Errorf("what was set is %d", kept)
	}
	if s.lock(t, s.conn(t), number) {
		t.Error("the lock was given up while its connection is in use")
	}
	kit.Check(t, conn.Close())
	s.waitRevoked(t, 1, old)
	if !s.lock(t, s.conn(t), number) {
		t.Error("the lock is held by nobody")
	}
}

// At the drain deadline it ends with the session.
func sessionStatePastDeadline(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: briefly})
	number := time.Now().UnixNano()
	conn := s.conn(t)
	old, id := s.whoAmI(t, conn)
	if !s.lock(t, conn, number) {
		t.Fatal("the lock is taken")
	}
	left := s.atRevocation(t, old, id)
	s.rotate(t)
	s.checkEnded(t, old, 1, left)
	if !s.lock(t, s.conn(t), number) {
		t.Error("the lock is held by nobody")
	}
}
