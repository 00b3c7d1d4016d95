//nolint:thelper // what is given to onBoth and its like are the tests themselves
package outofband_test

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 36: callers who read what their user was never granted, many and for some seconds: the lease is checked ever more
// seldom, and there is no rotation. Those who do as they may do not notice.
func TestHazard36_OrdinaryDenial(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		s := open(t, db, setup{})
		user := s.status().User
		l := startLoad(t, s)
		began := time.Now()
		var naughty sync.WaitGroup
		var denied atomic.Int64
		for range 3 {
			naughty.Go(func() {
				for time.Since(began) < 5*time.Second || denied.Load() < 100 {
					if err := s.readForbidden(t.Context()); !db.isDenied(err) {
						t.Errorf("what is not granted returned %v", err)
						return
					}
					denied.Add(1)
					time.Sleep(3 * time.Millisecond)
				}
			})
		}
		naughty.Wait()
		took := time.Since(began)
		l.end(t)
		// A quarter of a second after the first, half a second after the second, and so on.
		most := 1 + int(math.Log2(float64(took)/float64(time.Second/4)+1))
		if n := s.checks(); n < 2 || n > most {
			t.Errorf("%d checks in %v, of %d at most", n, took, most)
		}
		t.Logf("%d denials in %v, %d checks", denied.Load(), took.Round(time.Millisecond), s.checks())
		for _, e := range s.events.Of(rotation.LeaseChecked, 0) {
			if e.Err != nil {
				t.Errorf("the lease was checked and found %v", e.Err)
			}
		}
		s.events.None(t, rotation.LoginRefused, rotation.CredentialLost, rotation.Draining)
		if id, n := s.status().Generation, s.issues(); id != 1 || n != 1 || s.whoIsNew(t) != user {
			t.Errorf("generation %d after %d issues", id, n)
		}
		kit.Check(t, s.read(t.Context()))
	})
}

// hazard 36: while such denials go on the lease is revoked all the same, and the next check finds it.
func TestHazard36_RevokedAmongOrdinaryDenials(t *testing.T) {
	t.Parallel()
	s, l := warmUp(t, postgres{}, setup{})
	for s.checks() < 3 {
		if err := s.readForbidden(t.Context()); !s.db.isDenied(err) {
			t.Fatalf("what is not granted returned %v", err)
		}
		time.Sleep(3 * time.Millisecond)
	}
	s.revokeLease(t)
	s.events.Wait(t, rotation.Revoked, 1)
	l.goesOn(t, 50)
	s.events.None(t, rotation.LoginRefused)
	s.rotatedOnce(t, 1)
	s.deniedUntilHealed(t, l)
}
