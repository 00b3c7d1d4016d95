package rotation

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errSealed = errors.New("503: Vault is sealed")

// retryLaterError is an error with a Retry-After.
type retryLaterError struct{ after time.Duration }

func (retryLaterError) Error() string               { return "429: too many requests" }
func (e retryLaterError) RetryAfter() time.Duration { return e.after }

// hazard 25: an outage of an hour while a rotation is due. What there is goes on
// serving, the source is asked at a bounded, jittered rate, and recovery is quick.
func TestHazard25OutageIsAskedAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, Lease{TTL: 10 * time.Hour, Revocable: true})
		g.start(Config{DrainTimeout: 5 * time.Minute})
		g.r.random = rand.Float64
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.r.do(g.r.loop.sourceChanged) // a rotation is due, nobody waits for it
		start := time.Now()
		g.pass(time.Hour)
		g.wantCurrent(1)
		times := g.source.issueTimes()[1:]
		// 10 steps to reach the limit, then one in one to two minutes.
		if n := len(times); n < 60/2 || n > 60+10 {
			t.Errorf("%d issues in an hour of outage", n)
		}
		distinct := make(map[time.Duration]bool)
		for i := 11; i < len(times); i++ {
			gap := times[i].Sub(times[i-1])
			distinct[gap] = true
			if gap < time.Minute || gap > 2*time.Minute {
				t.Errorf("issue %d came %v after the one before", i, gap)
			}
		}
		if len(distinct) < 15 {
			t.Errorf("only %d different gaps: no jitter", len(distinct))
		}
		if first := times[1].Sub(times[0]); first > time.Second {
			t.Errorf("the first retry came after %v", first)
		}
		s := g.r.Status()
		if !errors.Is(s.LastError, errSealed) || s.Failures != len(times) || !s.Usable || s.NextAt.Before(time.Now()) {
			t.Errorf("status %+v", s)
		}
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.pass(2 * time.Minute)
		g.wantCurrent(2)
		if e := g.last(IssueFailed); e.Attempt != len(times) || e.RetryAt.Before(start.Add(time.Hour)) {
			t.Errorf("event %+v", e)
		}
	})
}

// hazard 25: Retry-After, for issues and for renewals.
func TestHazard25RetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { return errors.Join(errors.New("issuing"), retryLaterError{3 * time.Minute}) }
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, retryLaterError{5 * time.Minute} }
		})
		g.at(time.Second)
		g.r.do(g.r.loop.sourceChanged)
		synctest.Wait()
		g.wantCalls(2, 0, 0)
		g.at(3*time.Minute + time.Second - 1)
		g.wantCalls(2, 0, 0)
		g.at(3*time.Minute + time.Second)
		g.wantCalls(3, 0, 0)
		g.at(37 * time.Minute)
		_, n, _ := g.source.counts()
		g.at(42*time.Minute - 1)
		if _, now, _ := g.source.counts(); now != n {
			t.Error("a renewal was tried before its time")
		}
		g.at(42 * time.Minute)
		if _, now, _ := g.source.counts(); now != n+1 {
			t.Errorf("%d renewals, want %d", now, n+1)
		}
	})
}

// hazard 26: down past the lease's end. A login fails at once and says since when
// and why, what is open stays, and recovery needs no restart.
func TestHazard26DownPastTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		idle, used := p.idle(t), p.inUse(t)
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { return errSealed }
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, errSealed }
		})
		g.at(time.Hour - 1)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{CredentialLost: 0})
		g.at(time.Hour)
		none := g.noCredential()
		if !none.Since.Equal(time.Now()) || none.Reason != "its lease has ended" || !errors.Is(none, errSealed) {
			t.Errorf("%+v", none)
		}
		before := time.Now()
		for range 100 {
			_, err := p.connect(false, false)
			var typed *NoCredentialError
			if !errors.As(err, &typed) {
				t.Fatalf("a login: %v", err)
			}
			for _, part := range []string{"since 2000-01-01T01:00:00Z", "its lease has ended", errSealed.Error(), "next attempt at"} {
				if !strings.Contains(err.Error(), part) {
					t.Fatalf("%q does not say %q", err, part)
				}
			}
		}
		if err := p.a.Await(context.Background()); !errors.Is(err, errSealed) {
			t.Errorf("Await: %v", err)
		}
		if _, err := p.a.BindCurrent(idle.Conn); err == nil {
			t.Error("a bind succeeds")
		}
		if time.Since(before) != 0 {
			t.Errorf("being told took %v", time.Since(before))
		}
		// Open connections are the database's business.
		g.at(5 * time.Hour)
		for _, c := range []*fakeConn{idle, used} {
			if gen := c.Generation(); gen.Dead() || !gen.Serving() {
				t.Error("an open connection is not served any more")
			}
			if c.NetConn().(*socket).isClosed() {
				t.Error("an open connection was closed")
			}
		}
		g.wantCalls(len(g.source.issueTimes()), 0+lenRenewals(g), 0)
		if s := g.r.Status(); s.Usable || s.LeaseLeft != -4*time.Hour {
			t.Errorf("status %+v", s)
		}
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.pass(30 * time.Second)
		g.wantCurrent(2)
		p.idle(t)
		g.wantEvents(map[EventKind]int{CredentialLost: 1, CredentialBack: 1})
		if e := g.last(CredentialBack); e.Took < 4*time.Hour || e.Took > 4*time.Hour+30*time.Second {
			t.Errorf("event %+v", e)
		}
		if !idle.Generation().Dead() {
			t.Error("an expired credential may be handed out though there is another")
		}
	})
}

func lenRenewals(g *rig) int {
	_, n, _ := g.source.counts()
	return n
}

// hazard 26: RetryAt is the next attempt's, and zero while it is under way.
func TestHazard26RetryAtIsTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Minute}, Config{})
		hang := make(chan struct{})
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errSealed } })
		g.at(2 * time.Minute)
		none := g.noCredential()
		n := len(g.source.issueTimes())
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { <-hang; return errSealed } })
		g.pass(time.Until(none.RetryAt) - 1)
		if len(g.source.issueTimes()) != n {
			t.Error("asked before RetryAt")
		}
		g.pass(1)
		if len(g.source.issueTimes()) != n+1 {
			t.Error("not asked at RetryAt")
		}
		if none := g.noCredential(); !none.RetryAt.IsZero() || !strings.Contains(none.Error(), "under way") {
			t.Errorf("while it is under way: %v", none)
		}
		close(hang)
		synctest.Wait()
		if none := g.noCredential(); !none.RetryAt.After(time.Now()) {
			t.Errorf("after it failed: %v", none)
		}
	})
}

// hazard 26: one passing fault is no reason to give up a call; a second one is.
func TestHazard26AwaitForgivesOneFault(t *testing.T) {
	for _, faults := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, hourLease)
			g.source.onIssue = func(n int) error {
				if n > 1 && n <= 1+faults {
					return errSealed
				}
				return nil
			}
			g.start(Config{})
			p := g.pool("db")
			p.set(func(p *fakePool) { // the database means it
				p.onProbe = func(_ context.Context, gen *Generation) ProbeResult {
					if gen.ID() == 1 {
						return ProbeResult{Refused: 1, Err: ErrRefused}
					}
					return ProbeResult{Accepted: 1}
				}
			})
			g.at(time.Minute)
			cur, _ := p.a.Current()
			p.a.Refused(cur, ErrRefused)
			err := p.a.Await(context.Background())
			if faults == 1 && err != nil || faults == 2 && !errors.Is(err, errSealed) {
				t.Errorf("%d faults: Await: %v", faults, err)
			}
			if d := time.Since(g.t0); d != time.Minute+time.Second { // the interval between two issues
				t.Errorf("%d faults: Await returned after %v", faults, d)
			}
			g.pass(time.Minute)
			g.wantCurrent(2)
		})
	}
}

// hazard 26: nobody waits for what is held off on purpose.
func TestHazard26HeldOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		g.at(time.Minute)
		resume := g.r.Pause()
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		if err := p.a.Await(context.Background()); !errors.Is(err, ErrPaused) || !strings.Contains(err.Error(), "no attempt") {
			t.Errorf("Await: %v", err)
		}
		if none := g.noCredential(); !none.RetryAt.IsZero() || none.Reason != "the database refused it" {
			t.Errorf("%+v", none)
		}
		g.wantCalls(1, 0, 0)
		resume()
		synctest.Wait()
		g.wantCurrent(2)
	})
}

// hazard 26: the least interval between issues is a reason to wait too.
func TestHazard26RetryAtKnowsTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{IssueInterval: 20 * time.Second})
		p := g.pool("db")
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		synctest.Wait()
		if none := g.noCredential(); !none.RetryAt.Equal(g.t0.Add(20 * time.Second)) {
			t.Errorf("%v", none)
		}
		if err := p.a.Await(context.Background()); err != nil || time.Since(g.t0) != 20*time.Second {
			t.Errorf("Await: %v after %v", err, time.Since(g.t0))
		}
	})
}

// hazard 27: the issue's answer is lost, though a user was made each time: at most
// one more per step of the backoff.
func TestHazard27LostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.r.random = rand.Float64
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { time.Sleep(20 * time.Second); return errors.New("reading the answer: EOF") }
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, errSealed }
		})
		g.at(55 * time.Minute)
		g.pass(time.Minute)
		if n := len(g.source.issueTimes()) - 1; n > 3 {
			t.Errorf("%d issues in the first minute", n)
		}
		g.pass(3 * time.Hour)
		if n := len(g.source.issueTimes()) - 1; n < 3*60*60/50 || n > 3*60*60/35+8 {
			t.Errorf("%d issues in three hours", n)
		}
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.pass(time.Minute)
		g.wantCurrent(2)
	})
}

// hazard 10: a caller's deadline during an outage.
func TestHazard10AwaitReturnsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		hang := make(chan struct{})
		g.at(time.Minute)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { <-hang; return nil } })
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := p.a.Await(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Await: %v", err)
		}
		if d := time.Since(g.t0); d != time.Minute+3*time.Second {
			t.Errorf("Await returned after %v", d)
		}
		// Whoever has time is told after ten seconds that this one does not answer.
		err := p.a.Await(context.Background())
		var none *NoCredentialError
		if !errors.As(err, &none) || time.Since(g.t0) != time.Minute+10*time.Second {
			t.Errorf("Await: %v after %v", err, time.Since(g.t0))
		}
		// And is told at once from then on.
		if err := p.a.Await(context.Background()); !errors.As(err, &none) {
			t.Errorf("Await: %v", err)
		}
		if d := time.Since(g.t0); d != time.Minute+10*time.Second {
			t.Errorf("Await waited until %v", d)
		}
		close(hang)
		synctest.Wait()
		g.wantCurrent(2)
		if err := p.a.Await(context.Background()); err != nil {
			t.Errorf("Await with a credential: %v", err)
		}
	})
}

// hazard 10: Close is bounded with a source that never answers.
func TestHazard10CloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{CloseTimeout: 4 * time.Second})
		hang := make(chan struct{})
		g.at(time.Minute)
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { <-hang; return nil } })
		rotated := make(chan error, 1)
		go func() { rotated <- g.r.Rotate(context.Background()) }()
		synctest.Wait()
		err := g.r.Close(context.Background())
		if err == nil || !strings.Contains(err.Error(), "in flight") {
			t.Errorf("Close: %v", err)
		}
		g.closeMayFail = true
		if d := time.Since(g.t0); d != time.Minute+4*time.Second {
			t.Errorf("Close took until %v", d)
		}
		if err := <-rotated; !errors.Is(err, ErrClosed) {
			t.Errorf("Rotate: %v", err)
		}
		g.wantCalls(2, 0, 1)
		// hazard 48: its answer is revoked when it comes.
		time.Sleep(time.Hour)
		close(hang)
		synctest.Wait()
		g.wantCalls(2, 0, 2)
	})
}

// hazard 26: an outage that began while the credential was good costs its callers no more, once it has ended, than the
// outage has cost them already.
func TestHazard26RecoveryIsInProportion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.jitter = 0
		g.start(Config{})
		g.source.set(func(s *fakeSource) {
			s.onIssue = func(int) error { return errSealed }
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, errSealed }
		})
		g.at(time.Hour + 3*time.Second) // three seconds without a credential
		_ = g.noCredential()
		g.source.set(func(s *fakeSource) { s.onIssue = nil })
		g.pass(4 * time.Second)
		g.wantCurrent(2)
	})
}

// A lease that turns out to be gone says that the source answers: there is no reason to wait out a pause that began when
// it did not.
func TestGoneEndsABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, s, p := startChecking(t)
		gen := p.idle(t).Generation()
		s.set(func(s *fakeSource) {
			s.onIssue = func(int) error { return errSealed }
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, errSealed }
		})
		g.at(57 * time.Minute) // it has been wanted for two minutes
		s.set(func(s *fakeSource) { s.onIssue = nil })
		s.say(ErrLeaseGone)
		p.a.Suspect(gen, errNoRight)
		g.pass(1100 * time.Millisecond)
		g.wantCurrent(2)
	})
}
