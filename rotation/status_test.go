package rotation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Status at each stage of a rotation's life.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		used := p.inUse(t)
		p.idle(t)
		is := func(stage, next string, in time.Duration, states ...State) Status {
			t.Helper()
			s := g.r.Status()
			synctest.Wait()
			var got []State
			for _, gen := range s.Generations {
				got = append(got, gen.State)
			}
			if len(got) != len(states) {
				t.Fatalf("%s: generations are %v, want %v", stage, got, states)
			}
			for i := range states {
				if got[i] != states[i] {
					t.Errorf("%s: generations are %v, want %v", stage, got, states)
				}
			}
			want := time.Now().Add(in)
			if in < 0 {
				want = time.Time{}
			}
			if s.Next != next || !s.NextAt.Equal(want) {
				t.Errorf("%s: next is %q at %v, want %q at %v", stage, s.Next, s.NextAt, next, want)
			}
			return s
		}
		g.at(7 * time.Minute)
		s := is("fresh", "renew", 30*time.Minute, StateCurrent)
		if s.Generation != 1 || s.User != "u1" || s.Age != 7*time.Minute || s.LeaseLeft != 53*time.Minute ||
			!s.Expires.Equal(g.t0.Add(time.Hour)) || !s.Usable || s.Unrevoked != 1 || s.Paused || s.Closed || s.LastError != nil {
			t.Errorf("fresh: %+v", s)
		}
		if gen := s.Generations[0]; gen.Connections != 2 || gen.ByAttachment["db"] != 2 || gen.Dead || gen.Reason != "" ||
			!gen.DrainBy.IsZero() || !gen.Issued.Equal(g.t0) || gen.User != "u1" {
			t.Errorf("fresh: %+v", gen)
		}

		// Each step takes a while.
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { time.Sleep(time.Second); return nil }
			s.onRevoke = func(context.Context, int, Lease) error { time.Sleep(time.Second); return nil }
		})
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult {
				time.Sleep(time.Second)
				return ProbeResult{Accepted: 1}
			}
			p.onEnd = func(context.Context, *Generation, []*Conn) error { time.Sleep(time.Second); return nil }
		})
		go func() { _ = g.r.Rotate(context.Background()) }()
		g.pass(500 * time.Millisecond)
		is("issuing", "issue", -1, StateCurrent)
		g.pass(time.Second)
		s = is("proving", "probe", -1, StateCurrent, StateIssued)
		if s.Generation != 1 || s.Unrevoked != 2 {
			t.Errorf("proving: %+v", s)
		}
		g.pass(time.Second)
		s = is("draining", "renew", 37*time.Minute-2500*time.Millisecond, StateDraining, StateCurrent)
		if gen := s.Generations[0]; gen.Connections != 1 || gen.Dead || gen.Reason != "requested" || !gen.DrainBy.Equal(g.t0.Add(12*time.Minute+2*time.Second)) {
			t.Errorf("draining: %+v", gen)
		}
		if s.Generation != 2 || s.Age != 2500*time.Millisecond {
			t.Errorf("draining: %+v", s)
		}
		g.at(12*time.Minute + 2500*time.Millisecond)
		s = is("ending", "renew", 32*time.Minute-2500*time.Millisecond, StateEnding, StateCurrent)
		if gen := s.Generations[0]; !gen.Dead || gen.DrainBy.IsZero() || gen.Connections != 1 {
			t.Errorf("ending: %+v", gen)
		}
		g.pass(time.Second)
		s = is("revoking", "renew", 32*time.Minute-3500*time.Millisecond, StateRevoking, StateCurrent)
		if gen := s.Generations[0]; gen.Connections != 0 || s.Unrevoked != 2 || !gen.DrainBy.IsZero() {
			t.Errorf("revoking: %+v", s)
		}
		g.pass(time.Second)
		if s = is("retired", "renew", 32*time.Minute-4500*time.Millisecond, StateCurrent); s.Unrevoked != 1 {
			t.Errorf("retired: %+v", s)
		}
		_ = used.Close()
		p.closeAll()
		p.set(func(p *fakePool) { p.onProbe, p.onEnd = nil, nil })
		if err := g.r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := g.r.Status(); !s.Closed || s.Usable || s.Next != "nothing" || len(s.Generations) != 0 || s.Generation != 2 {
			t.Errorf("closed: %+v", s)
		}
	})
}

// NextAt is when it really happens: the floor and the backoff included.
func TestStatusNextAtIsTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, RefreshAfter: 10 * time.Minute}, Config{IssueInterval: 20 * time.Second})
		for range 5 {
			s := g.r.Status()
			if s.Next != "refresh" {
				t.Fatalf("status %+v", s)
			}
			n := len(g.source.issueTimes())
			g.pass(time.Until(s.NextAt) - 1)
			if len(g.source.issueTimes()) != n {
				t.Error("sooner than Status said")
			}
			g.pass(1)
			if len(g.source.issueTimes()) != n+1 {
				t.Error("not when Status said")
			}
		}
		g.r.do(g.r.loop.sourceChanged)
		if s := g.r.Status(); s.Next != "rotate" || !s.NextAt.Equal(time.Now().Add(20*time.Second)) {
			t.Errorf("status %+v", s)
		}
	})
}

// The newest failure stays until that step succeeds, whatever else does.
func TestStatusLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.source.set(func(s *fakeSource) {
			s.onRevoke = func(context.Context, int, Lease) error { return errUnreachable }
		})
		g.at(time.Minute)
		g.rotate()
		s := g.r.Status()
		if !errors.Is(s.LastError, errUnreachable) || !s.ErrorAt.Equal(time.Now()) || s.Failures != 1 {
			t.Errorf("status %+v", s)
		}
		g.at(39 * time.Minute) // a renewal succeeded
		if s := g.r.Status(); !errors.Is(s.LastError, errUnreachable) || s.Failures < 10 {
			t.Errorf("status %+v", s)
		}
		g.source.set(func(s *fakeSource) { s.onRevoke = nil })
		g.pass(5 * time.Minute)
		if s := g.r.Status(); s.LastError != nil || s.Failures != 0 || !s.ErrorAt.IsZero() {
			t.Errorf("status %+v", s)
		}
	})
}

// Pause holds off every issue; renewals and revocations go on.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		used := p.inUse(t)
		g.at(time.Minute)
		g.rotate()
		resume := g.r.Pause()
		again := g.r.Pause()
		if err := g.r.Rotate(context.Background()); !errors.Is(err, ErrPaused) {
			t.Errorf("Rotate: %v", err)
		}
		if s := g.r.Status(); !s.Paused {
			t.Errorf("status %+v", s)
		}
		_ = used.Close()
		g.at(40 * time.Minute)
		g.wantCalls(2, 1, 1)
		resume()
		resume() // idempotent: the other pause still holds
		synctest.Wait()
		if err := g.r.Rotate(context.Background()); !errors.Is(err, ErrPaused) {
			t.Errorf("Rotate: %v", err)
		}
		g.wantEvents(map[EventKind]int{Paused: 1, Resumed: 0})
		again()
		synctest.Wait()
		g.wantEvents(map[EventKind]int{Paused: 1, Resumed: 1})
		g.rotate()
		g.wantCurrent(3)
		resume()
		again()
		if s := g.r.Status(); s.Paused {
			t.Errorf("status %+v", s)
		}
	})
}

// A rotation that comes due meanwhile waits; it happens as soon as it may, before
// the end or after.
func TestPauseHoldsWhatIsDue(t *testing.T) {
	for _, c := range []struct {
		until time.Duration
		lost  int
	}{{58 * time.Minute, 0}, {2 * time.Hour, 1}} {
		synctest.Test(t, func(t *testing.T) {
			g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
			resume := g.r.Pause()
			g.at(c.until)
			g.wantCalls(1, 0, 0)
			if s := g.r.Status(); s.Usable != (c.lost == 0) {
				t.Errorf("status %+v", s)
			}
			resume()
			synctest.Wait()
			g.wantCurrent(2)
			g.wantCalls(2, 0, 1)
			g.wantEvents(map[EventKind]int{CredentialLost: c.lost, CredentialBack: c.lost})
		})
	}
}

// Who waits for a rotation when Pause comes is told.
func TestPauseAnswersWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{IssueInterval: 10 * time.Second})
		answer := make(chan error, 1)
		go func() { answer <- g.r.Rotate(context.Background()) }() // waits for the interval
		g.at(time.Second)
		resume := g.r.Pause()
		g.at(time.Minute)
		select {
		case err := <-answer:
			if !errors.Is(err, ErrPaused) {
				t.Errorf("Rotate: %v", err)
			}
		default:
			t.Error("Rotate waits for the resumption")
		}
		g.wantCalls(1, 0, 0)
		resume()
		g.at(2 * time.Minute)
		g.wantCalls(1, 0, 0)
	})
}
