package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// slowAnswer is how long callers wait for an issue and its proof before they are told
// that there is no credential. Both go on.
const slowAnswer = 10 * time.Second

// operation is the one attempt to get a credential: an issue in flight, then the
// proof of what it brought.
type operation struct {
	reason  string
	started instant
	refresh bool // look whether the credential changed
	slow    bool
	stale   bool // the source changed while it was under way

	gen     *Generation // nil until issued
	since   instant     // when it was
	probing bool
	probes  int
	probeAt instant
}

// issue asks the source for a credential, detached: nobody cancels it.
func (l *loop) issue(now instant, reason string, refresh bool) {
	l.op = &operation{reason: reason, started: now, refresh: refresh}
	l.lastIssue, l.issued = now, true
	if reason == dispersal {
		l.current.early = 0 // once: if it fails, the schedule is as good
	}
	if l.lost != nil {
		l.lost.held = false
	}
	l.show()
	r := l.r
	go func() {
		var cred Credential
		var lease Lease
		err := safely("Issue", func() (err error) {
			cred, lease, err = r.source.Issue(context.WithoutCancel(r.ctx))
			return err
		})
		issued := err == nil
		if issued {
			err = check(cred, lease)
		}
		taken := r.do(func() { l.answered(now, cred, lease, err) })
		if issued && (!taken || err != nil) {
			r.revokeOrphan(lease)
		}
	}()
}

// safely calls the source.
func safely(what string, call func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the source's %s panicked: %v", what, v)
		}
	}()
	return call()
}

// check refuses an answer that is no credential.
func check(cred Credential, lease Lease) error {
	switch {
	case cred.Username() == "":
		return fmt.Errorf("%w: the source returned no user name", ErrInvalid)
	case lease.TTL < 0:
		return fmt.Errorf("%w: the source returned a lease of %v", ErrInvalid, lease.TTL)
	}
	return nil
}

// revokeOrphan gives back what an issue brought that nobody can use: it came after
// Close had given up on it, or is no credential.
func (r *Rotator) revokeOrphan(lease Lease) {
	if r.revoker == nil || !lease.Revocable {
		return
	}
	for attempt := 1; attempt <= 5; attempt++ {
		ctx, cancel := context.WithTimeout(context.Background(), r.config.CloseTimeout)
		err := safely("Revoke", func() error { return r.revoker.Revoke(ctx, lease) })
		cancel()
		if err == nil || errors.Is(err, ErrLeaseGone) {
			return
		}
		if r.config.Logger != nil {
			r.config.Logger.Warn("vaultpool: revoking a lease that nobody can use", "attempt", attempt, "error", err)
		}
		time.Sleep(backoff(attempt, 250*time.Millisecond, 5*time.Second, 0, r.random()))
	}
}

// answered takes the answer of an issue.
func (l *loop) answered(now instant, cred Credential, lease Lease, err error) {
	took := l.r.now().since(now)
	if err != nil {
		l.emitFailure(Event{Kind: IssueFailed, Reason: l.op.reason, Err: err, Took: took})
		return
	}
	if l.r.revoker == nil {
		lease.Revocable = false
	}
	for _, g := range l.gens {
		if lease.ID != "" && lease.ID == g.lease.ID {
			// A caching agent. Revoking it would take away what we have, and what is
			// being given back is no good.
			err := fmt.Errorf("the source returned the lease of generation %d again (a caching agent?)", g.id)
			l.emitFailure(Event{Kind: SameLease, Generation: g.id, Err: err, Took: took})
			return
		}
	}
	if cur := l.current; cur != nil {
		switch {
		case lease.ID == "" && cred.Equal(cur.cred) && cur.refused:
			err := errors.New("the source returned the credential again that the database refuses")
			l.emitFailure(Event{Kind: IssueFailed, Generation: cur.id, Reason: l.op.reason, Err: err, Took: took})
			return
		case lease.ID == "" && cred.Equal(cur.cred):
			l.refreshed(now, lease)
			return
		}
	}
	futile := l.futile(lease)
	l.seq++
	g := newGeneration(l.seq, cred, l.r.nudge)
	g.state, g.lease, g.born = StateIssued, lease, now
	g.term = newTerm(now, lease, l.r.random())
	g.term.first = l.early == 0
	l.gens = append(l.gens, g)
	l.op.gen, l.op.since = g, l.r.now()
	l.op.probeAt = l.op.since
	l.emit(Event{Kind: Issued, Generation: g.id, Reason: l.op.reason, TTL: lease.TTL, Took: took})
	switch {
	case l.closing:
		l.rejectCandidate(0, ErrClosed)
	case futile:
		l.rejectCandidate(0, fmt.Errorf("the new lease of %v ends no later than the one in use: something else ends both (the token?)", lease.TTL))
	}
}

// supersede has the connections of old replaced, whose credential died or is to be
// given back. Where only the password has changed they stay, until the user does.
func (l *loop) supersede(now instant, old *Generation, reason string, died bool) {
	if old.staysBeside(l.current) {
		l.letStay(now, old, reason)
		return
	}
	if died {
		old.phase.Store(phaseDead)
	}
	for _, g := range slices.Clone(l.gens) {
		if died && g.stays { // the same user
			g.phase.Store(phaseDead)
		}
		if g == old || g.stays {
			l.startDraining(g, reason, now.add(g.term.drainFor(now, l.r.config)))
		}
	}
}

// staysBeside reports that a session of g is as good as one of next: the user is the
// same, and nothing ends it or is to be given back.
func (g *Generation) staysBeside(next *Generation) bool {
	return !g.lease.Revocable && g.term.endless() && g.cred.Username() == next.cred.Username()
}

// futile reports whether a rotation for want of time has brought none. Without
// this, leases that all end with their token would be replaced ever faster.
func (l *loop) futile(lease Lease) bool {
	cur := l.current
	if cur == nil || l.want != "" || l.lost != nil || l.op.refresh || l.op.reason == dispersal || lease.TTL == 0 || cur.term.endless() {
		return false
	}
	return lease.TTL <= cur.term.left(l.r.now())+min(lease.TTL, cur.term.full)/20
}

// refreshed adopts the new term of an unchanged credential.
func (l *loop) refreshed(now instant, lease Lease) {
	g := l.current
	g.lease, g.term = lease, newTerm(now, lease, l.r.random())
	l.regain()
	l.emit(Event{Kind: Refreshed, Generation: g.id, TTL: lease.TTL, Took: l.r.now().since(now)})
	l.attemptDone(nil)
}

// emitFailure ends the attempt with e.Err and says when the next one is due.
func (l *loop) emitFailure(e Event) {
	needless := l.op.reason == dispersal
	l.attemptDone(e.Err)
	if !needless {
		e.Attempt, e.RetryAt = l.failures, l.retryAt.t
	}
	l.emit(e)
	if l.lost != nil {
		l.lost.Err = e.Err
	}
	l.show()
	l.checkRefusal()
}

// attemptDone closes the books on an attempt.
func (l *loop) attemptDone(err error) {
	if err == nil || l.want == "requested" {
		l.want = "" // whoever asked has the new credential, or the error and the old one
	}
	stale, needless := l.op.stale, l.op.reason == dispersal
	if stale && l.want == "" {
		l.want = sourceChanged
	}
	l.op = nil
	l.answer(err)
	if err == nil {
		l.failures = 0
		l.succeeded("issue")
		return
	}
	l.failures++
	l.failure = err
	now := l.r.now()
	l.retryAt = now.add(backoff(l.failures, 250*time.Millisecond, l.issueLimit(now), retryAfter(err), l.r.random()))
	l.notBefore = now.add(retryAfter(err))
	if stale {
		l.soon()
	}
	if needless { // nobody has to know: it is not tried again, and nothing is wrong with the credential
		l.succeeded("probe")
		return
	}
	l.failed("issue", l.failures, err)
}

// issueLimit is the longest pause between two attempts at a credential. Whoever has
// none asks every half minute. Who has one, with an end that is not near, leaves the
// source to them after an outage, and asks less often.
func (l *loop) issueLimit(now instant) time.Duration {
	const without, with = 30 * time.Second, 2 * time.Minute
	if l.current == nil || l.lost != nil || l.current.term.endless() {
		return without
	}
	left := l.current.term.left(now)
	return max(time.Second, min(with, left/8), min(without, left/4)) // not so long that the end comes first
}

func retryAfter(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return asked.RetryAfter()
	}
	return 0
}

// stepOperation drives the proof of a candidate.
func (l *loop) stepOperation(now instant) time.Duration {
	op := l.op
	switch {
	case op.gen == nil:
		return l.stepSlow(now, "the source has not answered")
	case op.probing:
		return l.stepSlow(now, "the database has not answered a login with the new credential")
	}
	if rest := now.until(op.probeAt); rest > 0 {
		return rest
	}
	op.probing = true
	started := now
	l.probe(op.gen, func(p ProbeResult) { l.probed(op, started, p) })
	return math.MaxInt64
}

// stepSlow tells those who wait when issue and proof take too long.
func (l *loop) stepSlow(now instant, what string) time.Duration {
	if l.lost == nil || l.op.slow {
		return math.MaxInt64
	}
	if rest := slowAnswer - now.since(l.op.started); rest > 0 {
		return rest
	}
	l.op.slow = true
	if l.lost.Err == nil {
		l.lost.Err = fmt.Errorf("%s for %v", what, slowAnswer)
	}
	l.show()
	return math.MaxInt64
}

// replicaLag is how long a host that refuses a new credential is waited for in any case.
const replicaLag = 2 * time.Second

// probed weighs the proof of a candidate.
func (l *loop) probed(op *operation, started instant, p ProbeResult) {
	if l.op != op {
		return // rejected by Close meanwhile
	}
	now := l.r.now()
	op.probing = false
	op.probes++
	waited := now.since(op.since)
	// Even where nobody can log in now, a user that was just made is given the time to reach
	// a replica.
	lagging := p.Accepted > 0 && p.Refused > 0 && waited < replicaLag
	short := (l.current == nil || l.lost != nil || l.current.term.near(now, l.r.config)) && !lagging
	patience := 30 * time.Second
	if l.current != nil {
		patience = min(patience, max(replicaLag, l.current.term.lead(l.r.config)))
	}
	if op.gen.term.expired(now) {
		l.rejectCandidate(now.since(started), fmt.Errorf("the new credential ended before it could be proven: %w", cmp.Or(p.Err, errors.New("the probe took too long"))))
		return
	}
	switch judge(p, short, waited, patience) {
	case publish:
		l.publish(now, op, now.since(started))
	case reject:
		l.helpless(p)
		l.rejectCandidate(now.since(started), fmt.Errorf("the new credential cannot log in: %w", p.Err))
	case probeAgain:
		op.probeAt = now.add(l.untilProbe(now, op.probes))
		l.failed("probe", op.probes, p.Err)
		if l.lost != nil && now.since(op.started) > slowAnswer {
			op.slow, l.lost.Err = true, p.Err
			l.show()
		}
		l.emit(Event{Kind: ProbeFailed, Generation: op.gen.id, Took: now.since(started), Attempt: op.probes, RetryAt: op.probeAt.t, Err: p.Err})
	}
}

// untilProbe is how long to wait for the next proof: not past the moment from which
// the old credential is too near its end to wait for a better answer.
func (l *loop) untilProbe(now instant, probes int) time.Duration {
	wait := backoff(probes, 100*time.Millisecond, 2*time.Second, 0, l.r.random())
	if l.current == nil || l.lost != nil {
		return wait
	}
	if near := l.current.term.left(now) - l.current.term.lead(l.r.config)/2; !l.current.term.endless() && near >= 0 {
		wait = min(wait, near+time.Millisecond)
	}
	return wait
}

// rejectCandidate gives the new credential back unused, after a proof that took so long, 0 if
// there was none. The old one stays.
func (l *loop) rejectCandidate(took time.Duration, err error) {
	g, reason := l.op.gen, l.op.reason
	l.emitFailure(Event{Kind: Rejected, Generation: g.id, Reason: reason, Took: took, Err: err})
	l.startDraining(g, "rejected", l.r.now().add(l.r.config.ProbeTimeout))
}

// publish puts the candidate in place, and only then closes the old one to new
// logins: whatever bound to that before is counted.
func (l *loop) publish(now instant, op *operation, took time.Duration) {
	g, old := op.gen, l.current
	g.state = StateCurrent
	l.current = g
	died := l.lost != nil || old != nil && old.gone
	if old != nil && (died || old.denied) && now.since(old.born) < old.term.fair() {
		l.early++
	} else {
		l.early = 0
	}
	l.disperse(now, g, old, op.reason)
	l.regain()
	l.succeeded("probe")
	l.succeeded("renew")
	l.emit(Event{Kind: Published, Generation: g.id, Reason: op.reason, TTL: g.lease.TTL, Took: took})
	if old != nil {
		l.supersede(now, old, op.reason, died)
	}
	l.attemptDone(nil) // last: whoever asked for this finds it done, its events included
}
