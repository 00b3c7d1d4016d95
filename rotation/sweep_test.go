package rotation

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sweeper is a fakePool whose server goes on without sockets.
type sweeper struct {
	fakePool
	swept   []uint64 // generations, in order; guarded by fakePool.mu
	onSweep func(ctx context.Context, g *Generation) error
}

func (s *sweeper) Sweep(ctx context.Context, g *Generation) error {
	s.mu.Lock()
	s.swept = append(s.swept, g.ID())
	hook := s.onSweep
	s.mu.Unlock()
	if hook != nil {
		return hook(ctx, g)
	}
	return nil
}

func (s *sweeper) sweeps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.swept)
}

func (g *rig) sweeper(name string) *sweeper {
	g.t.Helper()
	s := &sweeper{fakePool: fakePool{w: g.w, name: name}}
	if _, err := g.r.Attach(s); err != nil {
		g.t.Fatalf("Attach: %v", err)
	}
	g.pools = append(g.pools, &s.fakePool)
	return s
}

// When the last socket is gone, and before the lease is revoked, what has no socket is ended, with the old
// credential, within a bound. A failure is told and holds nothing up.
func TestSweepBeforeRevocation(t *testing.T) {
	for name, fault := range map[string]error{"well": nil, "in vain": errors.New("the server does not answer")} {
		synctest.Test(t, func(t *testing.T) {
			g := startRig(t, hourLease, Config{})
			s := g.sweeper("db")
			s.idle(t)
			s.onSweep = func(ctx context.Context, gen *Generation) error {
				if gen.ID() != 1 {
					return nil
				}
				if n := s.a.Connections(gen); n != 0 {
					t.Errorf("%s: %d connections are counted", name, n)
				}
				if _, _, revokes := g.source.counts(); revokes != 0 {
					t.Errorf("%s: the lease is revoked already", name)
				}
				if _, ok := ctx.Deadline(); !ok {
					t.Errorf("%s: it is not bounded", name)
				}
				raw, c := s.newSocket(false)
				if err := errors.Join(c.BindToEnd(gen), raw.login(gen.Credential().Username())); err != nil {
					t.Errorf("%s: logging in to end sessions: %v", name, err)
				}
				time.Sleep(700 * time.Millisecond)
				_ = c.Close()
				return fault
			}
			g.rotate()
			g.pass(500 * time.Millisecond)
			g.wantCalls(2, 0, 0)
			g.pass(time.Second)
			g.wantCalls(2, 0, 1)
			if s.sweeps() != 1 {
				t.Errorf("%s: swept %d times", name, s.sweeps())
			}
			if n := g.count(SessionsEnded); n != 0 != (fault != nil) {
				t.Errorf("%s: %d events: %v", name, n, g.story())
			}
		})
	}
}

// One that never returns does not hold up the revocation for long.
func TestSweepHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		s := g.sweeper("db")
		s.idle(t)
		hang := make(chan struct{})
		s.onSweep = func(context.Context, *Generation) error { <-hang; return nil }
		g.rotate()
		g.pass(10 * time.Second)
		g.wantCalls(2, 0, 1)
		if e := g.last(SessionsEnded); e.Err == nil || e.Generation != 1 {
			t.Errorf("nothing is told of it: %+v", e)
		}
		close(hang)
	})
}

// Where nobody can log in with the credential, nothing is tried.
func TestSweepNotOfDeadCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		s := g.sweeper("db")
		c := s.idle(t)
		s.a.Refused(c.Generation(), ErrRefused)
		g.pass(time.Second)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
		if s.sweeps() != 0 {
			t.Errorf("swept %v", s.swept)
		}
	})
}

// Closing one of two pools ends what that one has left without a socket, while the generation lives on.
func TestSweepAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		one, other := g.sweeper("one"), g.sweeper("other")
		other.idle(t)
		one.onSweep = func(_ context.Context, gen *Generation) error {
			raw, c := one.newSocket(false)
			defer func() { _ = c.Close() }()
			return errors.Join(c.BindToEnd(gen), raw.login(gen.Credential().Username()))
		}
		if err := one.a.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if one.sweeps() != 1 || other.sweeps() != 0 {
			t.Errorf("swept: %v and %v", one.swept, other.swept)
		}
		one.onSweep = func(context.Context, *Generation) error { t.Error("swept after it was closed"); return nil }
		g.rotate()
		g.pass(time.Second)
		if other.sweeps() != 1 {
			t.Errorf("swept by the other: %v", other.swept)
		}
	})
}

// Start returns at once. Await does when there is a credential, or when waiting is a matter of luck; what
// was denied is asked for again, slowly, and works once it is allowed.
func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		var allowed atomic.Bool
		g.source.onIssue = func(int) error {
			time.Sleep(3 * time.Second)
			if !allowed.Load() {
				return ErrDenied
			}
			return nil
		}
		r, err := Start(g.source, Config{})
		if err != nil {
			t.Fatal(err)
		}
		g.r, g.w.max = r, 5
		t.Cleanup(g.check)
		if time.Since(g.t0) != 0 {
			t.Errorf("Start took %v", time.Since(g.t0))
		}
		hurry, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := r.Await(hurry); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Await in a hurry: %v", err)
		}
		var none *NoCredentialError
		if err := r.Await(context.Background()); !errors.As(err, &none) || !errors.Is(err, ErrDenied) || time.Since(g.t0) != 3*time.Second {
			t.Errorf("Await after %v: %v", time.Since(g.t0), err)
		}
		g.pass(time.Hour)
		if n := len(g.source.issueTimes()); n < 60 || n > 240 {
			t.Errorf("%d issues in an hour", n)
		}
		allowed.Store(true)
		g.pass(time.Minute)
		if err := r.Await(context.Background()); err != nil {
			t.Errorf("Await: %v", err)
		}
	})
}

// A database that refuses what is issued keeps nobody waiting for as long as it is tried.
func TestStartRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		r, err := newRotator(g.source, Config{}) // as Start does
		if err != nil {
			t.Fatal(err)
		}
		g.r, g.w.max = r, 5
		t.Cleanup(g.check)
		g.source.onIssue = func(int) error { time.Sleep(time.Second); return nil } // until the pool is there
		r.run()
		p := g.pool("db")
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult { return ProbeResult{Refused: 1, Err: ErrRefused} }
		})
		var none *NoCredentialError
		err = r.Await(context.Background())
		if d := time.Since(g.t0); !errors.As(err, &none) || !errors.Is(err, ErrRefused) || d < 10*time.Second || d > 14*time.Second {
			t.Errorf("Await after %v: %v", d, err)
		}
		p.set(func(p *fakePool) { p.onProbe = nil })
		g.pass(10 * time.Second)
		if err := r.Await(context.Background()); err != nil {
			t.Errorf("Await when it is accepted: %v", err)
		}
	})
}

// What is wrong with a config Start says at once.
func TestStartInvalid(t *testing.T) {
	if _, err := Start(nil, Config{}); err == nil {
		t.Error("Start without a source works")
	}
	if _, err := Start(&fakeSource{}, Config{MaxUnrevoked: 1}); err == nil {
		t.Error("Start with an invalid config works")
	}
}

// Closing a pool with nothing in use on a credential that is dead has nothing to end, and nothing to report.
func TestCloseWithUnusedOfDeadCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.set(func(p *fakePool) {
			p.onReplace = func(context.Context, *Generation, time.Time) {}
			p.onEnd = func(context.Context, *Generation, []*Conn) error { return ErrRefused }
		})
		c := p.idle(t)
		p.a.Refused(c.Generation(), ErrRefused)
		g.pass(time.Second)
		g.wantCurrent(2)
		c.SetUnused(true)
		if err := p.a.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}
