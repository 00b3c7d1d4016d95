package rotation

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRotateOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		c := p.idle(t)
		g.at(10 * time.Minute)
		before := time.Now()
		g.rotate()
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
		if took := time.Since(before); took != 0 {
			t.Errorf("it took %v", took)
		}
		if e := g.last(Published); e.Reason != "requested" || e.Generation != 2 {
			t.Errorf("event %+v", e)
		}
		if c.Generation().ID() != 1 || p.a.Connections(c.Generation()) != 0 {
			t.Error("the old connection is still there")
		}
		cur, _ := p.a.Current()
		if n := p.a.Connections(cur); n != 1 {
			t.Errorf("%d connections of the new one", n)
		}
	})
}

// Many callers, one rotation; each returns when the new credential serves.
func TestRotateIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.at(time.Minute)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(3 * time.Second); return nil } })
		var callers sync.WaitGroup
		for i := range 20 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				if err := g.r.Rotate(context.Background()); err != nil {
					t.Errorf("Rotate: %v", err)
				}
				g.wantCurrent(2)
			})
		}
		callers.Wait()
		if took := time.Since(g.t0.Add(time.Minute)); took != 3*time.Second {
			t.Errorf("it took %v", took)
		}
		synctest.Wait()
		g.wantCalls(2, 0, 1)
	})
}

// The attempt's failure is the caller's; the old credential stays, and nothing is
// tried again before its time.
func TestRotateFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.at(time.Minute)
		sealed := errors.New("503: sealed")
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return sealed } })
		if err := g.r.Rotate(context.Background()); !errors.Is(err, sealed) {
			t.Errorf("Rotate: %v", err)
		}
		g.wantCurrent(1)
		g.at(30 * time.Minute)
		g.wantCalls(2, 0, 0)
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.rotate()
		g.wantCurrent(2)
	})
}

// hazard 48: the caller's context ends; the rotation goes on by itself.
func TestHazard48RotateOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.at(time.Minute)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(time.Minute); return nil } })
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := g.r.Rotate(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(g.t0) != time.Minute+time.Second {
			t.Errorf("Rotate returned %v after %v", err, time.Since(g.t0))
		}
		g.at(2*time.Minute - 1)
		g.wantCurrent(1)
		g.at(2 * time.Minute)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
	})
}

// The least interval between two issues holds whatever succeeded before, and
// doubles with every credential that dies early.
func TestHazard28FloorIsNotResetBySuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		g.rotate()
		g.wantCalls(2, 0, 1)
		if d := time.Since(g.t0); d != time.Second {
			t.Errorf("the second issue came %v after the first, want 1s", d)
		}
		refuse := func() {
			t.Helper()
			cur, err := p.a.Current()
			if err != nil {
				t.Fatal(err)
			}
			p.a.Refused(cur, ErrRefused)
			if err := p.a.Await(context.Background()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		var gaps []time.Duration
		for range 9 {
			was := time.Now()
			refuse()
			gaps = append(gaps, time.Since(was))
		}
		for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			if want := time.Duration(seconds) * time.Second; gaps[i] != want {
				t.Errorf("issue %d came after %v, want %v", i+3, gaps[i], want)
			}
		}
		// One that served its time starts over.
		g.pass(40 * time.Minute)
		refuse()
		was := time.Now()
		refuse()
		if d := time.Since(was); d != time.Second {
			t.Errorf("after one that served its time the next issue came after %v, want 1s", d)
		}
	})
}

// hazard 28: issues work, renewals never do. Hours, and every way of failing.
func TestHazard28RateOfIssuing(t *testing.T) {
	for name, renew := range map[string]error{
		"passing": errors.New("fault"), "gone": ErrLeaseGone, "denied": ErrDenied,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, hourLease)
				g.source.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, renew }
				g.start(Config{})
				g.at(12 * time.Hour)
				if n, _, _ := g.source.counts(); n < 12 || n > 20 {
					t.Errorf("%d issues in 12 hours of hour-long leases", n)
				}
			})
		})
	}
}

// hazard 28: issues work, and every credential is refused as soon as it is used.
func TestHazard28EveryCredentialDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
		defer cancel()
		for ctx.Err() == nil { // a service that tries without rest
			if cur, err := p.a.Current(); err == nil {
				p.a.Refused(cur, ErrRefused)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n, _, _ := g.source.counts(); n < 60 || n > 140 {
			t.Errorf("%d issues in 2 hours", n)
		}
	})
}

// A source that grants next to nothing is not asked without rest.
func TestHazard28TinyLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: time.Millisecond, Revocable: true})
		g.start(Config{})
		g.at(time.Minute)
		if n, _, _ := g.source.counts(); n > 700 {
			t.Errorf("%d issues in a minute", n)
		}
	})
}

// hazard 30: a caching agent hands out the lease that is in use.
func TestHazard30SameLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		var first Lease
		same := true
		g.source.onAnswer = func(n int, c Credential, l Lease) (Credential, Lease, error) {
			if n == 1 {
				first = l
			} else if same {
				return NewCredential("u1", secretMark+"1"), first, nil
			}
			return c, l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		c := p.idle(t)
		g.at(time.Minute)
		if err := g.r.Rotate(context.Background()); err == nil {
			t.Error("Rotate says that it rotated")
		}
		synctest.Wait()
		g.wantCurrent(1)
		g.wantCalls(2, 0, 0)
		g.wantEvents(map[EventKind]int{SameLease: 1, Draining: 0, Revoked: 0, Published: 1})
		if c.Generation().Dead() || !c.Generation().Serving() {
			t.Error("the connection is no longer served")
		}
		g.source.set(func(*fakeSource) { same = false })
		g.rotate()
		g.wantCurrent(2)
	})
}

// hazard 30: nor one that is being given back.
func TestHazard30SameLeaseAsAnOlderOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onAnswer = func(n int, c Credential, l Lease) (Credential, Lease, error) {
			if n == 3 {
				l.ID = "lease/1"
				return NewCredential("u1", secretMark+"1"), l, nil
			}
			return c, l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		p.inUse(t)
		g.rotate()
		g.wantCurrent(2)
		if err := g.r.Rotate(context.Background()); err == nil {
			t.Error("Rotate says that it rotated to a lease that is being drained")
		}
		synctest.Wait()
		g.wantCurrent(2)
		g.wantEvents(map[EventKind]int{SameLease: 1})
		g.rotate()
		g.wantCurrent(3)
	})
}

// hazard 30: a static role, KV or a file: the same credential again is no news.
func TestHazard30SameCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: time.Hour, RefreshAfter: 10 * time.Minute})
		password := "one"
		g.source.onAnswer = func(_ int, _ Credential, l Lease) (Credential, Lease, error) {
			return NewCredential("app", secretMark+password), l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		p.idle(t)
		g.at(10*time.Minute - 1)
		g.wantCalls(1, 0, 0)
		g.at(10 * time.Minute)
		g.wantCalls(2, 0, 0)
		g.wantEvents(map[EventKind]int{Refreshed: 1, SameLease: 0, Draining: 0, Published: 1})
		if s := g.r.Status(); s.LeaseLeft != time.Hour || s.Generation != 1 {
			t.Errorf("status %+v: the new term is not adopted", s)
		}
		g.rotate() // a success, though nothing changed
		g.wantEvents(map[EventKind]int{Refreshed: 2, Published: 1})
		g.source.set(func(*fakeSource) { password = "two" })
		g.at(20*time.Minute + time.Second - 1)
		g.wantCurrent(1)
		g.at(20*time.Minute + time.Second)
		g.wantCurrent(2)
		g.wantCalls(4, 0, 0)
		g.wantEvents(map[EventKind]int{Refreshed: 2, Draining: 1, Drained: 1, Revoked: 0})
		g.at(24 * time.Hour)
		g.wantCurrent(2)
	})
}
