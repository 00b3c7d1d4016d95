package pgvault_test

import (
	"context"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// calls counts how often each hook of a user's ran.
type calls struct {
	mu sync.Mutex // guards n
	n  map[string]int
}

func (c *calls) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[name]++
}

func (c *calls) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// userTracer is every tracer that pgx and pgxpool know.
type userTracer struct{ *calls }

func (u userTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	u.add("TraceQueryStart")
	return ctx
}

func (u userTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	u.add("TraceQueryEnd")
}

func (u userTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	u.add("TraceBatchStart")
	return ctx
}

func (u userTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {
	u.add("TraceBatchQuery")
}

func (u userTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {
	u.add("TraceBatchEnd")
}

func (u userTracer) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	u.add("TraceCopyFromStart")
	return ctx
}

func (u userTracer) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {
	u.add("TraceCopyFromEnd")
}

func (u userTracer) TracePrepareStart(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareStartData) context.Context {
	u.add("TracePrepareStart")
	return ctx
}

func (u userTracer) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {
	u.add("TracePrepareEnd")
}

func (u userTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	u.add("TraceConnectStart")
	return ctx
}

func (u userTracer) TraceConnectEnd(context.Context, pgx.TraceConnectEndData) {
	u.add("TraceConnectEnd")
}

func (u userTracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	u.add("TraceAcquireStart")
	return ctx
}

func (u userTracer) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {
	u.add("TraceAcquireEnd")
}
func (u userTracer) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData) { u.add("TraceRelease") }

// hookAll sets every hook there is, but for PrepareConn and BeforeAcquire, of which pgxpool calls one.
func hookAll(c *pgvault.Config, u *calls) {
	c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { u.add("BeforeConnect"); return nil }
	c.AfterConnect = func(context.Context, *pgx.Conn) error { u.add("AfterConnect"); return nil }
	c.AfterRelease = func(*pgx.Conn) bool { u.add("AfterRelease"); return true }
	c.BeforeClose = func(*pgx.Conn) { u.add("BeforeClose") }
	c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { u.add("ShouldPing"); return false }
	conn := c.ConnConfig
	conn.Tracer = userTracer{u}
	dial, lookup := conn.DialFunc, conn.LookupFunc
	conn.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		u.add("DialFunc")
		return dial(ctx, network, addr)
	}
	conn.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		u.add("LookupFunc")
		return lookup(ctx, host)
	}
	conn.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		u.add("AfterNetConnect")
		return conn, nil
	}
	conn.ValidateConnect = func(context.Context, *pgconn.PgConn) error { u.add("ValidateConnect"); return nil }
	conn.AfterConnect = func(context.Context, *pgconn.PgConn) error { u.add("pgconn AfterConnect"); return nil }
	conn.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { u.add("OnNotice") }
	conn.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { u.add("OnNotification") }
}

// useEverything makes every hook of a connection in use run.
func (s *service) useEverything(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	conn := s.acquire(t)
	defer conn.Release()
	for _, sql := range []string{"DO $$ BEGIN RAISE NOTICE 'hello'; END $$", "LISTEN hooks", "NOTIFY hooks", "UNLISTEN hooks"} {
		_, err := conn.Exec(ctx, sql)
		check(t, err)
	}
	_, err := conn.Conn().Prepare(ctx, "one", "SELECT 1")
	check(t, err)
	check(t, conn.Conn().Deallocate(ctx, "one"))
	b := &pgx.Batch{}
	b.Queue("SELECT 1")
	check(t, conn.SendBatch(ctx, b).Close())
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"name"}, pgx.CopyFromRows([][]any{{t.Name()}}))
	check(t, err)
}

// hazard 4: the user's hooks and tracers run, before and after a rotation, as often as they would
// without us: our own taking and giving back of idle connections shows in none.
func TestHazard04_EveryHookRuns(t *testing.T) {
	t.Parallel()
	for _, acquireHook := range []string{"PrepareConn", "BeforeAcquire"} {
		t.Run(acquireHook, func(t *testing.T) {
			t.Parallel()
			u := &calls{}
			s := open(t, setup{params: "pool_max_conns=3", configure: func(c *pgvault.Config) {
				hookAll(c, u)
				if acquireHook == "PrepareConn" {
					c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { u.add(acquireHook); return true, nil }
				} else {
					c.BeforeAcquire = func(context.Context, *pgx.Conn) bool { u.add(acquireHook); return true }
				}
			}})
			uses := 0
			for generation := range uint64(3) {
				before := u.counts()
				inUse := []*pgxpool.Conn{s.acquire(t), s.acquire(t)}
				for _, c := range inUse {
					if c.Conn().Config().Tracer != (userTracer{u}) {
						t.Errorf("the connection's tracer is a %T, not the user's", c.Conn().Config().Tracer)
					}
					c.Release()
				}
				s.useEverything(t)
				uses += 3
				s.rotate(t)
				s.events.Wait(t, rotation.Revoked, generation+1)
				after := u.counts()
				if len(after) != 27 {
					t.Errorf("%d hooks ran, not all 27: %v", len(after), after)
				}
				for name, n := range after {
					if n <= before[name] {
						t.Errorf("%s did not run with generation %d", name, generation+1)
					}
				}
			}
			s.Close()
			n := u.counts()
			equal(t, n, "connects", n["BeforeConnect"], "LookupFunc", "DialFunc", "AfterNetConnect", "pgconn AfterConnect",
				"TraceConnectStart", "TraceConnectEnd", "AfterConnect", "BeforeClose")
			equal(t, n, "uses", uses, acquireHook, "AfterRelease", "TraceAcquireStart", "TraceAcquireEnd", "TraceRelease")
		})
	}
}

func equal(t *testing.T, n map[string]int, what string, want int, names ...string) {
	t.Helper()
	for _, name := range names {
		if n[name] != want {
			t.Errorf("%s ran %d times, where there were %d %s", name, n[name], want, what)
		}
	}
}

// hazard 55: a hook that panics fails its connection, and nothing else.
func TestHazard55_HookPanics(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*pgvault.Config, func()){
		"BeforeConnect": func(c *pgvault.Config, f func()) {
			c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { f(); return nil }
		},
		"AfterConnect": func(c *pgvault.Config, f func()) {
			c.AfterConnect = func(context.Context, *pgx.Conn) error { f(); return nil }
		},
		"PrepareConn": func(c *pgvault.Config, f func()) {
			c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { f(); return true, nil }
		},
		"BeforeAcquire": func(c *pgvault.Config, f func()) {
			c.BeforeAcquire = func(context.Context, *pgx.Conn) bool { f(); return true }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var once sync.Once
			s := open(t, setup{configure: func(c *pgvault.Config) {
				armed := make(chan struct{}, 1)
				armed <- struct{}{} // New's own login passes
				set(c, func() {
					select {
					case <-armed:
					default:
						once.Do(func() { panic("a user's mistake") })
					}
				})
			}})
			var err error
			for range 2 { // New does not prepare
				if _, err = s.Exec(t.Context(), "SELECT 1"); err != nil {
					break
				}
			}
			if err == nil {
				t.Fatal("the hook panicked, and the caller was told nothing")
			}
			s.checkRotates(t)
		})
	}
}

// hazard 55: a hook that hangs, deaf to its context, holds up those who wait for it. Rotation goes on,
// and Close keeps its bound.
func TestHazard55_HookHangs(t *testing.T) {
	t.Parallel()
	var g gate
	s := open(t, setup{
		role: leaseOf(16*time.Second, time.Hour, noRenewal), params: "pool_max_conns=4",
		configure: func(c *pgvault.Config) {
			c.Rotation.ProbeTimeout = 200 * time.Millisecond
			c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return g.Pass(context.Background()) }
		},
	})
	t.Cleanup(func() { g.Open() })
	check(t, s.Ping(t.Context()))
	g.Shut()
	s.events.Wait(t, rotation.Published, 2) // shortly before the old one ends, although no login could be tried
	s.events.None(t, rotation.CredentialLost)
	within(t, 3*time.Second, "Shutdown", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx) // what it says is not the point here
	})
	g.Open()
	s.waitNothingLeft(t)
}

// hazard 55: a caller that hangs in PrepareConn has a connection, which is ended at the drain deadline as
// any other that is in use. The caller gets another one.
func TestHazard55_PrepareConnHangs(t *testing.T) {
	t.Parallel()
	var g gate
	s := open(t, setup{params: "pool_max_conns=4", configure: func(c *pgvault.Config) {
		c.Rotation.DrainTimeout = 300 * time.Millisecond
		c.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
			_ = g.Pass(context.Background())
			return !conn.IsClosed(), nil
		}
	}})
	t.Cleanup(g.Open)
	old := s.Rotator().Status().User
	g.ShutFor(1)
	hanging := s.acquireAside(t.Context())
	g.Queue(t, 1)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	check(t, s.Ping(t.Context()))
	g.Open()
	got := receive(t, "Acquire", hanging)
	check(t, got.err)
	got.conn.Release()
}

// hazard 55: a subscriber that hangs or panics stops neither rotation nor the other subscribers.
func TestHazard55_SubscriberHangsOrPanics(t *testing.T) {
	t.Parallel()
	var g gate
	s := open(t, setup{configure: func(c *pgvault.Config) { c.Rotation.CloseTimeout = 2 * time.Second }})
	t.Cleanup(g.Open)
	g.Shut()
	s.Rotator().Subscribe(func(rotation.Event) { _ = g.Pass(context.Background()) })
	s.Rotator().Subscribe(func(rotation.Event) { panic("a user's mistake") })
	for id := range uint64(3) {
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id+1)
	}
	if n := len(s.events.Of(rotation.SubscriberFailed, 0)); n != 1 {
		t.Errorf("%d subscribers were reported to have failed, not 1", n)
	}
	within(t, 2*time.Second, "Close", s.Close)
}

// hazard 4: the user's AfterNetConnect may wrap the socket in something that shows nothing of it. The
// connection is counted, replaced and kept from callers as any other.
func TestHazard04_WrappedSocket(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=4", configure: func(c *pgvault.Config) {
		c.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
			return struct{ net.Conn }{conn}, nil
		}
	}})
	s.fill(t)
	if n := s.connections(1); n != 4 {
		t.Errorf("the engine counts %d connections, not 4", n)
	}
	s.checkRotates(t)
	second := s.Rotator().Status().User
	held := s.acquire(t)
	s.dropRole(t, second)
	s.Reset() // what is idle goes, so that somebody has to log in
	check(t, s.Ping(t.Context()))
	held.Release()
	for range 20 {
		conn := s.acquire(t)
		if user := conn.Conn().Config().User; user == second {
			t.Fatalf("handed out a connection of %s, whose credential is dead", user)
		}
		conn.Release()
	}
	s.events.Wait(t, rotation.Revoked, 2)
}
