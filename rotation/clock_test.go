package rotation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// jump moves the wall clock. Timers do not notice: that is what a suspended
// machine looks like when it wakes up, too.
func (g *rig) jump(d time.Duration) { g.skew.Add(int64(d)) }

// hazard 41: the machine slept past the lease's end. It is noticed within 30
// seconds, though no timer of ours knows.
func TestHazard41SuspendedPastTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.idle(t)
		g.at(10*time.Minute + time.Second)
		g.jump(50 * time.Minute) // the lease ended a second ago
		g.pass(lookAgain)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
		g.wantEvents(map[EventKind]int{CredentialLost: 1, CredentialBack: 1})
		// From here on both clocks agree again.
		g.pass(37*time.Minute - lookAgain - 1)
		g.wantCalls(2, 0, 1)
		g.pass(lookAgain + 1)
		g.wantCalls(2, 1, 1)
	})
}

// hazard 41: on either side of the boundary.
func TestHazard41WallDecides(t *testing.T) {
	for _, c := range []struct {
		jump    time.Duration
		current uint64
		lost    int
	}{
		{50*time.Minute - lookAgain - 2, 2, 0}, // time for a rotation, not yet over
		{50 * time.Minute, 2, 1},               // over
		{20 * time.Minute, 1, 0},               // not even due
		{-5 * time.Hour, 1, 0},                 // set back: our own clock counts
	} {
		synctest.Test(t, func(t *testing.T) {
			g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
			g.at(10 * time.Minute)
			g.jump(c.jump)
			g.pass(lookAgain + 1)
			g.wantCurrent(c.current)
			g.wantEvents(map[EventKind]int{CredentialLost: c.lost})
		})
	}
}

// hazard 41: a wall that was set back does not prolong anything.
func TestHazard41WallSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		g.at(10 * time.Minute)
		g.jump(-3 * time.Hour)
		g.at(55*time.Minute - 1)
		g.wantCurrent(1)
		g.at(55 * time.Minute)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
	})
}

// hazard 41: jumps to and fro, in every state, neither stop the engine nor make it
// spin (the rig counts), and the drain deadline follows the faster clock.
func TestHazard41JumpsWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.inUse(t)
		g.at(time.Minute)
		g.rotate()
		g.jump(5*time.Minute - 31*time.Second)
		g.pass(lookAgain)
		g.wantEvents(map[EventKind]int{DrainDeadline: 0})
		g.jump(2 * time.Second)
		g.pass(lookAgain)
		g.wantEvents(map[EventKind]int{DrainDeadline: 1, Revoked: 1})
		for i := range 200 {
			g.jump(time.Duration(i%7-3) * 10 * time.Minute)
			g.pass(time.Minute)
			if g.current() == 0 {
				t.Fatalf("after %d jumps: %v", i, g.noCredential())
			}
		}
	})
}

// hazard 41: a clock that runs ahead for a moment is not the end, if a renewal
// shows that the lease lives.
func TestHazard41WallJumpDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.at(37*time.Minute - 1)
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
				time.Sleep(time.Second)
				l.TTL = inc
				return l, nil
			}
		})
		g.pass(1)
		g.jump(time.Hour) // while the renewal is under way
		g.pass(time.Second)
		// Anchored before the request, by the clock that ran ahead: it may be over.
		if s := g.r.Status(); s.LeaseLeft > 0 {
			t.Errorf("%v left of a lease anchored before the jump", s.LeaseLeft)
		}
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.pass(time.Minute)
		if g.current() == 0 {
			t.Errorf("no credential: %v", g.noCredential())
		}
	})
}

// hazard 41: slow answers. What is granted counts from before the request.
func TestHazard41SlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onIssue = func(int) error { time.Sleep(25 * time.Second); return nil }
		g.source.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
			time.Sleep(20 * time.Second)
			l.TTL = inc
			return l, nil
		}
		g.start(Config{})
		if d := time.Since(g.t0); d != 25*time.Second {
			t.Fatalf("New took %v", d)
		}
		if s := g.r.Status(); s.LeaseLeft != time.Hour-25*time.Second || !s.Expires.Equal(g.t0.Add(time.Hour)) {
			t.Errorf("status %+v", s)
		}
		g.at(37*time.Minute - 1)
		g.wantCalls(1, 0, 0)
		g.at(37*time.Minute + 20*time.Second)
		if s := g.r.Status(); s.LeaseLeft != time.Hour-20*time.Second || !s.Expires.Equal(g.t0.Add(97*time.Minute)) {
			t.Errorf("after the renewal %+v", s)
		}
	})
}

// hazard 41: an answer that took longer than what it grants.
func TestHazard41AnswerTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: 10 * time.Second, Revocable: true})
		g.source.onIssue = func(n int) error {
			if n == 2 {
				time.Sleep(11 * time.Second)
			}
			return nil
		}
		g.start(Config{})
		g.pool("db")
		g.at(19*time.Second + time.Millisecond) // issued at 8 s, answered at 19
		synctest.Wait()
		if s := g.r.Status(); s.Usable && s.LeaseLeft <= 0 {
			t.Errorf("a credential that has ended is in use: %+v", s)
		}
		g.pass(3 * time.Second)
		if g.current() < 3 {
			t.Errorf("generation %d is current", g.current())
		}
	})
}

// hazard 31, as the engine sees it: TTL is the deadline, whatever it comes from.
// A token that ends before the lease shows as a lease of the token's length.
func TestHazard31TTLIsTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		tokenEnds := g.t0.Add(20 * time.Minute)
		g.source.onAnswer = func(n int, c Credential, l Lease) (Credential, Lease, error) {
			if n == 1 {
				l.TTL, l.Capped = time.Until(tokenEnds), true
			}
			return c, l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		p.idle(t)
		g.at(16*time.Minute - 1) // a fifth of 20 minutes before their end
		g.wantCurrent(1)
		g.wantCalls(1, 0, 0)
		g.at(16 * time.Minute)
		g.wantCurrent(2)
		g.at(20 * time.Minute)
		g.wantCalls(2, 0, 1)
		g.wantEvents(map[EventKind]int{CredentialLost: 0, DrainDeadline: 0})
	})
}

// hazard 31: leases that all end with the same token are not replaced ever faster
// as that comes near, and those that were of no use are given back.
func TestHazard31NoRushAtTheTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		tokenEnds := g.t0.Add(90 * time.Minute) // guarded by the source's mutex
		tokenLeft := func() time.Duration {
			g.source.mu.Lock()
			defer g.source.mu.Unlock()
			return time.Until(tokenEnds)
		}
		g.source.onAnswer = func(_ int, c Credential, l Lease) (Credential, Lease, error) {
			left := tokenLeft()
			l.TTL, l.Capped = max(time.Second, min(l.TTL, left)), left < time.Hour
			return c, l, nil
		}
		g.source.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
			l.TTL = min(inc, tokenLeft())
			return l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		p.idle(t)
		g.at(90*time.Minute - 30*time.Second)
		if n := len(g.source.issueTimes()); n > 30 {
			t.Errorf("%d issues in the last minutes of the token", n)
		}
		g.wantEvents(map[EventKind]int{CredentialLost: 0, Published: 1})
		g.source.set(func(*fakeSource) { tokenEnds = g.t0.Add(100 * time.Hour) }) // another login
		g.at(91 * time.Minute)
		g.wantEvents(map[EventKind]int{DrainDeadline: 0})
		if s := g.r.Status(); !s.Usable || s.LeaseLeft < 50*time.Minute || s.Unrevoked != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// A credential without an end is left alone for ever, and one that is over and
// found unchanged comes back.
func TestEndlessAndStatic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{}, Config{})
		g.at(100 * time.Hour)
		g.wantCalls(1, 0, 0)
		if s := g.r.Status(); s.Next != "nothing" || !s.NextAt.IsZero() || s.LeaseLeft != 0 || !s.Expires.IsZero() || !s.Usable {
			t.Errorf("status %+v", s)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: time.Hour})
		g.source.onAnswer = func(n int, _ Credential, l Lease) (Credential, Lease, error) {
			if n > 1 && time.Since(g.t0) < 2*time.Hour {
				return Credential{}, Lease{}, errSealed
			}
			return NewCredential("app", secretMark), l, nil
		}
		g.start(Config{})
		g.at(90 * time.Minute)
		_ = g.noCredential()
		g.at(2*time.Hour + 30*time.Second)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{CredentialLost: 1, CredentialBack: 1, Refreshed: 1, Published: 1})
	})
}

// A source may not grant negative time, nor a credential without a user; what was
// issued is given back.
func TestNonsenseIsRefused(t *testing.T) {
	for name, answer := range map[string]func(Credential, Lease) (Credential, Lease){
		"negative TTL": func(c Credential, l Lease) (Credential, Lease) { l.TTL = -1; return c, l },
		"no user":      func(_ Credential, l Lease) (Credential, Lease) { return NewCredential("", secretMark), l },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, hourLease)
				g.source.onAnswer = func(n int, c Credential, l Lease) (Credential, Lease, error) {
					if n == 2 {
						c, l = answer(c, l)
					}
					return c, l, nil
				}
				g.start(Config{})
				g.at(time.Minute)
				if err := g.r.Rotate(context.Background()); !errors.Is(err, ErrInvalid) {
					t.Errorf("Rotate: %v", err)
				}
				synctest.Wait()
				g.wantCurrent(1)
				g.wantCalls(2, 0, 1)
				g.rotate()
				g.wantCurrent(2)
			})
		})
	}
}
