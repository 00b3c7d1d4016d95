package rotation

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// checkingSource is a fakeSource that knows which leases exist.
type checkingSource struct {
	*fakeSource
	checks atomic.Int64
	answer atomic.Pointer[error]
}

func (s *checkingSource) Check(context.Context, Lease) error {
	s.checks.Add(1)
	if err := s.answer.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *checkingSource) say(err error) { s.answer.Store(&err) }

var errNoRight = errors.New("permission denied for table items")

func startChecking(t *testing.T) (*rig, *checkingSource, *fakePool) {
	t.Helper()
	g := newRig(t, hourLease)
	s := &checkingSource{fakeSource: g.source}
	if err := g.tryStart(context.Background(), s, Config{}); err != nil {
		t.Fatal(err)
	}
	return g, s, g.pool("db")
}

// hazard 36: an error that may mean a dead credential starts no rotation while the lease exists, however often it
// comes, and few checks.
func TestHazard36SuspicionsAreCheckedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s, p := startChecking(t)
		gen := p.idle(t).Generation()
		for range 1000 {
			p.a.Suspect(gen, errNoRight)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		// After 0.3, 0.8, 1.8, 3.8, 7.8, 15.8, 31.8 s, then every half minute.
		if n := s.checks.Load(); n != 10 {
			t.Errorf("%d checks in 100 s, want 10", n)
		}
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{LeaseChecked: 10, LoginRefused: 0, Published: 1})
		if e := g.last(LeaseChecked); e.Reason != errNoRight.Error() || e.Err != nil {
			t.Errorf("the event: %+v", e)
		}
		g.pass(2 * time.Minute) // of quiet: it begins anew
		p.a.Suspect(gen, errNoRight)
		g.pass(time.Second)
		p.a.Suspect(gen, errNoRight)
		synctest.Wait()
		if n := s.checks.Load(); n != 12 {
			t.Errorf("%d checks after a time of quiet, want 12", n)
		}
	})
}

// A pool that makes no logins heals by this alone: one suspicion, one check, one rotation, after which nothing of the
// old generation is handed out.
func TestSuspicionOfALeaseThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s, p := startChecking(t)
		g.at(10 * time.Minute)
		gen := p.idle(t).Generation()
		s.say(fmt.Errorf("looking it up: %w", ErrLeaseGone))
		for range 50 {
			p.a.Suspect(gen, errNoRight)
		}
		synctest.Wait()
		g.wantCurrent(2)
		g.wantEvents(map[EventKind]int{LeaseChecked: 1, Published: 2})
		if !gen.Dead() || g.last(Published).Reason != "lease is gone" {
			t.Errorf("dead %t, rotated because of %q", gen.Dead(), g.last(Published).Reason)
		}
		p.a.Suspect(gen, errNoRight) // late news of it
		g.pass(time.Minute)
		if n := s.checks.Load(); n != 1 {
			t.Errorf("%d checks", n)
		}
	})
}

// Where the source cannot tell, a login does.
func TestSuspicionWithoutAnAnswer(t *testing.T) {
	for name, say := range map[string]error{"denied": ErrDenied, "down": errSealed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s, p := startChecking(t)
				g.at(10 * time.Minute)
				s.say(say)
				testLoginDecides(t, g, p)
			})
		})
	}
	t.Run("no checker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startRig(t, hourLease, Config{})
			g.at(10 * time.Minute)
			testLoginDecides(t, g, g.pool("db"))
		})
	})
}

func testLoginDecides(t *testing.T, g *rig, p *fakePool) {
	t.Helper()
	gen := p.idle(t).Generation()
	p.a.Suspect(gen, errNoRight)
	synctest.Wait()
	g.wantCurrent(1)
	g.w.set(func(w *world) { w.bad["u1"] = true })
	g.pass(time.Minute)
	p.a.Suspect(gen, errNoRight)
	synctest.Wait()
	g.wantCurrent(2)
	g.wantEvents(map[EventKind]int{LeaseChecked: 2, LoginRefused: 1, Published: 2})
}

// A check that is under way when the end comes leaves nothing behind, and later suspicions are not heard.
func TestSuspicionAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, p := startChecking(t)
		gen := p.idle(t).Generation()
		p.a.Suspect(gen, errNoRight)
		p.closeAll()
		if err := g.r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		p.a.Suspect(gen, errNoRight)
	})
}

// A lease that goes while its connections drain: none of them is handed out any more, whether it is suspected itself or
// the one after it.
func TestSuspicionOfADrainingLease(t *testing.T) {
	for name, suspect := range map[string]func(p *fakePool, old *Generation){
		"itself":    func(p *fakePool, old *Generation) { p.a.Suspect(old, errNoRight) },
		"successor": func(p *fakePool, _ *Generation) { cur, _ := p.a.Current(); p.a.Suspect(cur, errNoRight) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, s, p := startChecking(t)
				old := p.inUse(t).Generation()
				g.at(time.Minute)
				g.rotate()
				if old.Dead() {
					t.Error("it is dead before anything happened")
				}
				s.say(ErrLeaseGone)
				suspect(p, old)
				synctest.Wait()
				if !old.Dead() {
					t.Error("it may still be handed out")
				}
			})
		})
	}
}
