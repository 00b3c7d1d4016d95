package rotation

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 55: whatever a source does, the engine goes on.
func TestHazard55SourcePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		bad := true
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
				if bad {
					panic("in Renew")
				}
				l.TTL = inc
				return l, nil
			}
			s.onIssue = func(n int) error {
				if n == 2 {
					panic("in Issue")
				}
				return nil
			}
			s.onRevoke = func(_ context.Context, n int, _ Lease) error {
				if n == 1 {
					panic("in Revoke")
				}
				return nil
			}
		})
		g.at(37*time.Minute + 10*time.Second)
		for kind, text := range map[EventKind]string{RenewFailed: "Renew panicked: in Renew"} {
			if e := g.last(kind); !strings.Contains(e.Err.Error(), text) {
				t.Errorf("event %+v", e)
			}
		}
		g.wantCurrent(1)
		g.source.set(func(*fakeSource) { bad = false })
		if err := g.r.Rotate(context.Background()); err == nil || !strings.Contains(err.Error(), "Issue panicked: in Issue") {
			t.Errorf("Rotate: %v", err)
		}
		g.source.set(func(s *fakeSource) { s.inFlight = 0 }) // the panic went past the fake
		g.rotate()
		g.wantCurrent(2)
		g.pass(time.Second)
		if e := g.last(RevokeFailed); !strings.Contains(e.Err.Error(), "Revoke panicked: in Revoke") {
			t.Errorf("event %+v", e)
		}
		g.wantEvents(map[EventKind]int{Revoked: 1})
	})
}

// hazard 55: a target whose hooks panic. A probe that panics says nothing about
// the credential; what Replace leaves is ended at the deadline; and what End could
// not do does not keep the lease.
func TestHazard55TargetPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.w.set(func(w *world) { w.lax = true })
		p, q := g.pool("db"), g.pool("replica")
		p.idle(t)
		p.executing(t)
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult { panic("in Probe") }
			p.onReplace = func(context.Context, *Generation, time.Time) { panic("in Replace") }
			p.onEnd = func(context.Context, *Generation, []*Conn) error { panic("in End") }
		})
		q.answer(ProbeResult{Accepted: 1})
		g.at(time.Minute)
		g.rotate()
		g.wantCurrent(2)
		if e := g.last(ReplaceFailed); e.Reason != "db" || !strings.Contains(e.Err.Error(), "in Replace") {
			t.Errorf("event %+v", e)
		}
		g.at(6 * time.Minute)
		if e := g.last(SessionsEnded); e.Connections != 2 || !strings.Contains(e.Err.Error(), "in End") {
			t.Errorf("event %+v", e)
		}
		g.wantCalls(2, 0, 1)
	})
}

// hazard 55: a probe that panics in every pool is like one that finds nobody.
func TestHazard55ProbePanicsIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		p := g.pool("db")
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult { panic("in Probe") }
		})
		g.at(56 * time.Minute)
		g.wantCurrent(1)
		if e := g.last(ProbeFailed); !strings.Contains(e.Err.Error(), "in Probe") {
			t.Errorf("event %+v", e)
		}
		g.at(58 * time.Minute)
		g.wantCurrent(2)
	})
}

// hazard 55: hooks that block and do not heed their context. Rotation, deadline,
// revocation and Close go on without them.
func TestHazard55TargetBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		g.w.set(func(w *world) { w.lax = true })
		p := g.pool("db")
		p.executing(t)
		hang := make(chan struct{})
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult {
				<-hang
				return ProbeResult{Refused: 1, Err: ErrRefused}
			}
			p.onReplace = func(context.Context, *Generation, time.Time) { <-hang }
			p.onEnd = func(context.Context, *Generation, []*Conn) error { <-hang; return nil }
		})
		g.at(58 * time.Minute)
		g.wantCurrent(2)
		g.at(time.Hour + 10*time.Second)
		g.wantEvents(map[EventKind]int{DrainDeadline: 1, SessionsEnded: 1, Revoked: 1, CredentialLost: 0})
		p.executing(t)
		before := time.Now()
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(before); d > 10*time.Second {
			t.Errorf("Close took %v", d)
		}
		close(hang)
		synctest.Wait()
	})
}

// hazard 55: an attachment's Close is bounded too.
func TestHazard55AttachmentCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.w.set(func(w *world) { w.lax = true })
		p := g.pool("db")
		p.executing(t)
		hang := make(chan struct{})
		p.set(func(p *fakePool) {
			p.onEnd = func(context.Context, *Generation, []*Conn) error { <-hang; return nil }
		})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := p.a.Close(ctx); err == nil {
			t.Error("Close says nothing about sessions it did not see end")
		}
		if d := time.Since(g.t0); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("Close took %v", d)
		}
		close(hang)
		synctest.Wait()
	})
}

// hazard 55: the engine's goroutine calls nobody's code: a Name that blocks or
// panics does not stop it.
func TestHazard55NameIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		n := &naming{fakePool: &fakePool{w: g.w, name: "db"}}
		a, err := g.r.Attach(n)
		if err != nil {
			t.Fatal(err)
		}
		n.idle(t)
		g.pools = append(g.pools, n.fakePool)
		if s := g.r.Status(); s.Generations[0].ByAttachment["db"] != 1 {
			t.Errorf("status %+v", s)
		}
		a.Refused(newGeneration(9, Credential{}, nil), ErrRefused)
		g.rotate()
		if n.asked != 1 {
			t.Errorf("Name was called %d times", n.asked)
		}
	})
}

type naming struct {
	*fakePool
	asked int
}

func (n *naming) Name() string {
	n.asked++
	return n.name
}

// hazard 55: subscribers that panic, block or are slow, the log among them.
func TestHazard55Subscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{Logger: slog.New(panicking{})})
		hang := make(chan struct{})
		calls := 0
		g.r.Subscribe(func(Event) { calls++; panic("in a subscriber") })
		g.r.Subscribe(func(Event) { <-hang })
		g.at(time.Minute)
		g.rotate()
		g.rotate()
		g.wantCurrent(3)
		if calls != 1 {
			t.Errorf("a subscriber that panicked was called %d times", calls)
		}
		g.wantEvents(map[EventKind]int{SubscriberFailed: 2, Published: 3, Revoked: 2}) // it and the log
		if e := g.last(SubscriberFailed); e.Err == nil || !strings.Contains(e.Err.Error(), "in a subscriber") {
			t.Errorf("event %+v", e)
		}
		before := time.Now()
		if err := g.r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if d := time.Since(before); d != 10*time.Second {
			t.Errorf("Close waited %v for a subscriber that hangs", d)
		}
		close(hang)
		synctest.Wait()
	})
}

type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { return true }

func (panicking) Handle(context.Context, slog.Record) error { panic("in the log") }

// hazard 55: a Watcher that panics is one that says nothing any more.
func TestHazard55WatcherPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		w := &watching{fakeSource: g.source, watch: func(context.Context, func()) { panic("in Watch") }}
		if err := g.tryStart(context.Background(), w, Config{}); err != nil {
			t.Fatal(err)
		}
		g.at(38 * time.Minute)
		g.wantCalls(1, 1, 0)
		g.wantEvents(map[EventKind]int{WatchFailed: 1})
	})
}

type watching struct {
	*fakeSource
	watch func(ctx context.Context, changed func())
}

func (w *watching) Watch(ctx context.Context, changed func()) { w.watch(ctx, changed) }

// A Watcher starts a rotation at once, one for many calls; a change that comes
// while an issue is under way is not lost; it ends with the engine.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: time.Hour})
		change := make(chan struct{})
		ended := false
		w := &watching{fakeSource: g.source, watch: func(ctx context.Context, changed func()) {
			for {
				select {
				case <-change:
					changed()
				case <-ctx.Done():
					ended = true
					return
				}
			}
		}}
		if err := g.tryStart(context.Background(), w, Config{}); err != nil {
			t.Fatal(err)
		}
		g.at(time.Minute)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(5 * time.Second); return nil } })
		change <- struct{}{}
		synctest.Wait()
		g.wantCalls(2, 0, 0)
		g.at(time.Minute + 5*time.Second)
		g.wantCurrent(2)
		if e := g.last(Published); e.Reason != "source changed" {
			t.Errorf("rotated because of %q", e.Reason)
		}
		g.at(2 * time.Minute)
		for range 10 {
			change <- struct{}{}
		}
		g.at(2*time.Minute + 5*time.Second)
		// The first call began an issue; the nine that came during it may mean that
		// its answer was old already: one more.
		g.at(2*time.Minute + 15*time.Second)
		g.wantCalls(4, 0, 0)
		g.at(10 * time.Minute)
		g.wantCalls(4, 0, 0)
		if err := g.r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !ended {
			t.Error("Watch goes on after Close")
		}
	})
}

// What a Watcher has seen need not wait for a backoff that began before, but for the least interval.
func TestWatcherEndsABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{RefreshAfter: time.Hour})
		g.source.is("app", "one")
		var changed func()
		w := &watching{fakeSource: g.source, watch: func(ctx context.Context, f func()) { changed = f; <-ctx.Done() }}
		if err := g.tryStart(context.Background(), w, Config{}); err != nil {
			t.Fatal(err)
		}
		p := g.pool("db")
		c := p.idle(t)
		g.w.set(func(w *world) { w.bad["app"] = true }) // and the source does not know yet
		p.a.Refused(c.Generation(), ErrRefused)
		g.pass(5 * time.Minute)
		before := len(g.source.issueTimes())
		for range 100 {
			changed()
		}
		g.pass(time.Millisecond)
		g.source.is("app2", "two")
		changed()
		g.pass(2 * time.Second)
		g.wantCurrent(2)
		if n := len(g.source.issueTimes()) - before; n > 3 {
			t.Errorf("%d issues", n)
		}
	})
}
