package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 33: whatever revocation says, it is reported and tried again, ever less
// often, and the pool does not notice.
func TestHazard33RevokeFails(t *testing.T) {
	for name, fault := range map[string]error{
		"403":   fmt.Errorf("revoking: %w", ErrDenied),
		"400":   errors.New("400: fault"),
		"2BP01": errors.New("400: role owns objects (SQLSTATE 2BP01)"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startRig(t, hourLease, Config{})
				p := g.pool("db")
				g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return fault } })
				g.at(time.Minute)
				g.rotate()
				g.wantCalls(2, 0, 1)
				if e := g.last(RevokeFailed); e.Generation != 1 || !errors.Is(e.Err, fault) || !e.RetryAt.Equal(g.t0.Add(time.Minute+250*time.Millisecond)) {
					t.Errorf("event %+v", e)
				}
				g.at(time.Minute + 250*time.Millisecond - 1)
				g.wantCalls(2, 0, 1)
				g.at(time.Minute + 250*time.Millisecond)
				g.wantCalls(2, 0, 2)
				p.idle(t)
				g.at(31 * time.Minute)
				if _, _, n := g.source.counts(); n < 10 || n > 20 {
					t.Errorf("%d revocations in half an hour", n)
				}
				s := g.r.Status()
				if !s.Usable || s.Unrevoked != 2 || s.Generations[0].State != StateRevoking || !errors.Is(s.LastError, fault) {
					t.Errorf("status %+v", s)
				}
				g.source.set(func(s *fakeSource) { s.onRevoke = nil })
				g.pass(5 * time.Minute)
				g.wantEvents(map[EventKind]int{Revoked: 1})
				if s := g.r.Status(); s.Unrevoked != 1 || s.LastError != nil || len(s.Generations) != 1 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// hazard 33: until the lease would have ended by itself.
func TestHazard33RevokeIsAbandonedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.w.set(func(w *world) { w.kept = 1 })
		g.source.set(func(s *fakeSource) {
			s.onRevoke = func(_ context.Context, _ int, l Lease) error {
				if l.ID == "lease/1" {
					return errors.New("2BP01")
				}
				return nil
			}
		})
		g.at(time.Minute)
		g.rotate()
		g.at(time.Hour - 1)
		g.wantEvents(map[EventKind]int{RevokeAbandoned: 0})
		g.at(time.Hour + 5*time.Minute)
		g.wantEvents(map[EventKind]int{RevokeAbandoned: 1})
		if e := g.last(RevokeAbandoned); e.Generation != 1 || !strings.Contains(e.Err.Error(), "2BP01") {
			t.Errorf("event %+v", e)
		}
		_, _, n := g.source.counts()
		g.at(3 * time.Hour)
		if _, _, now := g.source.counts(); now != n {
			t.Error("it is still tried")
		}
		if s := g.r.Status(); s.Unrevoked != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// A lease that is gone already is as good as revoked; a hanging revocation holds
// up nothing; one that does not end is bounded.
func TestRevokeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		var bound time.Duration
		g.source.set(func(s *fakeSource) {
			s.onRevoke = func(ctx context.Context, n int, _ Lease) error {
				if n > 1 {
					return nil
				}
				deadline, _ := ctx.Deadline()
				bound = time.Until(deadline)
				<-ctx.Done()
				return ctx.Err()
			}
		})
		g.at(time.Minute)
		g.rotate()
		g.rotate() // the next one does not wait for it
		g.wantCurrent(3)
		g.wantEvents(map[EventKind]int{Revoked: 1})
		g.at(2 * time.Minute)
		g.wantEvents(map[EventKind]int{Revoked: 2, RevokeFailed: 1})
		if bound != 30*time.Second {
			t.Errorf("a revocation is bounded by %v", bound)
		}
	})
}

// What is not revocable is not revoked, whatever the source can.
func TestNotRevocable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour}, Config{})
		g.at(5 * time.Hour)
		g.wantCalls(6, 0, 0)
		g.wantEvents(map[EventKind]int{Revoked: 0, Drained: 5})
		if s := g.r.Status(); s.Unrevoked != 0 || len(s.Generations) != 1 {
			t.Errorf("status %+v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) { // revocable, but the source cannot
		g := newRig(t, hourLease)
		if err := g.tryStart(context.Background(), SourceFunc(g.source.Issue), Config{}); err != nil {
			t.Fatal(err)
		}
		g.w.kept = 2
		g.rotate()
		if s := g.r.Status(); s.Unrevoked != 0 || len(s.Generations) != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// MaxUnrevoked: nothing is issued until one lease is gone.
func TestMaxUnrevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{MaxUnrevoked: 3})
		fault := errors.New("2BP01")
		g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return fault } })
		g.at(time.Minute)
		g.rotate()
		g.rotate()
		g.wantEvents(map[EventKind]int{CapReached: 0})
		err := g.r.Rotate(context.Background())
		synctest.Wait()
		if err == nil || !strings.Contains(err.Error(), "3 leases") {
			t.Errorf("Rotate: %v", err)
		}
		g.r.do(g.r.loop.sourceChanged)
		g.at(10 * time.Minute)
		g.wantCalls(3, 0, revokes(g))
		g.wantEvents(map[EventKind]int{CapReached: 1})
		if s := g.r.Status(); s.Unrevoked != 3 || !s.Usable {
			t.Errorf("status %+v", s)
		}
		g.source.set(func(s *fakeSource) { s.onRevoke = nil })
		g.at(20 * time.Minute)
		g.wantCurrent(4)
		if s := g.r.Status(); s.Unrevoked != 1 {
			t.Errorf("status %+v", s)
		}
		// It is news when it happens again.
		g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return fault } })
		g.rotate()
		g.rotate()
		if err := g.r.Rotate(context.Background()); err == nil {
			t.Error("Rotate above the cap")
		}
		synctest.Wait()
		g.wantEvents(map[EventKind]int{CapReached: 2})
		g.source.set(func(s *fakeSource) { s.onRevoke = nil })
	})
}

// A lease that is known to be gone does not count.
func TestMaxUnrevokedForgetsWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{MaxUnrevoked: 2})
		p := g.pool("db")
		used := p.inUse(t)
		g.at(time.Minute)
		g.rotate() // u1 drains for five minutes: two leases
		g.w.set(func(w *world) { w.find("u2").end = time.Now() })
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, ErrLeaseGone }
		})
		g.r.do(func() { g.r.loop.renew(g.r.now(), g.r.loop.current) })
		g.pass(2 * time.Second)
		g.wantCurrent(3)
		_ = used.Close()
	})
}

func revokes(g *rig) int {
	_, _, n := g.source.counts()
	return n
}

// Rejected candidates count too: a role with bad grants makes no heap of users.
func TestMaxUnrevokedCountsCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{}) // 5
		p := g.pool("db")
		p.answer(ProbeResult{Refused: 1, Err: ErrRefused})
		g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return errSealed } })
		g.at(time.Minute)
		g.r.do(g.r.loop.sourceChanged)
		g.at(30 * time.Minute)
		g.wantCalls(5, 0, revokes(g))
		g.wantEvents(map[EventKind]int{CapReached: 1, Rejected: 4})
		g.wantCurrent(1)
		g.source.set(func(s *fakeSource) { s.onRevoke = nil })
		p.set(func(p *fakePool) { p.onProbe = nil })
		g.at(40 * time.Minute)
		if g.current() <= 5 {
			t.Errorf("generation %d", g.current())
		}
	})
}
