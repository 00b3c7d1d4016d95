package rotation

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// cappedAt has Vault prolong no lease past that age.
func (g *rig) cappedAt(ceiling time.Duration) {
	g.source.onRenew = func(_ int, l Lease, increment time.Duration) (Lease, error) {
		var left time.Duration
		g.w.set(func(w *world) { left = ceiling - time.Since(w.find(l.ID).issued) })
		l.TTL, l.Capped = min(increment, left), increment > left
		return l, nil
	}
}

// reasons says why each generation was published, and when.
func (g *rig) reasons() (text string) {
	for _, e := range g.recorded() {
		if e.Kind == Published {
			text += fmt.Sprintf(" %d %s at %v,", e.Generation, e.Reason, e.Time.Sub(g.t0).Round(time.Minute))
		}
	}
	return text
}

// hazard 42: what began at the same moment as others' is replaced once at a moment of its own, and has its own times from
// then on. What is lost together with others' begins anew.
func TestHazard42Dispersal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.jitter = 0.75 // of a life, or what is taken for one, a quarter is over
		g.cappedAt(24 * time.Hour)
		g.start(Config{})
		g.at(80 * time.Hour)
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(_ int, l Lease, _ time.Duration) (Lease, error) {
				g.cappedAt(24 * time.Hour)
				return Lease{}, fmt.Errorf("%w: somebody revoked it", ErrLeaseGone)
			}
		})
		g.at(130 * time.Hour)
		want := " 1 start at 0s, 2 spread at 6h0m0s, 3 lease ceiling at 29h53m0s, 4 lease ceiling at 53h46m0s, 5 lease ceiling at 77h39m0s," +
			" 6 lease is gone at 80h11m0s, 7 spread at 86h9m0s, 8 lease ceiling at 110h2m0s,"
		if got := g.reasons(); got != want {
			t.Errorf("published:%s\nwant:     %s", got, want)
		}
	})
}

// A ceiling lower than it was taken for is reached once, and known from then on.
func TestDispersalLearnsTheCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.jitter = 0.5
		g.cappedAt(8 * time.Hour)
		g.start(Config{})
		g.at(30 * time.Hour)
		want := " 1 start at 0s, 2 lease ceiling at 7h54m0s, 3 spread at 11h51m0s, 4 lease ceiling at 19h44m0s, 5 lease ceiling at 27h38m0s,"
		if got := g.reasons(); got != want {
			t.Errorf("published:%s\nwant:     %s", got, want)
		}
	})
}

// Replacing it is no need: where that fails it is not tried again, and nothing is lost.
func TestDispersalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.jitter = 0.5
		g.source.onAnswer = func(n int, c Credential, l Lease) (Credential, Lease, error) {
			if n > 1 {
				return Credential{}, Lease{}, errSealed
			}
			return c, l, nil
		}
		g.start(Config{})
		g.at(40 * time.Hour)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{IssueFailed: 1, CredentialLost: 0})
		if s := g.r.Status(); !s.Usable || s.Next != "renew" {
			t.Errorf("%+v", s)
		}
	})
}

// What is not worth it: short leases, which mix by themselves, what nobody has to give back, and one after the other
// that dies.
func TestNoDispersal(t *testing.T) {
	for name, lease := range map[string]Lease{
		"short":       {TTL: 9 * time.Minute, Renewable: true, Revocable: true},
		"no lease":    {TTL: time.Hour},
		"without end": {Revocable: true},
		"static":      {RefreshAfter: time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, lease)
			g.jitter = 0.9
			g.start(Config{})
			g.at(300 * time.Hour)
			for _, e := range g.recorded() {
				if e.Reason == dispersal {
					t.Errorf("%s: %v", name, e)
				}
			}
		})
	}
}
