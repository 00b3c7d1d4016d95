package rotation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// renew asks for more time.
func (l *loop) renew(now instant, g *Generation) {
	g.renewing = true
	// Less than was granted before would shorten the lease.
	increment := max(l.r.config.RenewIncrement, g.term.full)
	timeout := min(30*time.Second, max(time.Second, g.term.full/6))
	r, lease := l.r, g.lease
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, timeout)
		defer cancel()
		var granted Lease
		err := safely("Renew", func() (err error) {
			granted, err = r.renewer.Renew(ctx, lease, increment)
			return err
		})
		if err == nil && granted.TTL <= 0 {
			err = errors.New("the answer grants no time")
		}
		r.do(func() { l.renewed(now, g, granted, increment, err) })
	})
}

// renewed takes the answer of a renewal. A lease that is gone, or that we may not
// renew, is replaced at once; anything else is tried again until the margin.
func (l *loop) renewed(anchor instant, g *Generation, granted Lease, increment time.Duration, err error) {
	g.renewing = false
	if err == nil {
		if granted.ID == "" {
			granted.ID = g.lease.ID
		}
		granted.Revocable = g.lease.Revocable
		granted.RefreshAfter = g.lease.RefreshAfter
		g.lease = granted
		g.term = g.term.renewed(anchor, granted, increment, l.r.random())
		g.renewFailures = 0
		l.succeeded("renew")
		l.emit(Event{Kind: Renewed, Generation: g.id, TTL: granted.TTL, Took: l.r.now().since(anchor)})
		if g == l.current && l.lost != nil && !g.refused && !l.closing {
			l.regain() // its end had passed, by one clock
		}
		return
	}
	if g != l.current {
		return // replaced meanwhile, perhaps revoked: no news
	}
	g.renewFailures++
	now := l.r.now()
	rest := g.term.left(now) - g.term.lead(l.r.config)
	g.renewAt = now.add(renewalBackoff(g.renewFailures, g.term.full, rest, retryAfter(err), l.r.random()))
	l.failed("renew", g.renewFailures, err)
	e := Event{Kind: RenewFailed, Generation: g.id, Took: now.since(anchor), Attempt: g.renewFailures, RetryAt: g.renewAt.t, Err: err}
	if !l.closing {
		switch {
		case errors.Is(err, ErrLeaseGone):
			l.leaseGone(g)
		case errors.Is(err, ErrDenied):
			g.denied = true
			l.urgent("renewal is denied")
		}
	}
	l.emit(e)
}

// startDraining closes g to new logins and has every pool replace its
// connections until by.
func (l *loop) startDraining(g *Generation, reason string, by instant) {
	l.r.quiet.Store(false)
	g.phase.CompareAndSwap(phaseServing, phaseDraining)
	g.state, g.reason, g.drainBy, g.stays = StateDraining, reason, by, false
	g.shut()
	n, _ := g.count()
	l.emit(Event{Kind: Draining, Generation: g.id, Reason: reason, Connections: n})
	if n == 0 {
		return
	}
	for _, a := range l.attached {
		l.r.running.Go(func() { a.replace(g, by.t) })
	}
}

// letStay closes g to new logins and leaves its connections alone.
func (l *loop) letStay(now instant, g *Generation, reason string) {
	g.state, g.reason, g.drainBy, g.stays = StateDraining, reason, now.add(longest), true
	g.shut()
	n, _ := g.count()
	l.emit(Event{Kind: Draining, Generation: g.id, Reason: reason, Connections: n})
}

// settle says whether connections of some generation are being replaced.
func (l *loop) settle() {
	l.r.quiet.Store(!slices.ContainsFunc(l.gens, func(g *Generation) bool {
		return (g.state == StateDraining || g.state == StateEnding) && !g.stays
	}))
}

// stepDraining waits for the last connection or the deadline.
func (l *loop) stepDraining(now instant, g *Generation) time.Duration {
	if g.empty() {
		if l.mustSweep(now, g) {
			l.sweep(now, g)
			return math.MaxInt64
		}
		l.emit(Event{Kind: Drained, Generation: g.id})
		return l.startRevoking(now, g)
	}
	if rest := now.until(g.drainBy); rest > 0 {
		return rest
	}
	g.phase.Store(phaseDead)
	g.state = StateEnding
	n, _ := g.count()
	l.emit(Event{Kind: DrainDeadline, Generation: g.id, Connections: n})
	l.end(now, g)
	return math.MaxInt64
}

// end has what is left of g ended, at the server too, before anything is revoked.
func (l *loop) end(now instant, g *Generation) {
	attached, r := slices.Clone(l.attached), l.r
	timeout := l.endTimeout(now, g)
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, timeout)
		defer cancel()
		cause := fmt.Errorf("%w: generation %d reached its drain deadline", ErrEnded, g.id)
		counts, errs := make([]int, len(attached)), make([]error, len(attached))
		var all sync.WaitGroup
		for i, a := range attached {
			all.Go(func() { counts[i], errs[i] = a.end(ctx, g, cause) })
		}
		all.Wait()
		total := 0
		for _, n := range counts {
			total += n
		}
		g.endEnding(interruptAll(g.beginEnding(nil), cause)) // of pools that are detached
		r.do(func() { l.ended(now, g, total, errors.Join(errs...)) })
	})
}

func (l *loop) endTimeout(now instant, g *Generation) time.Duration {
	if l.closing { // half of what is left, so that there is time to revoke
		return min(5*time.Second, max(100*time.Millisecond, now.until(l.closeBy)/2))
	}
	return min(5*time.Second, max(time.Second, g.term.full/20))
}

func (l *loop) mustSweep(now instant, g *Generation) bool {
	return !g.swept && g.lease.Revocable && !g.lapsed.Load() && !g.term.expired(now) &&
		slices.ContainsFunc(l.attached, (*Attachment).sweeps)
}

// sweep has the targets end the sessions of g that go on without a socket.
func (l *loop) sweep(now instant, g *Generation) {
	g.swept, g.state = true, StateEnding
	attached, r, timeout := slices.Clone(l.attached), l.r, l.endTimeout(now, g)
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, timeout)
		defer cancel()
		errs := make([]error, len(attached))
		var all sync.WaitGroup
		for i, a := range attached {
			all.Go(func() { errs[i] = a.sweep(ctx, g) })
		}
		all.Wait()
		r.do(func() {
			if err := errors.Join(errs...); err != nil {
				l.emit(Event{Kind: SessionsEnded, Generation: g.id, Took: l.r.now().since(now), Err: err})
			}
			g.state = StateDraining
		})
	})
}

func interruptAll(conns []*Conn, cause error) []*Conn {
	for _, c := range conns {
		c.interrupt(cause)
	}
	return conns
}

func (l *loop) ended(started instant, g *Generation, n int, err error) {
	l.emit(Event{Kind: SessionsEnded, Generation: g.id, Connections: n, Took: l.r.now().since(started), Err: err})
	// Empty now, unless an ender of Attachment.Close is still at work.
	g.state, g.drainBy = StateDraining, l.r.now().add(100*time.Millisecond)
}

// startRevoking gives the lease back, or retires g where there is none.
func (l *loop) startRevoking(now instant, g *Generation) time.Duration {
	if !g.lease.Revocable {
		l.retire(g)
		return 0
	}
	g.state, g.revokeAt = StateRevoking, now
	l.settle()
	return l.stepRevoking(now, g)
}

func (l *loop) stepRevoking(now instant, g *Generation) time.Duration {
	if g.revoking {
		return math.MaxInt64
	}
	if g.revokeFailures > 0 && g.term.expired(now) { // it counts against no cap any more
		l.giveUpRevoking(g, fmt.Errorf("it has ended by itself meanwhile; if the database user is still there, Vault could not remove it: %w", g.revokeFailure))
		return 0
	}
	if rest := now.until(g.revokeAt); rest > 0 {
		return min(rest, g.term.left(now))
	}
	g.revoking = true
	r, lease := l.r, g.lease
	r.running.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
		defer cancel()
		err := safely("Revoke", func() error { return r.revoker.Revoke(ctx, lease) })
		r.do(func() { l.revoked(now, g, err) })
	})
	return math.MaxInt64
}

// revoked takes the answer of a revocation. A failed one is tried again until the
// lease would have ended by itself.
func (l *loop) revoked(started instant, g *Generation, err error) {
	g.revoking = false
	now := l.r.now()
	if err == nil || errors.Is(err, ErrLeaseGone) {
		l.succeeded("revoke")
		l.emit(Event{Kind: Revoked, Generation: g.id, Took: now.since(started)})
		l.retire(g)
		return
	}
	g.revokeFailures++
	g.revokeFailure = err
	limit := 5 * time.Minute
	if l.closing {
		limit = time.Second
	}
	g.revokeAt = now.add(backoff(g.revokeFailures, 250*time.Millisecond, limit, retryAfter(err), l.r.random()))
	l.failed("revoke", g.revokeFailures, err)
	l.emit(Event{Kind: RevokeFailed, Generation: g.id, Took: now.since(started), Attempt: g.revokeFailures, RetryAt: g.revokeAt.t, Err: err})
	if l.closing && errors.Is(err, ErrDenied) && !g.term.expired(now) {
		l.giveUpRevoking(g, err)
	}
}

func (l *loop) giveUpRevoking(g *Generation, err error) {
	if l.closing {
		l.closeErrs = append(l.closeErrs, fmt.Errorf("lease of generation %d (user %s) is not revoked and ends by itself at %s: %w",
			g.id, g.cred.Username(), g.term.expires().Format(time.RFC3339), err))
	}
	l.emit(Event{Kind: RevokeAbandoned, Generation: g.id, Err: err})
	l.retire(g)
}

func (l *loop) retire(g *Generation) {
	g.state = StateRetired
	l.gens = slices.DeleteFunc(l.gens, func(x *Generation) bool { return x == g })
	l.settle()
}

// close starts the end: the current generation and any candidate drain too. It
// reports whether it was the first call.
func (l *loop) close(ctx context.Context) bool {
	if l.closing {
		return false
	}
	l.closing, l.want = true, ""
	l.answer(ErrClosed)
	l.show()
	now := l.r.now()
	l.closeBy = now
	if deadline, ok := ctx.Deadline(); ok {
		l.closeBy = now.add(max(0, time.Until(deadline)))
	}
	by := now.add(now.until(l.closeBy) / 2)
	if l.op != nil && l.op.gen != nil {
		l.rejectCandidate(0, ErrClosed)
	}
	for _, g := range l.gens {
		switch g.state {
		case StateCurrent:
			l.startDraining(g, "closed", by)
		case StateDraining:
			if g.stays {
				l.startDraining(g, "closed", by)
			} else if now.until(g.drainBy) > now.until(by) {
				g.drainBy = by
			}
		case StateRevoking:
			g.revokeAt = now
		default:
		}
	}
	return true
}

// abandon ends the wait: what is not done by now is reported.
func (l *loop) abandon() {
	l.abandoned = true
	if l.op != nil {
		l.closeErrs = append(l.closeErrs, errors.New("an issue is still in flight; what it brings is revoked when it arrives"))
	}
	for _, g := range slices.Clone(l.gens) {
		g.shut()
		cause := fmt.Errorf("%w: the rotator was closed", ErrEnded)
		interruptAll(g.beginEnding(nil), cause)
		if g.lease.Revocable {
			err := errors.New("there was no time left to revoke it")
			if g.revokeFailure != nil {
				err = fmt.Errorf("%w, and the last attempt failed: %w", err, g.revokeFailure)
			}
			l.giveUpRevoking(g, err)
		}
	}
}

func (l *loop) finished() bool {
	return l.abandoned || l.closing && (l.op == nil || l.orphan) && len(l.gens) == 0
}

// finish is the owner goroutine's last act.
func (l *loop) finish() {
	l.emit(Event{Kind: Closed, Err: errors.Join(l.closeErrs...)})
	s := l.status()
	l.r.last.Store(&s)
	l.r.cancel()
	l.r.events.close()
	close(l.r.done)
}

// status is Rotator.Status.
func (l *loop) status() Status {
	now := l.r.now()
	s := Status{
		Usable: l.lost == nil && !l.closing, Unrevoked: l.unrevoked(), Cap: l.r.config.MaxUnrevoked,
		PaidLogins: l.r.paid.Load(),
		LastError:  l.lastErr, ErrorAt: l.errAt, Failures: l.errs,
		Paused: l.paused > 0, Closed: l.closing,
	}
	if g := l.current; g != nil {
		s.Generation, s.User, s.Age, s.Expires = g.id, g.cred.Username(), now.since(g.born), g.term.expires()
		if !g.term.endless() {
			s.LeaseLeft, s.Granted, s.RotateAt = g.term.left(now), g.term.granted, now.t.Add(l.untilRotation(now, g))
		}
	}
	s.Next, s.NextAt = l.describeNext(now)
	for _, g := range l.gens {
		s.Generations = append(s.Generations, l.describe(g))
	}
	return s
}

func (l *loop) describe(g *Generation) GenerationStatus {
	n, by := g.count()
	s := GenerationStatus{
		Generation: g.id, User: g.cred.Username(), State: g.state, Dead: g.Dead(),
		Connections: n, ByAttachment: make(map[string]int, len(by)),
		Issued: g.born.t, Expires: g.term.expires(), Reason: g.reason,
	}
	for a, n := range by {
		s.ByAttachment[a.name] += n
	}
	if (g.state == StateDraining || g.state == StateEnding) && !g.stays {
		s.DrainBy = g.drainBy.t
	}
	return s
}

func (l *loop) describeNext(now instant) (string, time.Time) {
	switch {
	case l.closing:
		return "nothing", time.Time{}
	case l.op != nil && l.op.gen == nil:
		return "issue", time.Time{}
	case l.op != nil && l.op.probing:
		return "probe", time.Time{}
	case l.op != nil:
		return "probe", l.op.probeAt.t
	}
	do, in, _ := l.next(now)
	if do == actRenew && l.current.renewing {
		return do.String(), time.Time{}
	}
	if do == actRefresh || do == actRotate {
		in = max(in, l.gate(now))
	}
	if in > 100*365*24*time.Hour {
		return "nothing", time.Time{}
	}
	return do.String(), now.t.Add(in)
}
