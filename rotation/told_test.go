package rotation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// RotateAt is when it really happens, unless a renewal moves it; Granted is what that brought.
func TestStatusTellsTheSchedule(t *testing.T) {
	for name, c := range map[string]struct {
		lease  Lease
		jitter float64
		first  time.Duration // RotateAt, after the start
		then   time.Duration // after half an hour and a renewal at 37 minutes, if there is one
	}{
		"renewable":           {hourLease, 0, 55 * time.Minute, 92 * time.Minute},
		"not renewable":       {Lease{TTL: time.Hour, Revocable: true}, 0, 55 * time.Minute, 55 * time.Minute},
		"capped, with jitter": {Lease{TTL: time.Hour, Capped: true, Renewable: true}, 0.5, 53*time.Minute + 45*time.Second, 53*time.Minute + 45*time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, c.lease)
			g.jitter = c.jitter
			g.start(Config{MaxUnrevoked: 7})
			is := func(want time.Duration) Status {
				t.Helper()
				s := g.r.Status()
				if !s.RotateAt.Equal(g.t0.Add(want)) || s.Granted != time.Hour || s.Cap != 7 {
					t.Errorf("%s: status %+v", name, s)
				}
				return s
			}
			is(c.first)
			g.at(38 * time.Minute)
			s := is(c.then)
			if g.count(Renewed) > 0 {
				return
			}
			g.pass(time.Until(s.RotateAt) - 1)
			g.wantCurrent(1)
			g.pass(1)
			g.wantCurrent(2)
		})
	}
}

// A fleet's credential is replaced once before its time, and Status says when.
func TestStatusTellsTheDispersal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: time.Hour, Revocable: true})
		g.jitter = 0.5
		g.start(Config{})
		s := g.r.Status()
		if want := g.t0.Add(55 * time.Minute / 2); !s.RotateAt.Equal(want) {
			t.Errorf("it is to be replaced at %v, want %v", s.RotateAt, want)
		}
		g.pass(time.Until(s.RotateAt) - 1)
		g.wantCurrent(1)
		g.pass(1)
		g.wantCurrent(2)
	})
}

// Where no end is known none is told.
func TestStatusTellsNoScheduleWithoutAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{RefreshAfter: time.Minute}, Config{})
		if s := g.r.Status(); !s.RotateAt.IsZero() || s.Granted != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestPaidLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		a, b := g.pool("a"), g.pool("b")
		a.a.PaidLogin()
		b.a.PaidLogin()
		b.a.PaidLogin()
		if n := g.r.Status().PaidLogins; n != 3 {
			t.Errorf("%d paid logins, want 3", n)
		}
		if err := g.r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if n := g.r.Status().PaidLogins; n != 3 {
			t.Errorf("%d paid logins after Close, want 3", n)
		}
	})
}

// Every step says how long it took, also one that failed.
func TestEventsTellHowLongItTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.set(func(p *fakePool) {
			p.onProbe = func(_ context.Context, gen *Generation) ProbeResult {
				time.Sleep(2 * time.Second)
				if gen.ID() == 2 {
					return ProbeResult{Refused: 1, Err: ErrRefused}
				}
				return ProbeResult{Accepted: 1}
			}
		})
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(n int) error {
				time.Sleep(3 * time.Second)
				if n == 3 {
					return errUnreachable
				}
				return nil
			}
			s.onRenew = func(n int, l Lease, increment time.Duration) (Lease, error) {
				time.Sleep(4 * time.Second)
				l.TTL = increment
				if n == 1 {
					return l, errUnreachable
				}
				return l, nil
			}
			s.onRevoke = func(_ context.Context, n int, _ Lease) error {
				time.Sleep(5 * time.Second)
				if n == 1 {
					return errUnreachable
				}
				return nil
			}
		})
		took := func(kind EventKind, want time.Duration) {
			t.Helper()
			if e := g.last(kind); e.Took != want {
				t.Errorf("%s took %v, want %v", kind, e.Took, want)
			}
		}
		for _, want := range []error{ErrRefused, errUnreachable, nil} {
			g.pass(time.Minute)
			if err := g.r.Rotate(context.Background()); !errors.Is(err, want) {
				t.Errorf("Rotate: %v, want %v", err, want)
			}
		}
		g.pass(time.Minute)
		took(ProbeFailed, 2*time.Second)
		took(Rejected, 2*time.Second)
		took(Published, 2*time.Second)
		took(Issued, 3*time.Second)
		took(IssueFailed, 3*time.Second)
		took(RevokeFailed, 5*time.Second)
		took(Revoked, 5*time.Second)
		g.pass(40 * time.Minute)
		took(RenewFailed, 4*time.Second)
		took(Renewed, 4*time.Second)
	})
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{RefreshAfter: time.Minute}, Config{})
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { time.Sleep(time.Second); return nil }
			s.onAnswer = func(_ int, _ Credential, l Lease) (Credential, Lease, error) {
				return NewCredential("u1", secretMark+"1"), l, nil
			}
		})
		g.pass(2 * time.Minute)
		if e := g.last(Refreshed); e.Took != time.Second {
			t.Errorf("the refresh took %v", e.Took)
		}
	})
}
