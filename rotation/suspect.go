package rotation

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// Suspect reports that the server refused a live session of g something, as it does
// when the user's rights have been taken away: what err says. That may as well be the
// caller's fault, so it is checked before it is believed: the source is asked whether
// the lease exists ([Checker]) or, where that cannot be told, a login is tried. If it
// is gone one rotation follows, as after [Attachment.Refused]. Checks are a
// quarter of a second apart at least, and up to half a minute while all is in order. It does not block and
// may be called for every such error.
func (a *Attachment) Suspect(g *Generation, err error) {
	if g.hush.left(readClocks()) > 0 {
		return
	}
	a.r.do(func() { a.r.loop.suspected(g, err) })
}

// hush is a time in which suspicions are not heard.
type hush struct{ until atomic.Pointer[instant] }

// left is how much of it is left; less than 0 for how long it has been over.
func (h *hush) left(now instant) time.Duration {
	if until := h.until.Load(); until != nil {
		return now.until(*until)
	}
	return 0
}

func (h *hush) set(now instant, d time.Duration) {
	until := now.add(d)
	h.until.Store(&until)
}

// checkTimeout bounds one check.
const checkTimeout = 10 * time.Second

// suspected is Suspect.
func (l *loop) suspected(g *Generation, suspicion error) {
	r := l.r
	now := l.r.now()
	switch {
	case g.refused || g.gone || g.checking || l.closing,
		g != l.current && !g.stays && (g.state != StateDraining || r.checker == nil):
		g.hush.set(now, time.Second) // nothing is to be found out
		return
	case g.stays: // a user who was dropped and made again has the name, and not the rights
		l.startDraining(g, "live session refused", now.add(g.term.drainFor(now, l.r.config)))
		return
	}
	if g.hush.left(now) < -time.Minute {
		g.alive = 0
	}
	g.checking = true
	g.hush.set(now, checkTimeout)
	lease := g.lease
	r.running.Go(func() {
		err := errUnchecked
		if r.checker != nil && lease.ID != "" {
			ctx, cancel := context.WithTimeout(r.ctx, checkTimeout)
			defer cancel()
			err = safely("Check", func() error { return r.checker.Check(ctx, lease) })
		}
		r.do(func() { l.checked(now, g, suspicion, err) })
	})
}

// errUnchecked stands for a check that the source cannot make.
var errUnchecked = errors.New("the source cannot tell whether the credential is in order")

// checked takes the answer of a check.
func (l *loop) checked(started instant, g *Generation, suspicion, err error) {
	now := l.r.now()
	g.checking = false
	g.alive++
	g.hush.set(now, backoff(g.alive, 250*time.Millisecond, 30*time.Second, retryAfter(err), 0))
	if g != l.current && g.state != StateDraining || l.closing {
		return
	}
	l.emit(Event{Kind: LeaseChecked, Generation: g.id, Reason: suspicion.Error(), Took: now.since(started), Err: err})
	switch {
	case err == nil:
	case errors.Is(err, ErrLeaseGone):
		l.leaseGone(g)
		if g == l.current { // who revoked it may have revoked those before it too
			for _, old := range slices.Clone(l.gens) {
				if old.state == StateDraining && old.lease.Revocable {
					l.suspected(old, suspicion)
				}
			}
		}
	case g != l.current: // it takes no logins that could tell
	default:
		l.probe(g, func(p ProbeResult) {
			if p.Refused > 0 && p.Accepted == 0 {
				l.loginRefused(g, "", p.Err)
			}
		})
	}
}
