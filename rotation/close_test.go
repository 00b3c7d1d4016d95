package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 44: Close in mid-rotation, at every step of it: every lease is revoked
// and no goroutine is left (the rig's cleanup looks), in time.
func TestHazard44CloseAtEveryStep(t *testing.T) {
	slow := func(d time.Duration) func(g *rig) {
		return func(g *rig) {
			g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(d); return nil } })
		}
	}
	for _, c := range []struct {
		name  string
		setup func(g *rig) // before the rotation begins, after ten minutes
		at    time.Duration
		story EventKind // which has happened by then
		calls [2]int    // issues, revocations in the end
	}{
		{"at rest", nil, 5 * time.Minute, Published, [2]int{1, 1}},
		{"issue under way", slow(2 * time.Second), 10*time.Minute + time.Second, Published, [2]int{2, 2}},
		{"issue failed, retry due", func(g *rig) {
			g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		}, 10*time.Minute + time.Second, IssueFailed, [2]int{2, 1}},
		{"probe under way", func(g *rig) {
			g.pools[0].set(func(p *fakePool) {
				p.onProbe = func(_ context.Context, gen *Generation) ProbeResult {
					raw, c := p.newSocket(false)
					if errors.Join(c.Bind(gen), raw.login("u2")) == nil {
						time.Sleep(2 * time.Second)
					}
					_ = c.Close()
					return ProbeResult{Accepted: 1}
				}
			})
		}, 10*time.Minute + time.Second, Issued, [2]int{2, 2}},
		{"probe that heeds its context", func(g *rig) {
			g.pools[0].set(func(p *fakePool) {
				p.onProbe = func(ctx context.Context, gen *Generation) ProbeResult {
					raw, c := p.newSocket(false)
					if errors.Join(c.Bind(gen), raw.login("u2")) == nil {
						<-ctx.Done()
					}
					_ = c.Close()
					return ProbeResult{Unknown: 1, Err: ctx.Err()}
				}
			})
		}, 10*time.Minute + time.Second, Issued, [2]int{2, 2}},
		{"probe failed, retry due", func(g *rig) {
			g.pools[0].answer(ProbeResult{Unknown: 1, Err: errUnreachable})
		}, 10*time.Minute + 5*time.Second, ProbeFailed, [2]int{2, 2}},
		{"draining", nil, 11 * time.Minute, Draining, [2]int{2, 2}},
		{"sessions being ended", func(g *rig) {
			g.pools[0].set(func(p *fakePool) {
				p.onEnd = func(context.Context, *Generation, []*Conn) error { time.Sleep(time.Second); return nil }
			})
		}, 15*time.Minute + 500*time.Millisecond, DrainDeadline, [2]int{2, 2}},
		{"revocation under way", func(g *rig) {
			g.source.set(func(s *fakeSource) {
				s.onRevoke = func(context.Context, int, Lease) error { time.Sleep(time.Second); return nil }
			})
		}, 15*time.Minute + 500*time.Millisecond, Drained, [2]int{2, 2}},
		{"revocation failed, retry due", func(g *rig) {
			g.source.set(func(s *fakeSource) {
				s.onRevoke = func(_ context.Context, n int, _ Lease) error {
					if n < 8 {
						return errSealed
					}
					return nil
				}
			})
		}, 15*time.Minute + 5*time.Second, RevokeFailed, [2]int{2, 9}},
		{"retired", nil, 16 * time.Minute, Revoked, [2]int{2, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startRig(t, hourLease, Config{})
				p := g.pool("db")
				p.inUse(t) // one connection is never given back
				p.idle(t)
				if c.setup != nil {
					c.setup(g)
				}
				rotated := make(chan error, 1)
				go func() {
					time.Sleep(10 * time.Minute)
					rotated <- g.r.Rotate(context.Background())
				}()
				g.at(c.at)
				if g.count(c.story) == 0 {
					t.Fatalf("no %q yet: %v", c.story, g.story())
				}
				before := time.Now()
				err := g.r.Close(context.Background())
				if err != nil {
					t.Errorf("Close: %v", err)
				}
				if d := time.Since(before); d > 10*time.Second {
					t.Errorf("Close took %v", d)
				}
				synctest.Wait()
				if left := engineGoroutines(); left != "" && c.name != "probe under way" {
					t.Errorf("goroutines are left:\n%s", left)
				}
				g.wantCalls(c.calls[0], 0, c.calls[1])
				s := g.r.Status()
				if len(s.Generations) != 0 || s.Unrevoked != 0 || !s.Closed || s.Usable || s.Next != "nothing" {
					t.Errorf("status %+v", s)
				}
				if story := g.story(); story[len(story)-1] != Closed {
					t.Errorf("the last event is not %q: %v", Closed, story)
				}
				<-rotated //nolint:errcheck // it may fail or not: it is over
			})
		})
	}
}

// hazard 44: connections that are given back in time are waited for; the others
// are ended when half the time is gone, and half is left for the revocation.
func TestHazard44CloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		used := p.inUse(t)
		g.at(time.Minute)
		go func() { time.Sleep(3 * time.Second); _ = used.Close() }()
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(g.t0); d != 63*time.Second {
			t.Errorf("Close returned at %v", d)
		}
		g.wantEvents(map[EventKind]int{DrainDeadline: 0, Revoked: 1})
	})
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{CloseTimeout: 20 * time.Second})
		p := g.pool("db")
		leaked := p.executing(t)
		g.at(time.Minute)
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(g.t0); d != 70*time.Second {
			t.Errorf("Close returned at %v", d)
		}
		if _, err := leaked.Write([]byte("x")); !errors.Is(err, ErrEnded) {
			t.Errorf("the leaked connection: %v", err)
		}
		g.wantEvents(map[EventKind]int{DrainDeadline: 1, SessionsEnded: 1, Revoked: 1})
	})
}

// hazard 44: nothing is issued any more, though a rotation is due and could be had.
func TestHazard44NothingIsIssuedWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		p := g.pool("db")
		p.inUse(t)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.at(56 * time.Minute)
		n := len(g.source.issueTimes())
		if n < 2 {
			t.Fatal("no rotation is due")
		}
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if now := len(g.source.issueTimes()); now != n {
			t.Errorf("%d issues while closing", now-n)
		}
	})
}

// hazard 44: a revocation whose next attempt is minutes away is tried at once.
func TestHazard44CloseDoesNotWaitForABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return errSealed } })
		g.at(time.Minute)
		g.rotate()
		g.at(20 * time.Minute)
		g.source.set(func(s *fakeSource) { s.onRevoke = nil })
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(g.t0); d != 20*time.Minute {
			t.Errorf("it took until %v", d)
		}
	})
}

// hazard 44: a server that is silent while sessions are ended leaves time for the
// revocation.
func TestHazard44SilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.w.set(func(w *world) { w.lax = true })
		p := g.pool("db")
		p.executing(t)
		p.set(func(p *fakePool) {
			p.onEnd = func(ctx context.Context, _ *Generation, _ []*Conn) error { <-ctx.Done(); return ctx.Err() }
		})
		g.source.set(func(s *fakeSource) {
			s.onRevoke = func(context.Context, int, Lease) error { time.Sleep(time.Second); return nil }
		})
		g.at(time.Minute)
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		g.wantCalls(1, 0, 1)
	})
}

// hazard 54, as the engine sees it: may not revoke. Close says so at once, and
// which lease it is.
func TestCloseMayNotRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.closeMayFail = true
		g.w.set(func(w *world) { w.kept = 1 })
		g.source.set(func(s *fakeSource) {
			s.onRevoke = func(context.Context, int, Lease) error { return fmt.Errorf("revoking: %w", ErrDenied) }
		})
		g.at(time.Minute)
		err := g.r.Close(context.Background())
		if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "u1") || !strings.Contains(err.Error(), "2000-01-01T01:00:00Z") {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(g.t0); d != time.Minute {
			t.Errorf("it took until %v", d)
		}
		synctest.Wait()
		if e := g.last(Closed); !errors.Is(e.Err, ErrDenied) {
			t.Errorf("event %+v", e)
		}
		g.wantEvents(map[EventKind]int{RevokeAbandoned: 1})
	})
}

// Revocations that fail are tried until the time is up, then reported.
func TestCloseRunsOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.closeMayFail = true
		g.w.set(func(w *world) { w.kept = 1 })
		g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return errSealed } })
		g.at(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
		defer cancel()
		err := g.r.Close(ctx)
		if err == nil || !strings.Contains(err.Error(), "not revoked") || !errors.Is(err, errSealed) {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(g.t0); d != 67*time.Second {
			t.Errorf("it took until %v", d)
		}
		if n := revokes(g); n < 7 { // at most a second apart
			t.Errorf("%d attempts", n)
		}
	})
}

// A context that is over: nothing is waited for, all is reported, sockets are shut.
func TestCloseWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.closeMayFail = true
		g.w.set(func(w *world) { w.kept = 1 })
		p := g.pool("db")
		used := p.inUse(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.at(time.Minute)
		if err := g.r.Close(ctx); err == nil || !strings.Contains(err.Error(), "u1") {
			t.Errorf("Close: %v", err)
		}
		synctest.Wait()
		if d := time.Since(g.t0); d != time.Minute {
			t.Errorf("it took until %v", d)
		}
		if _, err := used.Write([]byte("x")); !errors.Is(err, ErrEnded) {
			t.Errorf("the connection in use: %v", err)
		}
	})
}

// Close many times, at once and again: one end, one answer.
func TestCloseIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.source.set(func(s *fakeSource) {
			s.onRevoke = func(context.Context, int, Lease) error { time.Sleep(2 * time.Second); return nil }
		})
		g.at(time.Minute)
		var callers sync.WaitGroup
		for i := range 10 {
			callers.Go(func() {
				// A later caller in a hurry does not spoil it for the first.
				ctx := context.Background()
				if i > 0 {
					time.Sleep(time.Millisecond)
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				if err := g.r.Close(ctx); err != nil {
					t.Errorf("Close: %v", err)
				}
				if d := time.Since(g.t0); d != 62*time.Second {
					t.Errorf("Close returned at %v", d)
				}
			})
		}
		callers.Wait()
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close again: %v", err)
		}
		g.wantCalls(1, 0, 1)
		if err := g.r.Rotate(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("Rotate after Close: %v", err)
		}
		g.r.Pause()() // harmless
	})
}
