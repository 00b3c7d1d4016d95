package model

import (
	"context"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// source is the fake source. What a call does is done when it arrives; the answer
// may take its time, or be lost.
type source struct {
	w *world

	// All guarded by the world's mutex.
	issues, renewals, revokes, checks script
	changed                           func() // Watch's, nil before
	inFlight                          bool   // an issue
	lastIssue                         time.Time
	minFull                           time.Duration // the shortest lease so far
	failures                          int           // issues in a row that were answered with an error
	failedAt                          time.Time
	notBefore                         time.Time // asked for by the last failure
	wasLost                           bool      // there was no credential at the last failure
}

// full is a source that can do everything; the other kind is a SourceFunc.
type full struct{ *source }

func (f full) Issue(ctx context.Context) (rotation.Credential, rotation.Lease, error) {
	return f.issue(ctx)
}

func (f full) Renew(ctx context.Context, l rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	return f.renew(ctx, l, increment)
}

func (f full) Revoke(ctx context.Context, l rotation.Lease) error { return f.revoke(ctx, l) }

// Check tells the truth, if it tells anything.
func (f full) Check(ctx context.Context, asked rotation.Lease) error {
	w := f.w
	w.mu.Lock()
	o, over := w.begin(&f.checks)
	defer over()
	l := w.find(asked.ID)
	if (o.fault == "" || o.fault == fine) && (l == nil || !l.live(time.Now())) {
		o.fault = gone
	}
	w.note("check %s %s", asked.ID, o.fault)
	w.mu.Unlock()
	o.wait(ctx)
	if o.fault == gone {
		w.do(func() { w.news = time.Now() })
	}
	return o.err()
}

func (f full) Watch(ctx context.Context, changed func()) {
	f.w.do(func() { f.changed = changed })
	<-ctx.Done()
}

func (s *source) issue(ctx context.Context) (rotation.Credential, rotation.Lease, error) {
	w, sent := s.w, time.Now()
	w.mu.Lock()
	o, over := w.begin(&s.issues)
	defer over()
	s.arrived(sent)
	w.note("issue %s", o.fault)
	var l *lease
	switch o.fault {
	case "", fine:
		l = s.mint(sent)
	case cached:
		l = w.answer
	default:
	}
	w.mu.Unlock()

	time.Sleep(o.delay())
	w.mu.Lock()
	defer w.mu.Unlock()
	s.inFlight = false
	if ctx.Err() != nil {
		w.wrong(rateBound, "the context of an issue was cancelled")
	}
	now := time.Now()
	if o.fault == cached && !s.cacheable(l, now) {
		l, o.fault = nil, fails
	}
	if l == nil {
		s.failed(o)
		return rotation.Credential{}, rotation.Lease{}, o.err()
	}
	s.failures, s.notBefore = 0, time.Time{}
	granted := s.describe(l)
	if o.fault != cached {
		s.answer(l, &granted, sent)
	} else if granted.TTL > 0 {
		granted.TTL = l.told.Sub(sent)
	}
	return rotation.NewCredential(l.user, l.password), granted, nil
}

// describe is the answer but for the time; mu is held, as by all that follow.
func (s *source) describe(l *lease) rotation.Lease {
	shape := s.w.h.shape
	return rotation.Lease{
		ID: l.id, TTL: shape.ttl, Renewable: shape.renewable, Revocable: shape.revocable && !shape.static,
		RefreshAfter: shape.refresh, Capped: shape.capped && shape.ceiling == shape.ttl && shape.ttl > 0,
	}
}

func (s *source) answer(l *lease, granted *rotation.Lease, sent time.Time) {
	if granted.TTL > 0 {
		l.told = sent.Add(granted.TTL)
		if s.minFull == 0 || granted.TTL < s.minFull {
			s.minFull = granted.TTL
		}
	}
	l.answered, s.w.answer = true, l
	s.w.note("issued %s, good for %v", l.user, granted.TTL)
}

// cacheable reports whether the lease may be answered again: one that ends by itself
// later, and that the engine still has.
func (s *source) cacheable(l *lease, now time.Time) bool {
	return l != nil && l.live(now) && !l.over(now) && (l.revocable || l == s.w.events.current)
}

// mint makes a lease; a static source has one at a time.
func (s *source) mint(now time.Time) *lease {
	if s.w.h.shape.static {
		if n := len(s.w.leases); n > 0 && !s.w.leases[n-1].gone {
			return s.w.leases[n-1]
		}
	}
	return s.w.newLease(now)
}

// arrived checks the rate. The bounds are the least that any jitter allows.
func (s *source) arrived(now time.Time) {
	w := s.w
	if s.inFlight {
		w.wrong(rateBound, "two issues at once")
	}
	s.inFlight = true
	const tiny = 100 * time.Millisecond
	interval := w.h.config.IssueInterval
	least := interval
	if s.minFull > 0 {
		least = min(least, max(s.minFull/4, min(interval, tiny)))
	}
	if w.events.published == 0 { // only failures hold it up
		least = min(least, tiny)
	}
	if gap := now.Sub(s.lastIssue); !s.lastIssue.IsZero() && gap < least {
		w.wrong(rateBound, "an issue %v after the last one; the least is %v", gap, least)
	}
	if w.events.doubts > 0 { // one that proves wrong ends the backoff
		s.lastIssue = now
		return
	}
	if now.Before(s.notBefore) {
		w.wrong(rateBound, "an issue %v before what Retry-After asked for", s.notBefore.Sub(now))
	}
	if !s.hurry(now) {
		limit := time.Second
		if s.wasLost {
			limit = 30 * time.Second
		}
		backoff := min(250*time.Millisecond<<min(max(s.failures-1, 0), 16), limit) / 2
		if rest := now.Sub(s.failedAt); s.failures > 0 && rest < backoff {
			w.wrong(rateBound, "an issue %v after the failure of %d in a row; the least is %v", rest, s.failures, backoff)
		}
	}
	s.lastIssue = now
}

// hurry reports that, since the last issue, there was a reason to ask at once: the source
// said that it changed, or that a lease is gone, or the credential was lost.
func (s *source) hurry(now time.Time) bool {
	j := &s.w.events
	lost := j.current != nil && j.current.over(now) && !j.current.told.Before(s.lastIssue)
	return lost || !j.lost.Before(s.lastIssue) || !s.w.news.Before(s.lastIssue)
}

func (s *source) failed(o outcome) {
	now := time.Now()
	if !s.w.events.lost.Before(s.failedAt) { // the pauses grow anew
		s.failures = min(s.failures, 2)
	}
	s.failures++
	s.failedAt, s.notBefore = now, time.Time{}
	if o.fault == later {
		s.notBefore = now.Add(o.d)
	}
	s.wasLost = s.w.events.current == nil || s.w.events.current.over(now)
}

// renew grants what is asked for, up to the ceiling.
func (s *source) renew(ctx context.Context, asked rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	w, now := s.w, time.Now()
	w.mu.Lock()
	o, over := w.begin(&s.renewals)
	defer over()
	l := w.find(asked.ID)
	s.checkRenewals(l, now)
	w.note("renew %s %s", asked.ID, o.fault)
	if l == nil {
		w.wrong(reported, "renewal of %q, which was never issued", asked.ID)
		w.mu.Unlock()
		return rotation.Lease{}, rotation.ErrLeaseGone
	}
	ttl := increment
	if ceiling := w.h.shape.ceiling; ceiling > 0 {
		ttl = min(ttl, l.born.Add(ceiling).Sub(now))
	}
	switch {
	case o.fault == gone:
		l.gone = true
	case !l.live(now) || ttl <= 0:
		o.fault = gone
		if l.live(now) {
			o.fault = denied // at its ceiling
		}
	case o.fault == less && !l.ends.IsZero():
		ttl = max(l.ends.Sub(now)/3, time.Millisecond)
		l.grant(now, ttl)
	case o.fault == "", o.fault == fine, o.fault == lost:
		l.grant(now, ttl)
	default:
	}
	w.mu.Unlock()

	select {
	case <-time.After(o.delay()):
	case <-ctx.Done():
		return rotation.Lease{}, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.fault == gone {
		w.news = time.Now()
	}
	if o.fault != "" && o.fault != fine && o.fault != less {
		return rotation.Lease{}, o.err()
	}
	l.told, l.full = now.Add(ttl), max(l.full, ttl)
	granted := s.describe(l)
	granted.TTL, granted.Capped = ttl, w.h.shape.capped && ttl < increment
	w.note("renewed %s for %v", l.user, ttl)
	return granted, nil
}

// checkRenewals checks their rate. One that succeeds lasts for most of the lease;
// between two there is time for eight that fail ever later, and then for one in 15
// seconds.
func (s *source) checkRenewals(l *lease, now time.Time) {
	if l == nil {
		return
	}
	l.renewals++
	took := now.Sub(l.born)
	if most := 20 + int(20*took/max(l.full, 1)+took/(15*time.Second)); l.renewals > most {
		s.w.wrong(rateBound, "%d renewals of %s in %v", l.renewals, l.user, took)
	}
}

// revoke checks that nobody needs the lease any more.
func (s *source) revoke(ctx context.Context, asked rotation.Lease) error {
	w, now := s.w, time.Now()
	w.mu.Lock()
	o, over := w.begin(&s.revokes)
	defer over()
	l := w.find(asked.ID)
	w.note("revoke %s %s", asked.ID, o.fault)
	if l == nil {
		w.wrong(reported, "revocation of %q, which was never issued", asked.ID)
		w.mu.Unlock()
		return nil
	}
	s.checkRevocation(l)
	l.attempts++
	if o.fault == "" || o.fault == fine || o.fault == lost {
		l.gone = true
	}
	w.mu.Unlock()

	select {
	case <-time.After(o.delay()):
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := o.err(); err != nil || !l.gone {
		return err
	}
	l.returned = true
	w.note("revoked %s after %v", l.user, time.Since(now))
	return nil
}

func (s *source) checkRevocation(l *lease) {
	w := s.w
	switch {
	case len(l.open) > 0:
		w.wrong(drainFirst, "%s is revoked while %d connections are open", l.user, len(l.open))
	case !l.revocable:
		w.wrong(drainFirst, "%s is revoked, which must not be", l.user)
	case l.returned:
		w.wrong(reported, "%s is revoked again", l.user)
	case w.offers(l):
		w.wrong(keepsValid, "%s is revoked while it is current", l.user)
	}
	sweeping := w.h.shape.sweeps && l.known && l.live(time.Now()) && !l.over(time.Now())
	if p := w.pools[0]; sweeping && !l.swept && !l.doubted && !p.closing {
		w.wrong(drainFirst, "%s is revoked while what it began without a socket was not ended", l.user)
	}
	for _, c := range l.ended {
		if !c.given && !c.probe && !c.pool.closing {
			w.wrong(drainFirst, "%s is revoked while the session of a connection that was cut was not ended", l.user)
			return
		}
	}
}
