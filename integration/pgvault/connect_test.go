package pgvault_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// acquired is the result of an Acquire in the background.
type acquired struct {
	conn *pgxpool.Conn
	err  error
}

func (s *service) acquireAside(ctx context.Context) <-chan acquired {
	done := make(chan acquired, 1)
	go func() {
		conn, err := s.Acquire(ctx)
		done <- acquired{conn, err}
	}()
	return done
}

// acquire returns a connection that is released at the end of the test at the latest.
func (s *service) acquire(t *testing.T) *pgxpool.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := s.Acquire(ctx)
	check(t, err)
	t.Cleanup(conn.Release)
	return conn
}

// stages are the places where a test can stop a connect, in their order.
var stages = []struct {
	name  string
	bound bool // the connection belongs to a generation by then
	stop  func(*pgvault.Config, func(context.Context) error)
}{
	{"BeforeConnect", false, func(c *pgvault.Config, pass func(context.Context) error) {
		c.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error { return pass(ctx) }
	}},
	{"LookupFunc", false, func(c *pgvault.Config, pass func(context.Context) error) {
		c.ConnConfig.LookupFunc = func(ctx context.Context, host string) ([]string, error) { return []string{host}, pass(ctx) }
	}},
	{"DialFunc", false, func(c *pgvault.Config, pass func(context.Context) error) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := pass(ctx); err != nil {
				return nil, err
			}
			return dial(ctx, network, addr)
		}
	}},
	{"AfterNetConnect", true, func(c *pgvault.Config, pass func(context.Context) error) {
		c.ConnConfig.AfterNetConnect = func(ctx context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
			return conn, pass(ctx)
		}
	}},
	{"ValidateConnect", true, func(c *pgvault.Config, pass func(context.Context) error) {
		c.ConnConfig.ValidateConnect = func(ctx context.Context, _ *pgconn.PgConn) error { return pass(ctx) }
	}},
	{"pgconn AfterConnect", true, func(c *pgvault.Config, pass func(context.Context) error) {
		c.ConnConfig.AfterConnect = func(ctx context.Context, _ *pgconn.PgConn) error { return pass(ctx) }
	}},
	{"AfterConnect", true, func(c *pgvault.Config, pass func(context.Context) error) {
		c.AfterConnect = func(ctx context.Context, _ *pgx.Conn) error { return pass(ctx) }
	}},
}

// hazard 1: a connection whose login spans a rotation is counted in the generation that it logs in
// with, which ends after it. Its caller has it, or a newer one.
func TestHazard01_AcquireSpansRotation(t *testing.T) {
	t.Parallel()
	for _, stage := range stages {
		t.Run(stage.name, func(t *testing.T) {
			t.Parallel()
			var g gate
			s := open(t, setup{configure: func(c *pgvault.Config) { stage.stop(c, g.Pass) }})
			old := s.Rotator().Status().User
			g.ShutFor(1)
			waiting := s.acquireAside(t.Context())
			g.Queue(t, 1)
			s.rotate(t)
			if stage.bound {
				if n := s.connections(1); n != 1 {
					t.Fatalf("the engine counts %d connections of the old generation, where one is logging in", n)
				}
			} else {
				s.waitRevoked(t, 1, old)
			}
			g.Open()
			got := receive(t, "Acquire", waiting)
			check(t, got.err)
			user := sessionUser(t, got.conn)
			if user == old && !s.hasUser(t, old) {
				t.Error("the old lease was revoked under a connection in use")
			}
			got.conn.Release()
			s.waitRevoked(t, 1, old)
			s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
		})
	}
}

// hazard 1: past the drain deadline such a connection does not reach the caller, who gets another.
func TestHazard01_AcquireSpansDeadline(t *testing.T) {
	t.Parallel()
	for _, stage := range stages {
		if !stage.bound {
			continue
		}
		t.Run(stage.name, func(t *testing.T) {
			t.Parallel()
			var g gate
			s := open(t, setup{configure: func(c *pgvault.Config) {
				c.Rotation.DrainTimeout = 100 * time.Millisecond
				stage.stop(c, g.Pass)
			}})
			old := s.Rotator().Status().User
			g.ShutFor(1)
			waiting := s.acquireAside(t.Context())
			g.Queue(t, 1)
			s.rotate(t)
			s.waitRevoked(t, 1, old)
			g.Open()
			got := receive(t, "Acquire", waiting)
			check(t, got.err)
			if user := sessionUser(t, got.conn); user == old {
				t.Errorf("logged in as %s, which is revoked", user)
			}
			got.conn.Release()
		})
	}
}

// hazard 2: a connection that MinIdleConns has dialled in the background across a rotation belongs to
// its true generation, and is replaced while it is idle.
func TestHazard02_MinConnsSpansRotation(t *testing.T) {
	t.Parallel()
	var g gate
	s := open(t, setup{
		params: "pool_min_idle_conns=1&pool_max_conns=4&pool_health_check_period=20ms",
		configure: func(c *pgvault.Config) {
			c.AfterConnect = func(ctx context.Context, _ *pgx.Conn) error { return g.Pass(ctx) }
		},
	})
	old := s.Rotator().Status().User
	held := s.acquire(t)
	eventually(t, "an idle connection", func(context.Context) bool { return s.Stat().IdleConns() == 1 })
	g.ShutFor(1)
	alsoHeld := s.acquire(t)
	g.Queue(t, 1) // of the background, for a third connection
	s.rotate(t)
	held.Release()
	alsoHeld.Release()
	eventually(t, "one connection left of the old generation", func(context.Context) bool { return s.connections(1) == 1 })
	if !s.hasUser(t, old) {
		t.Error("the old lease was revoked under a connection that is being made")
	}
	g.Open()
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// hazard 2: the same after its credential has died: it is never handed out.
func TestHazard02_MinConnsOfDeadGeneration(t *testing.T) {
	t.Parallel()
	var g gate
	s := open(t, setup{
		params: "pool_min_idle_conns=1&pool_max_conns=4&pool_health_check_period=20ms",
		configure: func(c *pgvault.Config) {
			c.AfterConnect = func(ctx context.Context, _ *pgx.Conn) error { return g.Pass(ctx) }
		},
	})
	old := s.Rotator().Status().User
	held := s.acquire(t)
	eventually(t, "an idle connection", func(context.Context) bool { return s.Stat().IdleConns() == 1 })
	g.ShutFor(1)
	alsoHeld := s.acquire(t)
	g.Queue(t, 1)
	s.dropRole(t, old)
	third := s.acquire(t) // is refused, and waits for the rotation
	if third.Conn().Config().User == old {
		t.Fatalf("logged in as %s, which is dropped", old)
	}
	g.Open()
	for range 50 {
		fourth := s.acquire(t)
		if user := fourth.Conn().Config().User; user == old {
			t.Fatalf("handed out a connection of %s, whose credential is dead", user)
		}
		fourth.Release()
	}
	held.Release()
	alsoHeld.Release()
	s.waitRevoked(t, 1, old)
}

// hazard 5: whatever fails in a connect, nothing stays counted, and rotation goes on.
func TestHazard05_FailedConnects(t *testing.T) {
	t.Parallel()
	failure := errors.New("the test fails it")
	for _, stage := range stages {
		t.Run(stage.name, func(t *testing.T) {
			t.Parallel()
			var broken atomic.Bool
			s := open(t, setup{configure: func(c *pgvault.Config) {
				stage.stop(c, func(context.Context) error {
					if broken.Load() {
						return failure
					}
					return nil
				})
			}})
			broken.Store(true)
			for range 5 {
				if _, err := s.Acquire(t.Context()); !errors.Is(err, failure) {
					t.Fatalf("Acquire returned %v", err)
				}
			}
			s.checkHealthyAfterFailures(t)
			broken.Store(false)
			s.checkRotates(t)
		})
	}
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		s := prepare(t, setup{})
		s.config.ConnConfig.TLSConfig = tlsFor(t, "127.0.0.1") // this server has none
		s.config.ConnConfig.Fallbacks = nil
		s.start(t)
		for range 5 {
			if _, err := s.Acquire(t.Context()); err == nil {
				t.Fatal("Acquire succeeded without TLS")
			}
		}
		s.checkHealthyAfterFailures(t)
	})
	t.Run("authentication", func(t *testing.T) {
		t.Parallel()
		s := open(t, setup{params: "pool_max_conns=1"})
		s.dropRole(t, s.Rotator().Status().User)
		s.acquire(t).Release()
		s.events.Wait(t, rotation.Revoked, 1)
		eventually(t, "one connection counted", func(context.Context) bool { return s.connections(2) == 1 })
	})
}

// checkHealthyAfterFailures: no connection is left, at no place that counts them.
func (s *service) checkHealthyAfterFailures(t *testing.T) {
	t.Helper()
	eventually(t, "no connection counted", func(ctx context.Context) bool {
		return s.connections(1) == 0 && s.Stat().TotalConns() == 0 && s.sessions(ctx, t) == 0
	})
	s.events.None(t, rotation.LoginRefused)
}

// checkRotates: the pool serves, rotates, and gives the old lease back.
func (s *service) checkRotates(t *testing.T) {
	t.Helper()
	old := sessionUser(t, s)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if user := sessionUser(t, s); user == old {
		t.Errorf("still logged in as %s", user)
	}
}
