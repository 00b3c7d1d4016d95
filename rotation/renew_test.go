package rotation

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.at(37*time.Minute - 1)
		g.wantCalls(1, 0, 0)
		g.at(37 * time.Minute)
		g.wantCalls(1, 1, 0)
		g.wantEvents(map[EventKind]int{Renewed: 1, RenewFailed: 0})
		if e := g.last(Renewed); e.TTL != time.Hour || e.Generation != 1 {
			t.Errorf("event %+v", e)
		}
		// The next one counts from the one before.
		g.at(74*time.Minute - 1)
		g.wantCalls(1, 1, 0)
		g.at(74 * time.Minute)
		g.wantCalls(1, 2, 0)
		g.at(23 * time.Hour)
		g.wantCalls(1, 23*60/37, 0)
		g.wantCurrent(1)
	})
}

// The increment is what was first granted or configured; the id is the answer's.
func TestRenewalAsksAndTakesTheAnswer(t *testing.T) {
	for _, c := range []struct {
		config time.Duration
		want   time.Duration
	}{{0, time.Hour}, {2 * time.Hour, 2 * time.Hour}, {time.Minute, time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, hourLease)
			g.source.onRenew = func(n int, l Lease, inc time.Duration) (Lease, error) {
				g.w.set(func(w *world) { w.find(l.ID).id = fmt.Sprintf("renewed/%d", n) })
				return Lease{ID: fmt.Sprintf("renewed/%d", n), TTL: inc, Renewable: true}, nil
			}
			g.start(Config{RenewIncrement: c.config})
			g.at(5 * time.Hour)
			g.source.set(func(s *fakeSource) {
				for _, asked := range s.asked {
					if asked != c.want {
						t.Errorf("asked for %v, want %v", asked, c.want)
					}
				}
				if len(s.renewedID) < 2 || !slices.Equal(s.renewedID[:2], []string{"lease/1", "renewed/1"}) {
					t.Errorf("renewed %v", s.renewedID)
				}
			})
			// And it is the last one that is revoked (the world knows only that),
			// though the answer did not say that it is revocable.
			g.rotate()
			g.wantEvents(map[EventKind]int{Revoked: 1})
		})
	}
}

// What was granted once is asked for again: less would shorten the lease.
func TestRenewalNeverAsksForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onRenew = func(_ int, l Lease, _ time.Duration) (Lease, error) { l.TTL = 3 * time.Hour; return l, nil }
		g.start(Config{})
		g.at(6 * time.Hour)
		g.source.set(func(s *fakeSource) {
			if len(s.asked) != 3 || s.asked[0] != time.Hour || s.asked[1] != 3*time.Hour || s.asked[2] != 3*time.Hour {
				t.Errorf("asked for %v", s.asked)
			}
		})
	})
}

// hazard 19: a ceiling of 20 s on leases of 8 s: renewed while it helps, replaced
// in time for the drain, no ever shorter renewals.
func TestHazard19CappedRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: 8 * time.Second, Renewable: true, Revocable: true})
		g.source.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
			ceiling := time.Until(g.t0.Add(20 * time.Second))
			l.TTL = min(inc, ceiling)
			return l, nil
		}
		g.start(Config{})
		g.pool("db").idle(t)
		// 8 s are renewed after 37/60 of them: 4.93 s. Twice for 8 s; the third is
		// granted 20 - 14.8 = 5.2 s and so known for the ceiling.
		_, step, _ := plan(after(0), newTerm(after(0), Lease{TTL: 8 * time.Second, Renewable: true}, 0), testConfig)
		g.at(3*step - 1)
		g.wantCalls(1, 2, 0)
		g.at(3 * step)
		g.wantCalls(1, 3, 0)
		lead := 8 * time.Second / 5
		g.at(20*time.Second - lead - 1)
		g.wantCalls(1, 3, 0)
		g.wantCurrent(1)
		g.at(20*time.Second - lead)
		g.wantCurrent(2)
		if e := g.last(Published); e.Reason != "lease ceiling" {
			t.Errorf("rotated because of %q", e.Reason)
		}
		g.at(20*time.Second - 1)
		g.wantEvents(map[EventKind]int{Revoked: 1, DrainDeadline: 0, CredentialLost: 0})
	})
}

// hazard 19: the source knows its ceiling.
func TestHazard19SourceSaysCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := hourLease
		l.Capped = true
		g := startRig(t, l, Config{})
		g.at(55*time.Minute - 1)
		g.wantCalls(1, 0, 0)
		g.at(55 * time.Minute)
		g.wantCalls(2, 0, 1)
		g.wantCurrent(2)
	})
}

// hazard 20
func TestHazard20NotRenewable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		g.at(55*time.Minute - 1)
		g.wantCalls(1, 0, 0)
		g.wantCurrent(1)
		g.at(55 * time.Minute)
		g.wantCalls(2, 0, 1)
		g.wantCurrent(2)
		if e := g.last(Published); e.Reason != "lease end" {
			t.Errorf("rotated because of %q", e.Reason)
		}
		g.at(10 * time.Hour)
		g.wantCalls(11, 0, 10)
	})
}

// hazard 20: renewable, says the lease, but the source cannot.
func TestHazard20NoRenewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: time.Hour, Renewable: true})
		if err := g.tryStart(context.Background(), SourceFunc(g.source.Issue), Config{}); err != nil {
			t.Fatal(err)
		}
		g.at(55*time.Minute - 1)
		g.wantCurrent(1)
		g.at(55 * time.Minute)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 0)
		g.wantEvents(map[EventKind]int{RenewFailed: 0})
	})
}

// hazard 42: a fleet that starts together does not renew together.
func TestHazard42FleetSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var when []time.Duration
		for range 40 {
			l := hourLease
			l.Revocable = false
			g := newRig(t, l)
			g.source.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
				mu.Lock()
				defer mu.Unlock()
				when = append(when, time.Since(start))
				l.TTL = inc
				return l, nil
			}
			r, err := New(context.Background(), g.source, Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close(context.Background()) }()
		}
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(when)
		if len(when) < 40 {
			t.Fatalf("renewals at %v", when)
		}
		for from := time.Duration(0); from < 50*time.Minute; from += 10 * time.Minute { // 10 of 40 are to be expected
			n := 0
			for _, at := range when {
				if at >= from && at < from+10*time.Minute {
					n++
				}
			}
			if n < 2 || n > 20 {
				t.Errorf("%d of 40 engines renew between %v and %v: %v", n, from, from+10*time.Minute, when)
			}
		}
	})
}
