package rotation

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// is has the source return this user and password from now on.
func (s *fakeSource) is(user, password string) {
	s.set(func(s *fakeSource) {
		s.onAnswer = func(_ int, _ Credential, l Lease) (Credential, Lease, error) {
			return NewCredential(user, secretMark+password), l, nil
		}
	})
}

// Where only the password has changed, as a static role's does, connections stay: idle, in use, and past the drain
// deadline; also where the change was noticed by a refused login.
func TestPasswordChangedConnectionsStay(t *testing.T) {
	for name, notice := range map[string]func(g *rig, p *fakePool, c *fakeConn){
		"read again": func(*rig, *fakePool, *fakeConn) {},
		"refused":    func(_ *rig, p *fakePool, c *fakeConn) { p.a.Refused(c.Generation(), ErrRefused) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, Lease{RefreshAfter: time.Minute})
				g.source.is("app", "one")
				g.start(Config{DrainTimeout: time.Minute})
				p := g.pool("db")
				idle, used := p.idle(t), p.inUse(t)
				g.source.is("app", "two")
				g.pass(10 * time.Second)
				notice(g, p, used)
				g.pass(time.Hour)
				g.wantCurrent(2)
				g.wantEvents(map[EventKind]int{Published: 2, Draining: 1, DrainDeadline: 0, SessionsEnded: 0})
				if !idle.Generation().Serving() || !p.a.Settled() || len(p.replaced) > 0 {
					t.Errorf("serving %t, settled %t, %d replaced", idle.Generation().Serving(), p.a.Settled(), len(p.replaced))
				}
				s := g.r.Status()
				if len(s.Generations) != 2 || s.Generations[0].State != StateDraining || !s.Generations[0].DrainBy.IsZero() || s.Generations[0].Connections != 2 {
					t.Errorf("status: %+v", s.Generations)
				}
				_ = idle.Close()
				_ = used.Close()
				synctest.Wait()
				if s := g.r.Status(); len(s.Generations) != 1 {
					t.Errorf("after the last connection: %+v", s.Generations)
				}
			})
		})
	}
}

// Once the user changes, those that stayed are replaced too; and the end of the Rotator ends them.
func TestUserChangedConnectionsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{RefreshAfter: time.Minute})
		g.source.is("app", "one")
		g.start(Config{DrainTimeout: 5 * time.Minute})
		p := g.pool("db")
		old := p.inUse(t)
		g.source.is("app", "two")
		g.pass(2 * time.Minute)
		g.source.is("app2", "two")
		g.pass(2 * time.Minute)
		if old.Generation().Serving() || p.a.Settled() {
			t.Errorf("serving %t, settled %t", old.Generation().Serving(), p.a.Settled())
		}
		g.pass(5 * time.Minute)
		g.wantEvents(map[EventKind]int{Published: 3, DrainDeadline: 1})
		if old.Ended() == nil || !p.a.Settled() {
			t.Errorf("ended: %v, settled %t", old.Ended(), p.a.Settled())
		}
		stays := p.inUse(t)
		g.source.is("app2", "three")
		g.pass(2 * time.Minute)
		g.closeMayFail = true
		start := time.Now()
		if err := g.r.Close(context.Background()); err != nil {
			t.Logf("Close: %v", err)
		}
		if d := time.Since(start); stays.Ended() == nil || d > 10*time.Second {
			t.Errorf("after %v: %v", d, stays.Ended())
		}
	})
}
