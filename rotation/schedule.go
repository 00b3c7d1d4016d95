package rotation

import (
	"math"
	"sync/atomic"
	"time"
)

// instant is a reading of both clocks. Go's timers and monotonic differences
// stand still while a machine is suspended, and the wall clock can be set; so
// time has passed as soon as either says so.
type instant struct {
	t    time.Time
	skew time.Duration // what the wall clock was moved by; tests only
}

// wallSkew moves the wall clock, as this package sees it, in programs that have been linked to do
// so: the fault suite is, since no process has a clock of its own to set.
var wallSkew atomic.Int64

func readClocks() instant { return instant{time.Now(), time.Duration(wallSkew.Load())} }

// since returns the time from a to i: the longer of the two clocks' answers.
func (i instant) since(a instant) time.Duration {
	mono := i.t.Sub(a.t)
	wall := i.t.Round(0).Add(i.skew).Sub(a.t.Round(0).Add(a.skew))
	return max(mono, wall)
}

func (i instant) add(d time.Duration) instant { return instant{i.t.Add(d), i.skew} }

// until returns how long from i until then; 0 or less once it is due.
func (i instant) until(then instant) time.Duration { return -i.since(then) }

// term is a lease as the schedule sees it.
type term struct {
	anchor    instant       // before the request that granted it
	granted   time.Duration // 0: no end known
	full      time.Duration // the most that was granted; the measure of all margins
	refresh   time.Duration // 0: never
	renewable bool
	capped    bool
	first     bool    // it was not renewed yet
	jitter    float64 // in [0,1), drawn anew for each grant
}

// longest is what a longer lease is taken for, so that no arithmetic overflows.
const longest = 50 * 365 * 24 * time.Hour

func newTerm(anchor instant, l Lease, jitter float64) term {
	l.TTL, l.RefreshAfter = min(l.TTL, longest), min(l.RefreshAfter, longest)
	return term{
		anchor: anchor, granted: l.TTL, full: l.TTL, refresh: l.RefreshAfter,
		renewable: l.Renewable, capped: l.Capped, first: true, jitter: jitter,
	}
}

// renewed is the term after a renewal that asked for increment.
func (t term) renewed(anchor instant, l Lease, increment time.Duration, jitter float64) term {
	l.TTL = min(l.TTL, longest)
	t.anchor, t.granted, t.full, t.first, t.jitter = anchor, l.TTL, max(t.full, l.TTL), false, jitter
	t.renewable = l.Renewable
	// Vault caps a renewal at max_ttl and says so only in a warning, so a grant
	// well short of what was asked for is a ceiling too.
	t.capped = l.Capped || l.TTL < increment-increment/10
	return t
}

func (t term) endless() bool { return t.granted == 0 }

// left is the time until the credential ends.
func (t term) left(now instant) time.Duration {
	if t.endless() {
		return math.MaxInt64
	}
	return t.granted - now.since(t.anchor)
}

func (t term) expired(now instant) bool { return t.left(now) <= 0 }

func (t term) expires() time.Time {
	if t.endless() {
		return time.Time{}
	}
	return t.anchor.t.Add(t.granted)
}

// lead is how long before its end a lease is replaced, so that its connections
// can drain.
func (t term) lead(c Config) time.Duration { return min(c.DrainTimeout, t.full/5) }

// fair is the age at which a credential that dies has served its time, renewed or
// not, and does not speak against the source. One without an end serves until it is
// changed, which the source may announce.
func (t term) fair() time.Duration {
	switch {
	case t.full > 0:
		return t.full / 2
	case t.refresh > 0:
		return min(t.refresh/2, time.Minute)
	default:
		return time.Minute
	}
}

// near reports that there is no time left to wait for a better answer.
func (t term) near(now instant, c Config) bool { return t.left(now) < t.lead(c)/2 }

// drainFor is how long connections of a lease that is being replaced may stay.
// What ends them and revokes the lease needs a little time before its end. One
// that was lost before it could be replaced gives what is in use a short grace.
func (t term) drainFor(now instant, c Config) time.Duration {
	margin := min(2*time.Second, t.full/20)
	grace := min(c.DrainTimeout, 5*time.Second, max(t.full/4, 100*time.Millisecond))
	if t.endless() {
		return c.DrainTimeout
	}
	if t.expired(now) {
		return grace
	}
	return min(c.DrainTimeout, max(t.left(now)-margin, 0))
}

type action int

const (
	actNothing action = iota
	actRenew
	actRefresh
	actRotate
)

func (a action) String() string {
	return [...]string{"nothing", "renew", "refresh", "rotate"}[a]
}

// plan decides what a current lease needs next, and in how long; 0 or less means
// now. It is pure: what has been tried and failed is the caller's business.
//
// Renewal comes at about two thirds of what was granted, as Vault's own clients
// do. A lease that no renewal can prolong is replaced lead before its end. Both
// are spread, so that a fleet that starts together does not stay together; see also
// disperse.
func plan(now instant, t term, c Config) (do action, in time.Duration, why string) {
	age := now.since(t.anchor)
	at := time.Duration(math.MaxInt64)
	if !t.endless() {
		do, at, why = actRotate, t.untilRotation(now, c), rotateReason(t)
		if renew := t.renewAfter() - age; t.renewable && !t.capped && at > 0 && renew < at {
			do, at, why = actRenew, renew, ""
		}
	}
	if t.refresh > 0 {
		if refresh := t.refresh + spread(min(t.refresh/20, 10*time.Second), t.jitter) - age; refresh < at {
			do, at, why = actRefresh, refresh, refreshing
		}
	}
	return do, at, why
}

// untilRotation is how long until t is replaced, unless it is renewed before.
func (t term) untilRotation(now instant, c Config) time.Duration {
	lead := t.lead(c)
	rotate := t.granted - lead
	if !t.renewable || t.capped { // else only the margin: until then a failing renewal is tried again
		rotate -= spread(lead/2, t.jitter)
	}
	return rotate - now.since(t.anchor)
}

// Why the schedule replaces a credential.
const (
	leaseCeiling = "lease ceiling"
	leaseEnd     = "lease end"
	refreshing   = "refresh"
	renewalFails = "renewal keeps failing"
	dispersal    = "spread" // see disperse
)

func rotateReason(t term) string {
	switch {
	case t.capped:
		return leaseCeiling
	case t.renewable:
		return renewalFails
	default:
		return leaseEnd
	}
}

// mixing is the lease from which on a fleet is dispersed: with shorter ones the usual
// jitter does that within hours.
const mixing = 10 * time.Minute

// renewAfter is the age at which t is renewed. The first renewal comes at almost any
// age until then, since many may have been issued at this moment.
func (t term) renewAfter() time.Duration {
	due, span := t.granted/3*2-t.granted/20, t.granted/10
	if !t.first || t.full < mixing {
		return due + spread(span, t.jitter)
	}
	all := due/20*19 + span // as long as it is from one renewal to the next
	at := due + spread(all, t.jitter)
	if at > due+span {
		at -= all
	}
	return at
}

func spread(d time.Duration, jitter float64) time.Duration {
	return time.Duration(float64(d) * jitter)
}

// verdict is what to do with a credential after an attempt to log in with it.
type verdict int

const (
	publish verdict = iota
	probeAgain
	reject
)

// judge weighs a probe. Only a refused login speaks against a credential: a host
// that is down or full says nothing about it. When time is short, one host that
// accepts is enough, and even silence is better than a credential that ends.
func judge(p ProbeResult, short bool, waited, patience time.Duration) verdict {
	switch {
	case p.Refused == 0 && (p.Accepted > 0 || p.Unknown == 0):
		return publish
	case p.Refused == 0 && short, p.Accepted > 0 && short:
		return publish
	case p.Refused > 0 && waited >= patience:
		return reject
	default:
		return probeAgain
	}
}

// backoff returns how long to wait after the nth failure in a row: base doubled
// each time up to limit, less up to half of it at random, but not less than what
// the other side asked for.
func backoff(n int, base, limit, asked time.Duration, jitter float64) time.Duration {
	d := limit
	if n = max(n, 1); n < 32 && base<<(n-1) < limit && base<<(n-1) > 0 {
		d = base << (n - 1)
	}
	d -= spread(d/2, jitter)
	if asked > d {
		d = asked + spread(asked/10, jitter)
	}
	return d
}

// renewalBackoff is how long to wait after the nth renewal in a row that failed, where
// rest is left until the credential is replaced instead. Not long at first, since most
// faults pass. After that it is seldom, since the lease is good meanwhile: if the source
// is down everybody else is waiting for it too. The last attempt is just before the
// replacement: whatever has passed by then costs no credential.
func renewalBackoff(n int, full, rest, asked time.Duration, jitter float64) time.Duration {
	const often, seldom, least = 7, 30 * time.Minute, 30 * time.Second
	if n <= often {
		return backoff(n, min(250*time.Millisecond, full/50), least, asked, jitter)
	}
	margin := min(rest/8, 5*time.Second)
	in := min(seldom/2+spread(seldom, jitter), rest-margin-spread(margin, jitter))
	if in < time.Second { // that was the last one
		in = least
	}
	return max(in, asked+spread(asked/10, jitter))
}

// floor is the least time between the start of two issues: interval, doubled for
// each credential in a row that died before its time, at most a minute. A quarter
// of the lease bounds both, so that short leases are not starved; a lease that is
// over as soon as it is granted still starts no storm.
func floor(interval time.Duration, early int, full time.Duration) time.Duration {
	d, most := interval, max(interval, time.Minute)
	for ; early > 0 && d < most; early-- {
		d = min(2*d, most)
	}
	if full > 0 {
		d = min(d, max(full/4, min(interval, 100*time.Millisecond)))
	}
	return d
}
