package rotation

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var errUnreachable = errors.New("connection refused")

// answer makes every probe of p of a generation other than the first answer so.
func (p *fakePool) answer(r ProbeResult) {
	p.set(func(p *fakePool) {
		p.onProbe = func(_ context.Context, g *Generation) ProbeResult {
			if g.ID() == 1 {
				return ProbeResult{Accepted: 1}
			}
			return r
		}
	})
}

// hazard 29: the new credential cannot log in. The old one stays, the new lease is
// given back unused, and it is tried again later.
func TestHazard29CandidateRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		c := p.idle(t)
		p.answer(ProbeResult{Refused: 1, Err: ErrRefused})
		g.at(time.Minute)
		failed := make(chan error, 1)
		go func() { failed <- g.r.Rotate(context.Background()) }()
		g.at(time.Minute + 30*time.Second - 1)
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{Rejected: 0})
		g.at(time.Minute + 32*time.Second) // patience, and the probe after it
		g.wantCurrent(1)
		g.wantEvents(map[EventKind]int{Rejected: 1, Published: 1, Revoked: 1})
		if err := <-failed; !errors.Is(err, ErrRefused) {
			t.Errorf("Rotate: %v", err)
		}
		if !c.Generation().Serving() {
			t.Error("the old connection is not served")
		}
		if n := g.w.sockets("u2"); n != 0 {
			t.Errorf("%d connections of the rejected one", n)
		}
		if s := g.r.Status(); !errors.Is(s.LastError, ErrRefused) {
			t.Errorf("status %+v", s)
		}
		// Nobody wants it now. When it is due by itself, it is tried again and again.
		g.at(30 * time.Minute)
		g.wantCalls(2, 0, 1)
		g.source.set(func(s *fakeSource) {
			s.onRenew = func(int, Lease, time.Duration) (Lease, error) { return Lease{}, ErrDenied }
		})
		g.at(50 * time.Minute)
		n, _, revoked := g.source.counts()
		if n < 8 || n > 20 {
			t.Errorf("%d issues in 13 minutes of refusals", n)
		}
		if revoked < n-2 {
			t.Errorf("%d revocations of %d issues", revoked, n)
		}
		g.wantCurrent(1)
		p.answer(ProbeResult{Accepted: 1})
		g.pass(35 * time.Second)
		g.wantEvents(map[EventKind]int{Published: 2, CredentialLost: 0})
	})
}

// hazard 29: the replica lags. Patience is what it takes.
func TestHazard29ReplicaLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.answer(ProbeResult{Accepted: 1, Refused: 1, Err: ErrRefused})
		g.at(time.Minute)
		go func() { _ = g.r.Rotate(context.Background()) }()
		g.at(time.Minute + 5*time.Second)
		g.wantCurrent(1)
		p.answer(ProbeResult{Accepted: 2})
		g.pass(2 * time.Second)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
		g.wantEvents(map[EventKind]int{Rejected: 0})
	})
}

// hazard 29: patience counts from when there was something to try.
func TestHazard29PatienceAfterASlowIssue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.answer(ProbeResult{Refused: 1, Err: ErrRefused})
		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { time.Sleep(time.Minute); return nil } })
		g.at(time.Minute)
		go func() { _ = g.r.Rotate(context.Background()) }()
		g.at(2*time.Minute + 5*time.Second)
		g.wantEvents(map[EventKind]int{Rejected: 0})
		p.answer(ProbeResult{Accepted: 1})
		g.pass(2 * time.Second)
		g.wantCurrent(2)
	})
}

// hazard 56: a host that refuses holds the rotation, but not to the end.
func TestHazard56OneHostRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		p := g.pool("db")
		p.answer(ProbeResult{Accepted: 1, Refused: 1, Err: ErrRefused})
		g.at(57*time.Minute + 30*time.Second)
		g.wantCurrent(1)
		if g.count(Rejected) < 2 {
			t.Errorf("%d candidates rejected", g.count(Rejected))
		}
		g.at(59 * time.Minute)
		if g.current() <= 1 {
			t.Error("near the old one's end one host that accepts is not enough")
		}
		g.wantEvents(map[EventKind]int{CredentialLost: 0})
	})
}

// hazards 37, 56: a dead replica, a full server, a network that is down say
// nothing about a credential.
func TestHazard37UnknownDoesNotVeto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		g.pool("db").answer(ProbeResult{Accepted: 1, Unknown: 2, Err: errUnreachable})
		g.pool("replica").answer(ProbeResult{Unknown: 1, Err: errUnreachable})
		g.at(time.Minute)
		before := time.Now()
		g.rotate()
		g.wantCurrent(2)
		if time.Since(before) != 0 {
			t.Errorf("it took %v", time.Since(before))
		}
		g.wantEvents(map[EventKind]int{ProbeFailed: 0})
	})
}

// hazard 52: the server is full when the probe runs: it is tried again and again,
// and the new credential is put in place before the old one ends.
func TestHazard52AllUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		p := g.pool("db")
		p.idle(t)
		p.answer(ProbeResult{Unknown: 1, Err: errUnreachable})
		g.at(57*time.Minute + 30*time.Second)
		g.wantCurrent(1)
		probed, _, _ := p.snapshot()
		if n := len(probed); n < 70 || n > 90 { // every two seconds for 2.5 minutes
			t.Errorf("%d probes in two and a half minutes", n)
		}
		if s := g.r.Status(); s.Next != "probe" || !errors.Is(s.LastError, errUnreachable) {
			t.Errorf("status %+v", s)
		}
		g.at(57*time.Minute + 32*time.Second + 1)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
		g.wantEvents(map[EventKind]int{CredentialLost: 0, Rejected: 0, Published: 2})
		if s := g.r.Status(); s.LastError != nil {
			t.Errorf("after publication: %v", s.LastError)
		}
	})
}

// hazard 52: and when it is no longer full, at once.
func TestHazard52UnknownPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{TTL: time.Hour, Revocable: true}, Config{})
		p := g.pool("db")
		p.answer(ProbeResult{Unknown: 1, Err: errUnreachable})
		g.at(56 * time.Minute)
		g.wantCurrent(1)
		p.answer(ProbeResult{Accepted: 1})
		g.pass(2 * time.Second)
		g.wantCurrent(2)
		g.wantCalls(2, 0, 1)
	})
}

// hazard 52 with leases of seconds, as in a demo, and a server that is silent: the
// probe's own timeout must not outlast the old credential.
func TestHazard52SilentServerAndShortLeases(t *testing.T) {
	for name, accepted := range map[string]int{"one host answers": 1, "none does": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startRig(t, Lease{TTL: 8 * time.Second, Revocable: true}, Config{})
				p := g.pool("db")
				p.set(func(p *fakePool) {
					p.onProbe = func(ctx context.Context, _ *Generation) ProbeResult {
						<-ctx.Done()
						return ProbeResult{Accepted: accepted, Unknown: 1, Err: ctx.Err()}
					}
				})
				g.at(time.Minute)
				g.wantEvents(map[EventKind]int{CredentialLost: 0})
				if g.count(Published) < 5 {
					t.Errorf("%d rotations in a minute", g.count(Published))
				}
			})
		})
	}
}

// A candidate that ends before it could be proven is not put in place.
func TestCandidateEndsBeforeItIsProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onAnswer = func(n int, c Credential, l Lease) (Credential, Lease, error) {
			if n == 2 { // the role was given shorter leases
				l.TTL = time.Minute
			}
			return c, l, nil
		}
		g.start(Config{})
		p := g.pool("db")
		p.answer(ProbeResult{Unknown: 1, Err: errUnreachable})
		failed := make(chan error, 1)
		g.at(time.Minute)
		go func() { failed <- g.r.Rotate(context.Background()) }()
		g.at(2*time.Minute - 1)
		g.wantEvents(map[EventKind]int{Rejected: 0})
		g.at(2*time.Minute + 2*time.Second)
		g.wantEvents(map[EventKind]int{Rejected: 1, Published: 1})
		g.wantCurrent(1)
		if err := <-failed; !errors.Is(err, errUnreachable) {
			t.Errorf("Rotate: %v", err)
		}
		g.wantCalls(2, 0, 1)
	})
}

// Without a credential there is nothing to lose by trying the new one.
func TestLostCredentialIsReplacedUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.answer(ProbeResult{Unknown: 1, Err: errUnreachable})
		g.at(time.Minute)
		cur, _ := p.a.Current()
		p.a.Refused(cur, ErrRefused)
		synctest.Wait()
		g.wantCurrent(2)
	})
}

// hazard 47: every pool is asked; one that refuses holds it.
func TestProbeAsksEveryPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p, q := g.pool("db"), g.pool("replica")
		q.answer(ProbeResult{Refused: 1, Err: ErrRefused})
		g.at(time.Minute)
		go func() { _ = g.r.Rotate(context.Background()) }()
		g.pass(time.Second)
		g.wantCurrent(1)
		a, _, _ := p.snapshot()
		b, _, _ := q.snapshot()
		if len(a) == 0 || len(a) != len(b) || slices.ContainsFunc(a, func(id uint64) bool { return id != 2 }) {
			t.Errorf("probed %v and %v", a, b)
		}
		q.answer(ProbeResult{Accepted: 1})
		g.pass(2 * time.Second)
		g.wantCurrent(2)
	})
}

// Prove is what a new pool does before it is handed out (hazard 53).
func TestProve(t *testing.T) {
	for _, c := range []struct {
		name   string
		probe  func(n int) ProbeResult
		failed bool
		took   time.Duration
	}{
		{"accepted", func(int) ProbeResult { return ProbeResult{Accepted: 1} }, false, 0},
		{"unreachable", func(int) ProbeResult { return ProbeResult{Unknown: 2, Err: errUnreachable} }, false, 0},
		{"one of two refuses", func(int) ProbeResult { return ProbeResult{Accepted: 1, Refused: 1, Err: ErrRefused} }, false, 0},
		{"refused", func(int) ProbeResult { return ProbeResult{Refused: 1, Err: ErrRefused} }, true, 2250 * time.Millisecond},
		{"refused, then accepted", func(n int) ProbeResult {
			if n < 3 {
				return ProbeResult{Refused: 1, Err: ErrRefused}
			}
			return ProbeResult{Accepted: 1}
		}, false, 150 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startRig(t, hourLease, Config{})
				p := g.pool("db")
				n := 0
				p.set(func(p *fakePool) {
					p.onProbe = func(context.Context, *Generation) ProbeResult { n++; return c.probe(n) }
				})
				err := p.a.Prove(context.Background())
				if (err != nil) != c.failed || c.failed && !errors.Is(err, ErrRefused) {
					t.Errorf("Prove: %v", err)
				}
				if d := time.Since(g.t0); d != c.took {
					t.Errorf("it took %v, want %v", d, c.took)
				}
				p.set(func(p *fakePool) { p.onProbe = nil })
			})
		})
	}
}

// hazard 52: the next probe is not put off past the end of the old credential.
func TestHazard52FullServerAndShortLeases(t *testing.T) {
	for _, jitter := range []float64{0, 0.2, 0.4, 0.6, 0.8, 0.99} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, Lease{TTL: 4 * time.Second, Revocable: true})
			g.jitter = jitter
			g.start(Config{})
			p := g.pool("db")
			p.answer(ProbeResult{Unknown: 1, Err: errUnreachable})
			g.at(time.Minute)
			g.wantEvents(map[EventKind]int{CredentialLost: 0})
			if g.count(Published) < 10 {
				t.Errorf("jitter %v: %d rotations in a minute", jitter, g.count(Published))
			}
		})
	}
}

// hazard 29: a replica gets its two seconds to learn of a new user also where nobody can log in meanwhile, so that no
// connect to it fails.
func TestHazard29ReplicaLagsAfterALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("primary,replica")
		old := p.idle(t).Generation()
		g.pass(time.Minute)
		lags := func(context.Context, *Generation) ProbeResult {
			return ProbeResult{Accepted: 1, Refused: 1, Err: ErrRefused}
		}
		p.set(func(p *fakePool) { p.onProbe = lags })
		lost := time.Now()
		caughtUp := func() bool { return time.Since(lost) >= 1500*time.Millisecond }
		time.AfterFunc(1500*time.Millisecond, func() { p.set(func(p *fakePool) { p.onProbe = nil }) })
		err := p.a.LogIn(context.Background(), func(gen *Generation) error {
			if gen == old || !caughtUp() {
				return ErrRefused
			}
			return nil
		})
		if err != nil {
			t.Errorf("after %v: %v", time.Since(lost), err)
		}
	})
}

// Proofs of a new credential have pauses also where the current one has no end.
func TestProofsHavePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, Lease{}, Config{})
		p := g.pool("db")
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult { return ProbeResult{Unknown: 1} }
		})
		go func() { _ = g.r.Rotate(context.Background()) }()
		g.pass(time.Minute)
		if probed, _, _ := p.snapshot(); len(probed) > 60 {
			t.Errorf("%d proofs in a minute", len(probed))
		}
		p.set(func(p *fakePool) { p.onProbe = nil })
		g.pass(time.Minute)
	})
}
