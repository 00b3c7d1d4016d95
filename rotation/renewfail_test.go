package rotation

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 21
func TestHazard21LeaseGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.idle(t)
		p.inUse(t)
		old, _ := p.a.Current()
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) {
				return Lease{}, fmt.Errorf("lease not found: %w", ErrLeaseGone)
			}
			s.onRevoke = func(context.Context, int, Lease) error { return fmt.Errorf("revoking: %w", ErrLeaseGone) }
		})
		g.at(37*time.Minute - 1)
		g.wantCurrent(1)
		if old.Dead() {
			t.Error("dead before anything happened")
		}
		g.at(37 * time.Minute)
		g.wantCalls(2, 1, 0)
		g.wantCurrent(2)
		if e := g.last(Published); e.Reason != "lease is gone" {
			t.Errorf("rotated because of %q", e.Reason)
		}
		if !old.Dead() {
			t.Error("a credential whose lease is gone may be handed out")
		}
		// What is in use may finish. That the lease cannot be revoked any more is
		// as good as revoked.
		g.wantEvents(map[EventKind]int{Revoked: 0})
		g.w.set(func(w *world) { w.kept = 2 })
		p.closeAll()
		synctest.Wait()
		g.wantEvents(map[EventKind]int{Revoked: 1, RevokeFailed: 0})
	})
}

// hazard 22: a passing fault is retried, ever less often, until the margin: seven times in half a
// minute, once after a quarter of an hour, as the dice have it, and ever closer to the margin.
func TestHazard22PassingFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onRenew = func(int, Lease, time.Duration) (Lease, error) {
			return Lease{}, errors.New("400: the database has a fault")
		}
		g.start(Config{})
		g.at(37*time.Minute + 250*time.Millisecond - 1)
		g.wantCalls(1, 1, 0)
		g.at(37*time.Minute + 250*time.Millisecond)
		g.wantCalls(1, 2, 0)
		if e := g.last(RenewFailed); e.Attempt != 2 || !e.RetryAt.Equal(time.Now().Add(500*time.Millisecond)) {
			t.Errorf("event %+v", e)
		}
		g.at(55*time.Minute - 1)
		g.wantCurrent(1)
		g.wantCalls(1, 8+1+2, 0)
		g.at(55 * time.Minute)
		g.wantCurrent(2)
		if e := g.last(Published); e.Reason != "renewal keeps failing" {
			t.Errorf("rotated because of %q", e.Reason)
		}
		if s := g.r.Status(); s.LastError != nil {
			t.Errorf("a new credential and still %v", s.LastError)
		}
	})
}

// hazard 22: and one that passes is forgotten.
func TestHazard22FaultPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onRenew = func(n int, l Lease, inc time.Duration) (Lease, error) {
			if n <= 3 {
				return Lease{}, errors.New("fault")
			}
			l.TTL = inc
			return l, nil
		}
		g.start(Config{})
		g.at(37*time.Minute + time.Second)
		if s := g.r.Status(); s.LastError == nil || s.Failures != 3 {
			t.Errorf("status %+v", s)
		}
		g.at(40 * time.Minute)
		g.wantCalls(1, 4, 0)
		if s := g.r.Status(); s.LastError != nil || s.Failures != 0 {
			t.Errorf("status after success %+v", s)
		}
		g.at(3 * time.Hour)
		g.wantCalls(1, 7, 0)
	})
}

// hazard 23: waiting does not help.
func TestHazard23RenewalDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.inUse(t)
		old, _ := p.a.Current()
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) {
				return Lease{}, fmt.Errorf("renewing: %w", ErrDenied)
			}
		})
		g.at(37*time.Minute - 1)
		g.wantCurrent(1)
		g.at(37 * time.Minute)
		g.wantCurrent(2)
		if e := g.last(Published); e.Reason != "renewal is denied" {
			t.Errorf("rotated because of %q", e.Reason)
		}
		if old.Dead() {
			t.Error("a credential that is still valid is called dead")
		}
	})
}

// hazard 23: if no other is to be had either, the old one serves to its end, and
// the renewal is tried again too: rights come back.
func TestHazard23DeniedAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		denied := true
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { return fmt.Errorf("issuing: %w", ErrDenied) }
			s.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
				if denied {
					return Lease{}, fmt.Errorf("renewing: %w", ErrDenied)
				}
				l.TTL = inc
				return l, nil
			}
		})
		g.at(45 * time.Minute)
		g.wantCurrent(1)
		g.source.set(func(*fakeSource) { denied = false })
		g.at(90 * time.Minute)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{CredentialLost: 0})
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.pass(2 * time.Minute)
		g.wantCurrent(2)
	})
}

// hazard 24
func TestHazard24RenewalGrantsNothing(t *testing.T) {
	for _, ttl := range []time.Duration{0, -time.Second} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, hourLease)
			g.source.onRenew = func(_ int, l Lease, _ time.Duration) (Lease, error) { l.TTL = ttl; return l, nil }
			g.start(Config{})
			g.at(37 * time.Minute)
			g.wantEvents(map[EventKind]int{Renewed: 0, RenewFailed: 1})
			if s := g.r.Status(); s.LeaseLeft != 23*time.Minute {
				t.Errorf("%v left, want what there was", s.LeaseLeft)
			}
			g.at(55*time.Minute - 1)
			g.wantCurrent(1)
			g.at(55 * time.Minute)
			g.wantCurrent(2)
		})
	}
}

// A renewal that does not answer holds up nothing.
func TestRenewalHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		release := make(chan struct{})
		g.source.onRenew = func(_ int, l Lease, _ time.Duration) (Lease, error) {
			<-release
			return Lease{}, fmt.Errorf("late: %w", ErrLeaseGone)
		}
		g.start(Config{})
		g.at(55*time.Minute - 1)
		g.wantCalls(1, 1, 0)
		g.at(55 * time.Minute)
		g.wantCalls(2, 1, 1)
		// Its answer is about a lease that was replaced and revoked since: no news.
		g.source.set(func(s *fakeSource) { s.onRenew = nil })
		close(release)
		synctest.Wait()
		g.wantEvents(map[EventKind]int{RenewFailed: 0})
		if s := g.r.Status(); s.LastError != nil {
			t.Errorf("status reports %v", s.LastError)
		}
		g.pass(time.Minute)
		g.wantCalls(2, 1, 1)
	})
}

// A renewal is due while an issue is under way or held off: the credential that
// is in use must not die of that.
func TestRenewalGoesOnBesideAnIssue(t *testing.T) {
	hang := make(chan struct{})
	for name, hold := range map[string]func(g *rig){
		"a slow issue": func(g *rig) {
			g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { <-hang; return nil } })
			go func() { _ = g.r.Rotate(context.Background()) }()
		},
		"a probe that says nothing": func(g *rig) {
			g.w.set(func(w *world) { w.down = true })
			go func() { _ = g.r.Rotate(context.Background()) }()
		},
		"paused": func(g *rig) {
			g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errors.New("sealed") } })
			g.r.do(g.r.loop.sourceChanged)
			g.r.Pause()
		},
		"too many leases": func(g *rig) {
			g.w.set(func(w *world) { w.kept = 3 })
			g.source.set(func(s *fakeSource) {
				s.onRevoke = func(context.Context, int, Lease) error { return errors.New("2BP01") }
			})
			g.rotate()
			g.r.do(g.r.loop.sourceChanged)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hang = make(chan struct{})
				g := startRig(t, hourLease, Config{MaxUnrevoked: 2})
				g.closeMayFail = true
				g.pool("db")
				g.at(time.Minute)
				hold(g)
				// A candidate that is being proven is put in place before the old one
				// ends, so nothing is renewed for its sake.
				g.at(55 * time.Minute)
				if _, n, _ := g.source.counts(); n == 0 && name != "a probe that says nothing" {
					t.Error("the lease was not renewed")
				}
				g.at(70 * time.Minute)
				g.wantEvents(map[EventKind]int{CredentialLost: 0})
				if g.current() == 0 {
					t.Errorf("the credential was lost: %v", g.noCredential())
				}
				close(hang)
				g.w.set(func(w *world) { w.down = false })
				synctest.Wait()
			})
		})
	}
}
