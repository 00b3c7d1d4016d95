package mysqlvault_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// Idle connections change their sessions in place: database/sql has as many as before, none was opened or
// closed, and each is of the new user.
func TestIdleConnectionsAreReplacedInPlace(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *mysqlvault.Config) { c.Rotation.DrainTimeout = 2 * time.Second }})
	s.fill(t, 5)
	before, old := s.Stats(), s.user()
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline)
	after := s.Stats()
	if after.OpenConnections != 5 || after.Idle != 5 || after.MaxIdleClosed != before.MaxIdleClosed {
		t.Errorf("database/sql has %+v", after)
	}
	for _, p := range s.sessions(t.Context(), t) {
		if p.user != s.user() {
			t.Errorf("a session of %s, not of %s", p.user, s.user())
		}
	}
	if n := len(s.sessions(t.Context(), t)); n != 5 {
		t.Errorf("%d sessions at the server", n)
	}
}

// A rotation that finds every connection in use, by short uses: the sessions are replaced as the
// connections come by, and no caller logs in, which would open a connection.
func TestSaturatedPoolIsReplacedWithoutLoginsOfCallers(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *mysqlvault.Config) { c.Rotation.DrainTimeout = 4 * time.Second }})
	const conns = 4
	s.SetMaxOpenConns(conns)
	s.fill(t, conns)
	stop, fails := make(chan struct{}), make(chan error, 100)
	var users sync.WaitGroup
	for range 3 * conns {
		users.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.ExecContext(t.Context(), "DO SLEEP(0.002)"); err != nil {
					fails <- err
					return
				}
			}
		})
	}
	for id := uint64(1); id <= 2; id++ {
		old := s.user()
		s.rotate(t)
		s.waitRevoked(t, id, old)
	}
	close(stop)
	users.Wait()
	close(fails)
	for err := range fails {
		t.Error(err)
	}
	s.events.None(t, rotation.DrainDeadline)
	if stats := s.Stats(); stats.OpenConnections != conns || stats.MaxIdleClosed+stats.MaxLifetimeClosed > 0 {
		t.Errorf("database/sql has %+v", stats)
	}
}

// hazard 17: a transaction keeps its session across a rotation and commits with it; a sql.Conn keeps its
// session too; a sql.Stmt goes on, on old and new sessions alike.
func TestHazard17_TxConnStmtAcrossRotation(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	ctx := t.Context()
	stmt, err := s.PrepareContext(ctx, "SELECT ? + 1")
	kit.Check(t, err)
	defer func() { kit.Check(t, stmt.Close()) }()
	add := func(q interface {
		QueryRowContext(context.Context, ...any) *sql.Row
	}, n int,
	) {
		t.Helper()
		var sum int
		kit.Check(t, q.QueryRowContext(ctx, n).Scan(&sum))
		if sum != n+1 {
			t.Errorf("%d + 1 is %d", n, sum)
		}
	}
	add(stmt, 1)
	var held []*sql.Conn // more that are in use, beside some that are idle
	for i := range 6 {
		c, err := s.Conn(ctx)
		kit.Check(t, err)
		_, err = c.ExecContext(ctx, "SET @kept = ?", i)
		kit.Check(t, err)
		held = append(held, c)
	}
	s.fill(t, 3)

	tx, err := s.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	kit.Check(t, err)
	_, err = tx.ExecContext(ctx, "INSERT INTO items (name) VALUES (?)", t.Name()+s.role.Name)
	kit.Check(t, err)
	conn, err := s.Conn(ctx)
	kit.Check(t, err)
	_, err = conn.ExecContext(ctx, "SET @kept = 42")
	kit.Check(t, err)
	old, id := s.user(), sessionID(t, tx)

	s.rotate(t)
	s.rotate(t)
	kit.Eventually(t, "what is idle is replaced", func(context.Context) bool { return s.connections(1) == len(held)+2 })
	for i, c := range held {
		var kept int
		kit.Check(t, c.QueryRowContext(ctx, "SELECT @kept").Scan(&kept))
		if kept != i || whoami(t, c) != old {
			t.Errorf("a connection was replaced while in use: @kept is %d, not %d", kept, i)
		}
		kit.Check(t, c.Close())
	}
	for i := range 10 {
		add(stmt, i)
	}
	if got := whoami(t, tx); got != old || sessionID(t, tx) != id {
		t.Errorf("the transaction is on a session of %s, where it began as %s", got, old)
	}
	add(tx.StmtContext(ctx, stmt), 5)
	kit.Check(t, tx.Commit())
	var kept, rows int
	kit.Check(t, conn.QueryRowContext(ctx, "SELECT @kept").Scan(&kept))
	if kept != 42 || whoami(t, conn) != old {
		t.Errorf("the connection was replaced while in use: @kept is %d", kept)
	}
	kit.Check(t, conn.Close())
	kit.Check(t, s.QueryRowContext(ctx, "SELECT count(*) FROM items WHERE name = ?", t.Name()+s.role.Name).Scan(&rows))
	if rows != 1 {
		t.Errorf("%d rows were committed", rows)
	}
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline)
	for i := range 10 {
		add(stmt, i)
	}
}

// hazard 51: a sql.Stmt used from many goroutines while sessions are exchanged under it, and closed and
// prepared anew meanwhile: no error, no deadlock, and no statement stays behind at the server.
func TestHazard51_StatementsAcrossReplacement(t *testing.T) {
	t.Parallel()
	type callers struct{}
	var paid atomic.Int64 // logins that callers waited for
	s := open(t, setup{configure: func(c *mysqlvault.Config) {
		c.Rotation.DrainTimeout = 6 * time.Second // callers do pay for the last half, if there are sessions left
		kit.Check(t, c.Apply(mysql.BeforeConnect(func(ctx context.Context, _ *mysql.Config) error {
			if ctx.Value(callers{}) != nil {
				paid.Add(1)
			}
			return nil
		})))
	}})
	s.SetMaxOpenConns(8)
	s.fill(t, 8)
	ctx := context.WithValue(t.Context(), callers{}, true)
	long, err := s.PrepareContext(ctx, "SELECT ? * 2")
	kit.Check(t, err)
	var stop atomic.Bool
	var users sync.WaitGroup
	var done atomic.Int64
	use := func(stmt *sql.Stmt) error {
		n, double := rand.IntN(1000), 0
		if err := stmt.QueryRowContext(ctx, n).Scan(&double); err != nil {
			return err
		}
		if double != 2*n {
			return fmt.Errorf("%d * 2 is %d", n, double)
		}
		done.Add(1)
		return nil
	}
	for i := range 12 {
		users.Go(func() {
			for !stop.Load() {
				err := use(long)
				if err == nil && i < 4 { // closes statements on idle connections, too
					var short *sql.Stmt
					if short, err = s.PrepareContext(ctx, "SELECT ? * 2"); err == nil {
						err = errors.Join(use(short), use(short), short.Close())
					}
				}
				if err != nil {
					t.Errorf("after %d uses: %v", done.Load(), err)
					return
				}
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			}
		})
	}
	for id := uint64(1); id <= 3; id++ {
		old := s.user()
		s.rotate(t)
		s.waitRevoked(t, id, old)
	}
	stop.Store(true)
	users.Wait()
	kit.Check(t, long.Close())
	if n := paid.Load(); n > 0 {
		t.Errorf("callers paid %d logins", n)
	}
	s.events.None(t, rotation.DrainDeadline)
	kit.Eventually(t, "no prepared statement on a session of ours", func(ctx context.Context) bool {
		total := 0
		for range s.Stats().OpenConnections {
			var name string
			var n int
			kit.Check(t, s.QueryRowContext(ctx, "SHOW SESSION STATUS LIKE 'Com_stmt_close'").Scan(&name, &n))
			closed := n
			kit.Check(t, s.QueryRowContext(ctx, "SHOW SESSION STATUS LIKE 'Com_stmt_prepare'").Scan(&name, &n))
			total += n - closed
		}
		return total == 0
	})
}

// blocked returns a statement that writes one row and then waits for a lock that is held until the end of
// the test. It takes no notice of a client that has gone, which SLEEP does after some seconds.
func blocked(t *testing.T) (statement string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	r, err := shared.MariaDB.Root.ExecContext(ctx, "INSERT INTO accounts (owner) VALUES (?)", t.Name())
	kit.Check(t, err)
	id, err := r.LastInsertId()
	kit.Check(t, err)
	holder, err := shared.MariaDB.Root.BeginTx(ctx, nil)
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, holder.Rollback()) })
	_, err = holder.ExecContext(ctx, "UPDATE accounts SET balance = 1 WHERE id = ?", id)
	kit.Check(t, err)
	return fmt.Sprintf("INSERT INTO items (name) SELECT concat(?, balance) FROM accounts WHERE id = %d FOR UPDATE", id)
}

// isBlocked reports whether a session of the user is executing what blocked returned.
func (s *service) isBlocked(t *testing.T, user string) bool {
	t.Helper()
	return slices.ContainsFunc(s.sessionsOf(t, user), func(p process) bool { return strings.Contains(p.info, "FOR UPDATE") })
}

// hazard 49: at the drain deadline a statement is running. Its session is gone before the revocation, what
// it wrote is rolled back, and its user is told why.
func TestHazard49_DeadlineWithStatementRunning(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *mysqlvault.Config) { c.Rotation.DrainTimeout = 300 * time.Millisecond }})
	failed := make(chan error, 2)
	statement := blocked(t)
	go func() { // autocommits when it is done, which must not happen
		_, err := s.ExecContext(t.Context(), statement, t.Name())
		failed <- err
	}()
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	_, err = tx.ExecContext(t.Context(), "INSERT INTO items (name) VALUES (?)", t.Name())
	kit.Check(t, err)
	old := s.user()
	kit.Eventually(t, "the statement runs", func(context.Context) bool { return s.isBlocked(t, old) })
	s.rotate(t)
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Connections != 2 || e.Err != nil {
		t.Errorf("ended: %d connections, error %v", e.Connections, e.Err)
	}
	s.waitRevoked(t, 1, old)
	if err := kit.Receive(t, "the statement's error", failed); !errors.Is(err, rotation.ErrEnded) {
		t.Errorf("the statement's error does not say why: %v", err)
	}
	if err := tx.Commit(); !errors.Is(err, rotation.ErrEnded) {
		t.Errorf("the commit's error does not say why: %v", err)
	}
	var rows int
	kit.Check(t, s.QueryRowContext(t.Context(), "SELECT count(*) FROM items WHERE name LIKE ?", t.Name()+"%").Scan(&rows))
	if rows != 0 {
		t.Errorf("%d rows of ended sessions were committed", rows)
	}
}

// A statement whose caller has gone runs on at the server, without a socket. It is ended before the lease
// is revoked, also where the DB is closed.
func TestAbandonedStatementsAreEnded(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rotation", "close"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, setup{})
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			statement := blocked(t)
			go func() {
				_, err := s.ExecContext(ctx, statement, t.Name())
				failed <- err
			}()
			old := s.user()
			running := func(context.Context) bool { return s.isBlocked(t, old) }
			kit.Eventually(t, "the statement runs", running)
			cancel()
			if err := kit.Receive(t, "the caller returns", failed); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller's error is %v", err)
			}
			if !running(t.Context()) {
				t.Fatal("the server has ended the statement by itself: the test proves nothing")
			}
			if name == "close" {
				kit.Check(t, s.Close())
				s.checkGone(t, old)
				return
			}
			s.rotate(t)
			s.waitRevoked(t, 1, old)
		})
	}
}
