package rotation

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 47: two pools on one rotator: one revocation, when both are drained.
func TestHazard47BothDrainBeforeTheRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		a, b := p.inUse(t), q.inUse(t)
		p.idle(t)
		g.at(time.Minute)
		g.rotate()
		s := g.r.Status()
		if by := s.Generations[0].ByAttachment; by["db"] != 1 || by["replica"] != 1 || s.Generations[0].Connections != 2 {
			t.Errorf("%+v", s.Generations[0])
		}
		_ = a.Close()
		g.at(2 * time.Minute)
		g.wantCalls(2, 0, 0)
		_ = b.Close()
		synctest.Wait()
		g.wantCalls(2, 0, 1)
	})
}

// hazards 47, 57: closing one ends its own connections, leaked ones too, and
// leaves the other's, and the lease.
func TestHazard57ClosingOneLeavesTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		drainingP, drainingQ := p.executing(t), q.inUse(t)
		g.at(time.Minute)
		g.rotate()
		currentP, currentQ := p.inUse(t), q.inUse(t)
		err := p.a.Close(context.Background())
		if err == nil || !strings.Contains(err.Error(), "2 connections") || !strings.Contains(err.Error(), "db") {
			t.Errorf("Close: %v", err)
		}
		for _, c := range []*fakeConn{drainingP, currentP} {
			if _, err := c.Write([]byte("x")); !errors.Is(err, ErrEnded) {
				t.Errorf("a connection of the closed pool: %v", err)
			}
		}
		for _, c := range []*fakeConn{drainingQ, currentQ} {
			if c.NetConn().(*socket).isClosed() || c.Generation().Dead() {
				t.Error("a connection of the other pool was ended")
			}
		}
		if n := p.a.Connections(drainingP.Generation()) + p.a.Connections(currentP.Generation()); n != 0 {
			t.Errorf("%d connections of the closed pool are counted", n)
		}
		if _, _, ended := q.snapshot(); len(ended) != 0 {
			t.Errorf("the other pool was asked to end %v", ended)
		}
		if _, err := p.connect(false, false); !errors.Is(err, ErrClosed) {
			t.Errorf("the closed pool logs in: %v", err)
		}
		if again := p.a.Close(context.Background()); again == nil || again.Error() != err.Error() {
			t.Errorf("closing again: %v", again)
		}
		g.wantCalls(2, 0, 0)
		q.idle(t) // the other goes on
		g.at(2 * time.Minute)
		_ = drainingQ.Close()
		synctest.Wait()
		g.wantCalls(2, 0, 1)
		g.wantCurrent(2)
		probed, _, _ := p.snapshot()
		g.rotate()
		if now, _, _ := p.snapshot(); len(now) != len(probed) {
			t.Error("a closed pool is asked to probe")
		}
		if s := g.r.Status(); s.Generations[len(s.Generations)-1].ByAttachment["db"] != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// hazard 57: at the drain deadline too, each pool ends its own, at the same time:
// one whose server is silent does not take the other's time.
func TestHazard57EachPoolEndsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		p.executing(t)
		q.executing(t)
		q.executing(t)
		g.w.set(func(w *world) { w.lax = true })
		p.set(func(p *fakePool) {
			p.onEnd = func(ctx context.Context, _ *Generation, _ []*Conn) error { <-ctx.Done(); return ctx.Err() }
		})
		var left time.Duration
		q.set(func(q *fakePool) {
			q.onEnd = func(ctx context.Context, _ *Generation, conns []*Conn) error {
				deadline, _ := ctx.Deadline()
				left = time.Until(deadline)
				for _, c := range conns {
					if c.att != q.a {
						t.Error("asked to end another pool's connection")
					}
				}
				return nil
			}
		})
		g.at(time.Minute)
		g.rotate()
		g.at(6*time.Minute + 6*time.Second)
		_, _, a := p.snapshot()
		_, _, b := q.snapshot()
		if len(a) != 1 || a[0] != 1 || len(b) != 1 || b[0] != 2 {
			t.Errorf("the pools were asked to end %v and %v", a, b)
		}
		if left < time.Second {
			t.Errorf("the second pool had %v left", left)
		}
		g.wantCalls(2, 0, 1)
		if e := g.last(SessionsEnded); e.Connections != 3 || !errors.Is(e.Err, context.DeadlineExceeded) {
			t.Errorf("event %+v", e)
		}
	})
}

// A pool that is being closed while the engine reaches the drain deadline: nothing
// is revoked before the pool's own ender is done.
func TestHazard57CloseMeetsTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.executing(t)
		p.set(func(p *fakePool) {
			p.onEnd = func(context.Context, *Generation, []*Conn) error { time.Sleep(3 * time.Second); return nil }
		})
		g.at(time.Minute)
		g.rotate()
		g.at(6*time.Minute - time.Second)
		closed := make(chan error, 1)
		go func() { closed <- p.a.Close(context.Background()) }()
		g.at(6*time.Minute + 2*time.Second - 1)
		g.wantCalls(2, 0, 0)
		if err := <-closed; err == nil || time.Since(g.t0) != 6*time.Minute+2*time.Second {
			t.Errorf("Close: %v after %v", err, time.Since(g.t0))
		}
		g.pass(200 * time.Millisecond)
		g.wantCalls(2, 0, 1)
		if _, _, ended := p.snapshot(); len(ended) != 1 {
			t.Errorf("ended %v", ended)
		}
	})
}

func TestAttachAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		if err := g.r.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if a, err := g.r.Attach(&fakePool{w: g.w, name: "late"}); a != nil || !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "late") {
			t.Errorf("Attach: %v, %v", a, err)
		}
		if _, err := p.a.Current(); !errors.Is(err, ErrClosed) {
			t.Errorf("Current: %v", err)
		}
		if err := p.a.Await(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("Await: %v", err)
		}
		if err := p.a.Prove(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("Prove: %v", err)
		}
		if err := p.a.Close(context.Background()); err != nil {
			t.Errorf("closing an attachment of a closed rotator: %v", err)
		}
		p.a.Refused(newGeneration(9, Credential{}, nil), ErrRefused) // nobody listens; it returns
	})
}

// A pool that attaches in the middle of a rotation.
func TestAttachWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		used := p.inUse(t)
		g.at(time.Minute)
		g.rotate()
		q := g.pool("late")
		if c := q.idle(t); c.Generation().ID() != 2 {
			t.Errorf("it logs in with generation %d", c.Generation().ID())
		}
		_ = used.Close()
		synctest.Wait()
		g.wantCalls(2, 0, 1)
	})
}
