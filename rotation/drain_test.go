package rotation

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 6: a hijacked connection is a socket like any other: counted until it is
// closed, whoever has it. Revocation waits for it.
func TestHazard6HijackedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		idle, hijacked := p.idle(t), p.inUse(t)
		g.at(time.Minute)
		g.rotate()
		g.at(5 * time.Minute)
		if n := p.a.Connections(idle.Generation()); n != 1 {
			t.Errorf("%d connections of the old generation, want the hijacked one", n)
		}
		g.wantCalls(2, 0, 0)
		if s := g.r.Status(); len(s.Generations) != 2 || s.Generations[0].State != StateDraining || s.Generations[0].Connections != 1 {
			t.Errorf("status %+v", s.Generations)
		}
		before := time.Now()
		_ = hijacked.Close()
		synctest.Wait()
		g.wantCalls(2, 0, 1)
		if e := g.last(Revoked); e.Generation != 1 || !e.Time.Equal(before) {
			t.Errorf("event %+v", e)
		}
		g.wantEvents(map[EventKind]int{Drained: 1, DrainDeadline: 0})
	})
}

// hazard 6: or for the deadline.
func TestHazard6HijackedAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		hijacked := p.inUse(t)
		g.at(time.Minute)
		g.rotate()
		g.at(6*time.Minute - 1)
		g.wantCalls(2, 0, 0)
		if hijacked.Generation().Dead() {
			t.Error("dead before the deadline")
		}
		g.at(6 * time.Minute)
		g.wantCalls(2, 0, 1)
		if _, err := hijacked.Write([]byte("x")); !errors.Is(err, ErrEnded) {
			t.Errorf("writing to it: %v", err)
		}
	})
}

// hazard 7: what is closed twice, or by several, counts once; and it is the close
// of the socket that counts, however slow.
func TestHazard7SlowDestructor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		slow, other := p.inUse(t), p.inUse(t)
		g.at(time.Minute)
		g.rotate()
		for range 3 {
			_ = other.Close()
		}
		synctest.Wait()
		if n := p.a.Connections(slow.Generation()); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		go func() { // the pool forgot it already; its destructor takes its time
			time.Sleep(2 * time.Minute)
			_ = slow.Close()
		}()
		g.at(3*time.Minute - 1)
		g.wantCalls(2, 0, 0)
		g.at(3 * time.Minute)
		g.wantCalls(2, 0, 1)
	})
}

// hazards 11, 34: a leaked connection. At the deadline its socket is closed, its
// session ended at the server, and only then the lease revoked.
func TestHazard11LeakedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		leaked := p.executing(t)
		old := leaked.Generation()
		p.set(func(p *fakePool) {
			p.onEnd = func(ctx context.Context, gen *Generation, conns []*Conn) error {
				if gen != old || len(conns) != 1 || conns[0] != leaked.Conn {
					t.Errorf("End of generation %d with %d connections", gen.ID(), len(conns))
				}
				if !leaked.NetConn().(*socket).isClosed() {
					t.Error("the socket is open when its session is ended")
				}
				if n := p.a.Connections(gen); n != 1 {
					t.Errorf("%d connections are counted while one is being ended", n)
				}
				time.Sleep(700 * time.Millisecond)
				// The user's driver finds its socket closed, and closes it.
				if _, err := leaked.Read(make([]byte, 1)); !errors.Is(err, ErrEnded) {
					t.Errorf("its user is told %v", err)
				}
				_ = leaked.Close()
				if n := p.a.Connections(gen); n != 1 {
					t.Errorf("%d connections are counted while one is being ended", n)
				}
				// hazard 49: the old credential still logs in, to end what is left.
				raw, c := p.newSocket(false)
				if err := c.BindToEnd(gen); err != nil {
					t.Errorf("logging in to end sessions: %v", err)
				}
				if err := raw.login(gen.Credential().Username()); err != nil {
					t.Errorf("logging in to end sessions: %v", err)
				}
				if _, ok := ctx.Deadline(); !ok {
					t.Error("End is not bounded")
				}
				_ = c.Close()
				return nil
			}
		})
		g.at(time.Minute)
		g.rotate()
		g.at(6*time.Minute - 1)
		g.wantEvents(map[EventKind]int{DrainDeadline: 0})
		if old.Dead() {
			t.Error("dead before the deadline")
		}
		g.at(6 * time.Minute)
		g.wantEvents(map[EventKind]int{DrainDeadline: 1, SessionsEnded: 0})
		g.wantCalls(2, 0, 0)
		if !old.Dead() {
			t.Error("what is past its deadline may be handed out")
		}
		if s := g.r.Status(); s.Generations[0].State != StateEnding || !s.Generations[0].Dead {
			t.Errorf("status %+v", s.Generations)
		}
		g.at(6*time.Minute + 700*time.Millisecond - 1)
		g.wantCalls(2, 0, 0)
		g.at(6*time.Minute + 700*time.Millisecond)
		g.wantCalls(2, 0, 1)
		g.wantEvents(map[EventKind]int{SessionsEnded: 1, Drained: 1, Revoked: 1, DrainDeadline: 1})
		if e := g.last(DrainDeadline); e.Connections != 1 || e.Generation != 1 {
			t.Errorf("event %+v", e)
		}
		if e := g.last(SessionsEnded); e.Connections != 1 || e.Err != nil || e.Took != 700*time.Millisecond {
			t.Errorf("event %+v", e)
		}
	})
}

// hazard 34: revocation comes after End has answered, or after its time is up,
// which is reported.
func TestHazard34EndFails(t *testing.T) {
	for name, end := range map[string]struct {
		hook func(ctx context.Context) error
		took time.Duration
	}{
		"fails": {func(context.Context) error { return errUnreachable }, 0},
		"blocks": {func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("ending: %w", ctx.Err())
		}, 3 * time.Second}, // a twentieth of a minute
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startRig(t, Lease{TTL: time.Minute, Renewable: true, Revocable: true}, Config{DrainTimeout: 5 * time.Second})
				g.w.set(func(w *world) { w.lax = true })
				p := g.pool("db")
				p.executing(t)
				p.set(func(p *fakePool) {
					p.onEnd = func(ctx context.Context, _ *Generation, _ []*Conn) error { return end.hook(ctx) }
				})
				g.at(time.Second)
				g.rotate()
				g.at(6*time.Second + end.took - 1)
				g.wantCalls(2, 0, 0)
				g.at(6*time.Second + end.took)
				g.wantCalls(2, 0, 1)
				if e := g.last(SessionsEnded); e.Err == nil || e.Connections != 1 {
					t.Errorf("event %+v", e)
				}
			})
		})
	}
}

// hazard 34: what binds in the very last moment is ended as well.
func TestHazard34LateBind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.inUse(t)
		var late *Conn
		p.set(func(p *fakePool) {
			p.onEnd = func(_ context.Context, gen *Generation, _ []*Conn) error {
				var raw *socket
				raw, late = p.newSocket(false) // an ender that forgets to close
				if err := errors.Join(late.BindToEnd(gen), raw.login("u1")); err != nil {
					t.Errorf("bind: %v", err)
				}
				return nil
			}
		})
		g.at(time.Minute)
		g.rotate()
		g.at(6 * time.Minute)
		g.wantCalls(2, 0, 1)
		if late.Generation() == nil {
			t.Fatal("it was not bound")
		}
		if err := late.BindToEnd(late.Generation()); !errors.Is(err, ErrStale) {
			t.Errorf("binding when nothing is being ended: %v", err)
		}
		if _, err := late.Write([]byte("x")); !errors.Is(err, ErrEnded) {
			t.Errorf("writing to it: %v", err)
		}
	})
}

// The drain window is DrainTimeout, or what the old lease leaves.
func TestDrainDeadline(t *testing.T) {
	for _, c := range []struct {
		name  string
		lease Lease
		drain time.Duration
		start time.Duration // of the rotation
		want  time.Duration // the deadline
	}{
		{"as configured", hourLease, 10 * time.Second, 5 * time.Minute, 5*time.Minute + 10*time.Second},
		{"what the lease leaves", Lease{TTL: time.Minute, Revocable: true}, time.Hour, 48 * time.Second, 58 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startRig(t, c.lease, Config{DrainTimeout: c.drain})
				p := g.pool("db")
				p.inUse(t)
				g.at(c.start)
				if g.current() == 1 {
					g.rotate()
				}
				if s := g.r.Status(); !s.Generations[0].DrainBy.Equal(g.t0.Add(c.want)) {
					t.Errorf("status %+v", s.Generations[0])
				}
				g.at(c.want - 1)
				g.wantEvents(map[EventKind]int{DrainDeadline: 0})
				g.at(c.want)
				g.wantEvents(map[EventKind]int{DrainDeadline: 1, Revoked: 1})
			})
		})
	}
}

// Replace is told by when, gets a context that ends with the pool, and is not
// called where there is nothing to replace.
func TestReplaceIsAskedWhereNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		g.at(time.Minute)
		g.rotate()
		if _, replaced, _ := p.snapshot(); len(replaced) != 0 {
			t.Errorf("asked to replace nothing: %v", replaced)
		}
		c := p.idle(t)
		var ended error
		p.set(func(p *fakePool) {
			p.onReplace = func(ctx context.Context, old *Generation, by time.Time) {
				if old != c.Generation() || !by.Equal(g.t0.Add(7*time.Minute)) {
					t.Errorf("replace generation %d by %v", old.ID(), by)
				}
				<-ctx.Done()
				ended = ctx.Err()
			}
		})
		g.at(2 * time.Minute)
		g.rotate()
		if err := p.a.Close(context.Background()); err == nil {
			t.Error("the connection that was ended is not mentioned")
		}
		synctest.Wait()
		if ended == nil {
			t.Error("Replace goes on after its pool is closed")
		}
	})
}
