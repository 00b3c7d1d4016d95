package mysqlvault_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 13: a pool that is full of dead connections, all idle, more callers than connections: each gets
// one, none sees ErrBadConn, none waits for ever.
func TestHazard13_DeadIdleConnectionsAtMaxOpen(t *testing.T) {
	t.Parallel()
	var hold kit.Gate
	s := open(t, setup{configure: func(c *mysqlvault.Config) { c.DialFunc = gated(&hold) }})
	const conns = 5
	s.SetMaxOpenConns(conns)
	s.fill(t, conns)
	old := s.user()
	dropUser(t, old)
	// One connection more than the pool has discovers it: through the pool's own door, but by our hand.
	s.SetMaxOpenConns(conns + 1)
	var held []*sql.Conn
	for range conns + 1 { // the last one logs in, is refused, and is there all the same
		c, err := s.Conn(t.Context())
		kit.Check(t, err)
		held = append(held, c)
	}
	s.SetMaxOpenConns(conns)
	hold.ShutAfter(0, 1000) // the background is not to replace them before the callers come
	for _, c := range held {
		kit.Check(t, c.Close())
	}
	hold.Open()
	var callers sync.WaitGroup
	for range 4 * conns {
		callers.Go(func() {
			for range 20 {
				if user := whoamiErr(t.Context(), s); user != "" && strings.HasPrefix(user, "error") || user == old {
					t.Errorf("a caller got: %s", user)
					return
				}
			}
		})
	}
	callers.Wait()
	s.waitRevoked(t, 1, old)
	if n := len(s.events.Of(rotation.Published, 0)); n != 1 {
		t.Errorf("%d rotations", n)
	}
}

func whoamiErr(ctx context.Context, q querier) (user string) {
	if err := q.QueryRowContext(ctx, "SELECT substring_index(user(), '@', 1)").Scan(&user); err != nil {
		return fmt.Sprintf("error %v", err)
	}
	return user
}

// hazard 14: a connection that database/sql opened in the background for a caller who did not wait for it
// goes idle without any hook being called. Dead, it does not reach a caller.
func TestHazard14_BackgroundConnectionIsCheckedOnFirstUse(t *testing.T) {
	t.Parallel()
	var dialling kit.Gate
	s := open(t, setup{
		role:      testbed.RoleOptions{DefaultTTL: 8 * time.Second},
		configure: func(c *mysqlvault.Config) { c.DialFunc = gated(&dialling) },
	})
	s.SetMaxOpenConns(1)
	first, err := s.Conn(t.Context())
	kit.Check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- s.PingContext(ctx) }()
	kit.Eventually(t, "the second caller waits", func(context.Context) bool { return s.Stats().WaitCount == 1 })
	dialling.Shut()
	_ = first.Raw(func(any) error { return driver.ErrBadConn }) // its place is free: the opener dials
	_ = first.Close()
	dialling.Queue(t, 1)
	cancel()
	_ = kit.Receive(t, "the second caller gives up", failed)
	dialling.Open()
	kit.Eventually(t, "the connection lies idle", func(context.Context) bool { return s.Stats().Idle == 1 })
	old := s.user()
	dialling.ShutAfter(1, 1000) // the probe passes, and nothing replaces the connection in the background
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	kit.Check(t, shared.Vault.Client.Sys().RevokeWithContext(t.Context(), leases[0]))
	s.events.Wait(t, rotation.Draining, 1) // the renewal has found the lease gone: it is dead, its session lives
	got := make(chan string, 1)
	go func() { got <- whoamiErr(context.WithoutCancel(t.Context()), s) }()
	dialling.Queue(t, 2) // the replacement, and the caller, who does not get what lies there
	dialling.Open()
	if user := kit.Receive(t, "the caller", got); user != s.user() || user == old {
		t.Errorf("the caller got: %s", user)
	}
	s.waitRevoked(t, 1, old)
}

// hazard 16: the server kills idle connections. The driver's liveness check sees it through our socket,
// and database/sql tries again: no caller sees it.
func TestHazard16_IdleConnectionsKilledByTheServer(t *testing.T) {
	t.Parallel()
	for name, params := range map[string]string{"plain": "", "TLS": "tls=skip-verify"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, setup{params: params})
			s.SetMaxOpenConns(2)
			for range 3 {
				s.fill(t, 2)
				for _, p := range s.sessions(t.Context(), t) {
					execute(t, "KILL %d", p.id)
				}
				kit.Eventually(t, "they are gone", func(ctx context.Context) bool { return len(s.sessions(ctx, t)) == 0 })
				for range 3 { // not repeated by the driver: it would not know whether it was done
					_, err := s.ExecContext(t.Context(), "INSERT INTO items (name) VALUES ('after a kill')")
					kit.Check(t, err)
				}
			}
		})
	}
}

// hazards 11 and 18: DB.Close with rows open and a connection leaked waits for them, for half its time, and
// then ends them; nothing is revoked before.
func TestHazard18_CloseWithRowsOpen(t *testing.T) {
	t.Parallel()
	t.Run("released in time", func(t *testing.T) {
		t.Parallel()
		s := open(t, setup{})
		rows, err := s.QueryContext(t.Context(), "SELECT name FROM items UNION ALL SELECT 'last'")
		kit.Check(t, err)
		old := s.user()
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		kit.Eventually(t, "it is closing", func(ctx context.Context) bool { return s.PingContext(ctx) != nil })
		if users, err := s.role.Users(t.Context()); err != nil || !slices.Contains(users, old) {
			t.Errorf("users while rows are open: %v, error %v", users, err)
		}
		n := 0
		for rows.Next() {
			n++
		}
		kit.Check(t, errors.Join(rows.Err(), rows.Close()))
		if n == 0 {
			t.Error("no rows")
		}
		kit.Check(t, kit.Receive(t, "Close", closed))
	})
	t.Run("leaked", func(t *testing.T) {
		t.Parallel()
		s := open(t, setup{mayReport: true, configure: func(c *mysqlvault.Config) { c.Rotation.CloseTimeout = 2 * time.Second }})
		leaked, err := s.Conn(t.Context())
		kit.Check(t, err)
		kit.Check(t, leaked.PingContext(t.Context()))
		kit.Within(t, 2*time.Second, "Close", func() {
			if err := s.Close(); err == nil || !strings.Contains(err.Error(), "1 connections were still in use") {
				t.Errorf("Close says: %v", err)
			}
		})
		s.checkNothingLeft(t)
		if err := leaked.PingContext(t.Context()); err == nil {
			t.Error("the leaked connection is alive")
		}
	})
}

// hazards 35 and 43: the user is dropped under load. The first refused login rotates, once, however many
// notice, and no call fails.
func TestHazard35_UserDroppedUnderLoad(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	s.SetMaxIdleConns(2) // so that connections are opened all the time
	stop := make(chan struct{})
	var calls atomic.Int64
	var callers sync.WaitGroup
	for range 12 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.PingContext(t.Context()); err != nil {
					t.Errorf("after %d calls: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	kit.Eventually(t, "the load runs", func(context.Context) bool { return calls.Load() > 100 })
	dropUser(t, s.user())
	s.events.Wait(t, rotation.Published, 2)
	s.events.Wait(t, rotation.Revoked, 1)
	seen := calls.Load()
	kit.Eventually(t, "the load goes on", func(context.Context) bool { return calls.Load() > seen+100 })
	close(stop)
	callers.Wait()
	if n := len(s.events.Of(rotation.Published, 0)); n != 1 {
		t.Errorf("%d rotations", n)
	}
}

// sql.Open starts with the first call, within that call's context. However many callers give up, the one
// issue under way goes on and serves.
func TestLazyStart(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	db, err := sql.Open("mysqlvault", s.dsn)
	kit.Check(t, err)
	closed := false
	defer func() {
		if !closed {
			_ = db.Close()
		}
	}()
	if n := len(s.vault.Asked("")); n != 0 {
		t.Errorf("sql.Open sent %d requests", n)
	}
	answer := s.vault.Hold(s.role.CredsPath)
	for range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := db.PingContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller in a hurry got: %v", err)
		}
		cancel()
	}
	answer.Open()
	kit.Check(t, db.PingContext(t.Context()))
	if n := len(s.vault.Asked(s.role.CredsPath)); n != 1 {
		t.Errorf("%d credentials were issued", n)
	}
	r := mysqlvault.RotatorOf(db)
	if r == nil || !r.Status().Usable {
		t.Fatalf("the rotator of the DB: %v", r)
	}
	kit.Check(t, r.Rotate(t.Context()))
	kit.Check(t, db.Close())
	closed = true
	s.checkNothingLeft(t)
}

// A path that Vault denies fails the calls at once, with what Vault says, and the DB works when that is
// repaired.
func TestLazyStart_Denied(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	s.vault.Rewrite(s.role.CredsPath, `"username"`, `"nobody"`)
	db, err := sql.Open("mysqlvault", s.dsn)
	kit.Check(t, err)
	defer func() { kit.Check(t, db.Close()); s.checkNothingLeft(t) }()
	var none *rotation.NoCredentialError
	if err := db.PingContext(t.Context()); !errors.As(err, &none) || !strings.Contains(err.Error(), "username") {
		t.Errorf("the error: %v", err)
	}
	s.vault.Heal()
	kit.Eventually(t, "it works", func(ctx context.Context) bool { return db.PingContext(ctx) == nil })
}
