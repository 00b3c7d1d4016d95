package rotation

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 43: however many connections notice, one rotation follows, and each goes
// on when it is done. Hazard 35: it follows at the first refused login.
func TestHazard43ManyRefusalsOneRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		g.at(40 * time.Minute)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(2 * time.Second); return nil } })
		g.w.set(func(w *world) { w.bad["u1"] = true })
		var callers, refused sync.WaitGroup
		refused.Add(100)
		for i := range 200 {
			callers.Go(func() {
				pool := []*fakePool{p, q}[i%2]
				if i < 100 { // all of them log in before the first one can report it
					raw, c := pool.newSocket(false)
					gen, err := pool.a.BindCurrent(c)
					if err != nil || !errors.Is(raw.login(gen.Credential().Username()), ErrRefused) {
						t.Errorf("a login before anybody knows: %v", err)
					}
					_ = c.Close()
					refused.Done()
					refused.Wait()
					pool.a.Refused(gen, ErrRefused)
				} else {
					refused.Wait()
					time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				}
				for {
					_, err := pool.connect(false, false)
					if err == nil {
						return
					}
					var none *NoCredentialError
					if !errors.Is(err, ErrRefused) && !errors.As(err, &none) {
						t.Errorf("a login: %v", err)
						return
					}
					if err := pool.a.Await(context.Background()); err != nil {
						t.Errorf("Await: %v", err)
						return
					}
				}
			})
		}
		callers.Wait()
		synctest.Wait()
		if d := time.Since(g.t0); d != 40*time.Minute+2*time.Second {
			t.Errorf("it took until %v", d)
		}
		g.wantCurrent(2)
		g.wantCalls(2, 1, 1)
		g.wantEvents(map[EventKind]int{LoginRefused: 1, CredentialLost: 1, CredentialBack: 1, Published: 2})
		if e := g.last(Published); e.Reason != "login refused" {
			t.Errorf("rotated because of %q", e.Reason)
		}
	})
}

// What is refused while a rotation is under way joins it; a late report about a
// generation that is not current says nothing new.
func TestHazard43RefusalsJoinAndLateOnesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		old, _ := p.a.Current()
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(time.Minute); return nil } })
		g.at(time.Minute)
		rotated := make(chan error, 1)
		go func() { rotated <- g.r.Rotate(context.Background()) }()
		synctest.Wait()
		p.a.Refused(old, ErrRefused)
		_ = g.noCredential()
		if err := <-rotated; err != nil {
			t.Errorf("Rotate: %v", err)
		}
		synctest.Wait()
		g.wantCurrent(2)
		for range 10 {
			p.a.Refused(old, ErrRefused)
		}
		// Nor does one about a generation that nobody ever complained of.
		good, _ := p.a.Current()
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.at(10 * time.Minute)
		g.rotate()
		p.a.Refused(good, ErrRefused)
		g.at(30 * time.Minute)
		g.wantCurrent(3)
		g.wantCalls(3, 0, 2)
		g.wantEvents(map[EventKind]int{LoginRefused: 1, CredentialLost: 1})
	})
}

// A refused credential serves no more logins, and is dead as soon as there is
// another; its connections in use may finish.
func TestRefusedCredentialIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		used := p.inUse(t)
		old := used.Generation()
		g.at(time.Minute)
		p.a.Refused(old, ErrRefused)
		synctest.Wait()
		g.wantCurrent(2)
		if !old.Dead() {
			t.Error("a refused credential may be handed out though there is another")
		}
		g.at(6*time.Minute - 1)
		g.wantEvents(map[EventKind]int{Draining: 1, DrainDeadline: 0, Revoked: 0})
		_ = used.Close()
		synctest.Wait()
		g.wantEvents(map[EventKind]int{Drained: 1, DrainDeadline: 0, Revoked: 1})
	})
}

// checkRefusal: the database was wrong, and the source has nothing else. The
// credential is kept.
func TestRefusedAndAcceptedAgainIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		idle := p.idle(t)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.at(time.Minute)
		g.w.set(func(w *world) { w.bad["u1"] = true })
		p.a.Refused(idle.Generation(), ErrRefused)
		g.at(10 * time.Minute)
		_ = g.noCredential()
		g.w.set(func(w *world) { w.bad["u1"] = false })
		g.pass(30 * time.Second)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{CredentialLost: 1, CredentialBack: 1})
		if gen := idle.Generation(); !gen.Serving() || gen.Dead() {
			t.Error("its connection is not served")
		}
		n := len(g.source.issueTimes())
		g.at(36 * time.Minute)
		if got := len(g.source.issueTimes()); got != n {
			t.Errorf("%d more issues though nothing is wrong any more", got-n)
		}
		// And it is looked after as before.
		g.at(38 * time.Minute)
		if lenRenewals(g) != 1 {
			t.Error("it is not renewed")
		}
		// The next refusal is news again.
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		p.a.Refused(idle.Generation(), ErrRefused)
		g.pass(time.Minute)
		g.wantCurrent(2)
	})
}

// hazard 56: while there is no other, a credential that one host still accepts is kept for it, whatever the other
// says. One that has ended meanwhile is not brought back.
func TestHazard56KeptWhereItIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour}, Config{})
		p, q := g.pool("db"), g.pool("replica")
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.at(time.Minute)
		answer := func(p *fakePool, r ProbeResult) {
			p.set(func(p *fakePool) { p.onProbe = func(context.Context, *Generation) ProbeResult { return r } })
		}
		refused := ProbeResult{Refused: 1, Err: ErrRefused}
		answer(p, refused)
		answer(q, refused)
		cur, _ := q.a.Current()
		q.a.Refused(cur, ErrRefused)
		g.at(10 * time.Minute)
		_ = g.noCredential()
		answer(p, ProbeResult{Accepted: 1})
		g.pass(time.Minute)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{CredentialLost: 1, CredentialBack: 1})
		for range 100 { // it goes on refusing
			q.a.Refused(cur, ErrRefused)
			g.pass(time.Second)
			g.wantCurrent(1)
		}
		g.pass(5 * time.Second)
		answer(p, refused) // now nobody accepts it
		q.a.Refused(cur, ErrRefused)
		g.pass(time.Minute)
		_ = g.noCredential()
		g.at(61 * time.Minute)
		answer(q, ProbeResult{Accepted: 1})
		probed, _, _ := q.snapshot()
		g.pass(10 * time.Minute)
		_ = g.noCredential()
		if now, _, _ := q.snapshot(); len(now) != len(probed) {
			t.Error("a credential that has ended is tried")
		}
	})
}

// hazard 56: when a new one can be had after that, and is refused by the same host, it is not asked for again.
func TestHazard56RotationDoesNotHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		p.idle(t)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.at(time.Minute)
		q.set(func(q *fakePool) {
			q.onProbe = func(context.Context, *Generation) ProbeResult { return ProbeResult{Refused: 1, Err: ErrRefused} }
		})
		cur, _ := q.a.Current()
		q.a.Refused(cur, ErrRefused)
		g.at(5 * time.Minute)
		g.wantCurrent(1)
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.at(8 * time.Minute)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{Rejected: 1, Published: 1, CredentialLost: 1})
		before, _, _ := g.source.counts()
		g.at(30 * time.Minute)
		if now, _, _ := g.source.counts(); now != before {
			t.Errorf("%d more were issued", now-before)
		}
		q.set(func(q *fakePool) { q.onProbe = nil })
		g.rotate()
		g.wantCurrent(3)
	})
}

// hazard 56: a replica that is back behind a rotation refuses the credential that the others use. One rotation finds that
// it does not help, and is the last; what the others refuse is news all the same.
func TestHazard56OneRotationForAHostThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		p.idle(t)
		g.at(time.Minute)
		q.set(func(q *fakePool) {
			q.onProbe = func(context.Context, *Generation) ProbeResult { return ProbeResult{Refused: 1, Err: ErrRefused} }
		})
		for range 100 {
			if cur, err := q.a.Current(); err == nil {
				q.a.Refused(cur, ErrRefused)
			}
			g.pass(time.Second)
		}
		g.wantCurrent(2)
		g.wantEvents(map[EventKind]int{Published: 2, LoginRefused: 1, CredentialLost: 1})
		if probed, _, _ := q.snapshot(); len(probed) < 10 || len(probed) > 60 {
			t.Errorf("the replica was asked %d times in 100 s", len(probed))
		}
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		g.pass(5 * time.Second) // of which the replica is given two
		g.wantCurrent(3)
		q.set(func(q *fakePool) { q.onProbe = nil }) // it has caught up
		cur, _ = q.a.Current()
		q.a.Refused(cur, ErrRefused)
		g.pass(10 * time.Second)
		g.wantCurrent(3)
		q.a.Refused(cur, ErrRefused) // so this is news
		g.pass(30 * time.Second)
		g.wantCurrent(4)
	})
}

// A host that refuses where another accepts can be the first sign that a credential is dead: of one that was good
// everywhere, the next refused login is news.
func TestHazard56FirstSignOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		p.idle(t)
		g.at(time.Minute)
		p.set(func(p *fakePool) {
			p.onProbe = func(_ context.Context, g *Generation) ProbeResult {
				if g.ID() == 1 {
					return ProbeResult{Refused: 1, Err: ErrRefused}
				}
				return ProbeResult{Accepted: 1}
			}
		})
		cur, _ := p.a.Current()
		p.a.Suspect(cur, errors.New("permission denied")) // the source cannot tell: a login is tried everywhere
		g.pass(time.Second)
		if probed, _, _ := q.snapshot(); len(probed) != 1 {
			t.Fatalf("the other host was asked %d times", len(probed))
		}
		g.wantCurrent(1)
		p.a.Refused(cur, ErrRefused)
		g.pass(time.Second)
		g.wantCurrent(2)
	})
}

// A static role or a file that holds the credential which the database refuses:
// it is asked again at a bounded rate until it has another.
func TestRefusedAndReturnedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{RefreshAfter: time.Hour})
		password := "one"
		g.source.onAnswer = func(_ int, _ Credential, l Lease) (Credential, Lease, error) {
			return NewCredential("app", secretMark+password), l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		g.at(time.Minute)
		g.w.set(func(w *world) { w.bad["app"] = true })
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		g.at(11 * time.Minute)
		if none := g.noCredential(); none.Err == nil {
			t.Errorf("%v", none)
		}
		if n := len(g.source.issueTimes()); n > 30 {
			t.Errorf("%d issues in ten minutes", n)
		}
		g.wantEvents(map[EventKind]int{Refreshed: 0, Published: 1})
		g.source.set(func(*fakeSource) { password = "two" })
		g.w.set(func(w *world) { w.bad["app"] = false })
		p.set(func(p *fakePool) { // the old password is wrong now
			p.onProbe = func(_ context.Context, gen *Generation) ProbeResult {
				if gen.ID() == 1 {
					return ProbeResult{Refused: 1, Err: ErrRefused}
				}
				return ProbeResult{Accepted: 1}
			}
		})
		g.pass(30 * time.Second)
		g.wantCurrent(2)
	})
}

// Await is over when the rotator is.
func TestAwaitClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		hang := make(chan struct{})
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { <-hang; return errSealed } })
		g.at(time.Minute)
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		go func() {
			time.Sleep(time.Second)
			g.closeMayFail = true
			_ = g.r.Close(context.Background())
		}()
		if err := p.a.Await(context.Background()); !errors.Is(err, ErrClosed) || time.Since(g.t0) != time.Minute+time.Second {
			t.Errorf("Await: %v after %v", err, time.Since(g.t0))
		}
		if _, err := p.a.Current(); !errors.Is(err, ErrClosed) {
			t.Errorf("Current: %v", err)
		}
		close(hang)
		synctest.Wait()
	})
}
