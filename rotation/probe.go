package rotation

import (
	"context"
	"errors"
	"slices"
	"time"
)

// whyRefused is why there is a rotation after a refused login.
const whyRefused = "login refused"

// probe has every attachment log in with g, and hands the sum to then.
func (l *loop) probe(g *Generation, then func(ProbeResult)) {
	attached, r, timeout := slices.Clone(l.attached), l.r, l.probeTimeout()
	r.running.Go(func() {
		type answer struct {
			ProbeResult
			from *Attachment
		}
		results := make(chan answer, len(attached))
		for _, a := range attached {
			r.running.Go(func() {
				ctx, cancel := context.WithTimeout(a.ctx, timeout)
				defer cancel()
				results <- answer{a.probe(ctx, g), a}
			})
		}
		var sum ProbeResult
		var errs []error
		var refusing []*Attachment
		for range attached {
			p := <-results
			if p.Refused > 0 {
				refusing = append(refusing, p.from)
			}
			sum.Accepted += p.Accepted
			sum.Refused += p.Refused
			sum.Unknown += p.Unknown
			errs = append(errs, p.Err)
		}
		sum.Err = errors.Join(errs...)
		r.do(func() { g.tried(sum, refusing); then(sum) })
	})
}

// probeTimeout leaves time for another attempt before the current credential ends.
func (l *loop) probeTimeout() time.Duration {
	if l.current == nil || l.lost != nil {
		return l.r.config.ProbeTimeout
	}
	return min(l.r.config.ProbeTimeout, max(l.current.term.left(l.r.now())/2, 100*time.Millisecond))
}

// loginRefused has a credential replaced that the database refuses.
func (l *loop) loginRefused(g *Generation, pool string, err error) {
	if g != l.current || g.refused || l.closing {
		return
	}
	g.refused = true
	g.lapsed.Store(true)
	l.emit(Event{Kind: LoginRefused, Generation: g.id, Reason: pool, Err: err})
	l.urgent(whyRefused)
	l.lose("the database refused it")
}

// refusedAt is Attachment.Refused. A credential can be good at one host and unknown at
// another: a replica that lags, or is back after a rotation that it was not there for. One
// rotation is right then, since it may be dead everywhere. But where the next one, too, is
// accepted by one and refused by the other, no rotation helps that host, and the others
// must not go without logins because of it: it is looked whether that has changed.
func (l *loop) refusedAt(a *Attachment, g *Generation, err error) {
	if g == l.current && slices.Contains(g.refusing, a) {
		l.lookAgainAt(g, a.name)
		return
	}
	l.loginRefused(g, a.name, err)
}

// lookAgainAt probes g everywhere, at a bounded rate. Only if nobody accepts it any more is it refused.
func (l *loop) lookAgainAt(g *Generation, pool string) {
	if g.looking || g.refused || l.closing || g.looks > 0 && l.r.now().until(g.lookAt) > 0 {
		return
	}
	g.looking = true
	started := l.r.now()
	l.probe(g, func(p ProbeResult) {
		g.looking = false
		g.looks++
		now := l.r.now()
		g.lookAt = now.add(backoff(g.looks, 250*time.Millisecond, 5*time.Second, 0, l.r.random()))
		switch {
		case g != l.current || l.closing || p.Refused == 0:
		case p.Accepted == 0:
			l.loginRefused(g, pool, p.Err)
		default:
			l.emit(Event{Kind: ProbeFailed, Generation: g.id, Reason: pool, Took: now.since(started), Attempt: g.looks, RetryAt: g.lookAt.t, Err: p.Err})
		}
	})
}

// tried remembers which pools have a host that refused g while another accepted it: of a new
// credential, one that was refused, and one that this is known of. Of any other it may be
// the first sign of its end, which reaches one host after the other.
func (g *Generation) tried(p ProbeResult, refusing []*Attachment) {
	switch {
	case g.state != StateIssued && !g.refused && !g.looking:
	case p.Accepted > 0:
		g.refusing = refusing
	case p.Refused > 0:
		g.refusing = nil
	}
}

// checkRefusal tries a refused credential again while it cannot be replaced: the
// database may have been wrong, or one host of several, and a valid one is never thrown
// away. Where a host still refuses it, a replacement is tried once more when there is one.
func (l *loop) checkRefusal() {
	g := l.current
	if g == nil || !g.refused || g.term.expired(l.r.now()) {
		return
	}
	l.probe(g, func(p ProbeResult) {
		if g == l.current && g.refused && p.Accepted > 0 && !l.closing {
			g.refused = false
			g.lapsed.Store(false)
			if l.op == nil && l.want == whyRefused && p.Refused == 0 {
				l.want, l.failures = "", 0
			}
			l.regain()
		}
	})
}

// helpless forgets the wish for a rotation after a refused login when the new credential was refused
// as well, and the old one serves where it is accepted.
func (l *loop) helpless(p ProbeResult) {
	if l.want == whyRefused && p.Accepted > 0 && l.lost == nil {
		l.want = ""
	}
}
