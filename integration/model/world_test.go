package model

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// The properties. A violation names one of them, so that a history shrinks to the
// same one.
const (
	drainFirst = "1: a lease is revoked when no connection is left, or at the drain deadline once they were ended"
	withinCap  = "2: there are never more unrevoked leases than MaxUnrevoked"
	neverRest  = "3: there is always a next action, and a credential again soon after the faults are over"
	keepsValid = "4: a valid credential is never thrown away, and an unproven one never put in its place"
	neverPast  = "5: no credential is offered past its end, and no deadline is later than that"
	rateBound  = "6: issues come one at a time, and they, proofs and renewals no faster than interval and backoff allow"
	nothing    = "7: after Close everything is revoked or named, and nothing runs"
	reported   = "8: events tell what happened, in order"
)

type violation struct{ property, what string }

// world is what the fakes share and the oracle knows: when leases really end, what
// was revoked, and which sockets are open. It knows nothing from the engine but the
// events, which it checks.
type world struct {
	h     history
	start time.Time

	mu         sync.Mutex // guards what follows, and all that hangs from it
	leases     []*lease
	byPassword map[string]*lease
	answer     *lease // the last answer's
	slow       int    // calls with faults that are not answered yet
	calm       bool   // no fault is left, nor what one has led to
	down       bool
	news       time.Time // when the source last said that it changed, or that a lease is gone
	closing    bool
	story      []line
	violations []violation
	pools      []*pool
	events     journal
}

// lease is one credential, as its source knows it.
type lease struct {
	id, user  string
	password  string
	revocable bool
	born      time.Time     // when its issue arrived
	told      time.Time     // the end, as the last answer said; zero: none
	ends      time.Time     // the end
	full      time.Duration // the most that was granted, as the answers said
	answered  bool          // the engine was told of it
	known     bool          // it has made a generation of it
	gone      bool          // revoked, by whomever, or replaced (static)
	returned  bool          // a revocation was answered with success
	doubted   bool          // a refusal of it was reported
	attempts  int           // of revoking it
	renewals  int           // asked for
	swept     bool

	open    map[*socket]bool
	ended   []*socket // closed by the engine
	drained time.Time // when its draining was reported; zero: not yet
	left    time.Time // told at that time
}

func (l *lease) live(now time.Time) bool { return !l.gone && (l.ends.IsZero() || now.Before(l.ends)) }

// over reports that the engine knows that it has ended by itself.
func (l *lease) over(now time.Time) bool { return !l.told.IsZero() && !now.Before(l.told) }

func newWorld(h history) *world {
	return &world{h: h, start: time.Now(), byPassword: make(map[string]*lease), events: newJournal()}
}

// line is one of the story. It is written out only if it is to be read.
type line struct {
	at     time.Duration
	format string
	args   []any
}

// note adds a line to the story; mu is held.
func (w *world) note(format string, args ...any) {
	w.story = append(w.story, line{time.Since(w.start), format, args})
}

// wrong records a violation; mu is held.
func (w *world) wrong(property, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.note("VIOLATION of %s: %s", property, what)
	w.violations = append(w.violations, violation{property, what})
}

func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// unrevoked is how many leases somebody still has to revoke; mu is held.
func (w *world) unrevoked(now time.Time) (n int) {
	for _, l := range w.leases {
		if l.revocable && !l.gone && !l.over(now) {
			n++
		}
	}
	return n
}

// grant sets what was granted now; mu is held.
func (l *lease) grant(now time.Time, ttl time.Duration) {
	if ttl > 0 {
		l.ends = now.Add(ttl)
	}
}

// newLease makes one; mu is held.
func (w *world) newLease(now time.Time) *lease {
	n := len(w.leases) + 1
	l := &lease{
		user: fmt.Sprintf("u%d", n), password: fmt.Sprintf("secret %d", n), born: now, open: make(map[*socket]bool),
		revocable: w.h.shape.revocable && !w.h.shape.bare,
	}
	if !w.h.shape.static {
		l.id = fmt.Sprintf("lease/%d", n)
	}
	l.full = w.h.shape.ttl
	l.grant(now, l.full)
	if w.h.shape.sameUser {
		l.user = "app"
	}
	w.leases = append(w.leases, l)
	w.byPassword[l.password] = l
	if live := w.unrevoked(now); live > w.h.config.MaxUnrevoked && !w.closing {
		w.wrong(withinCap, "%d leases are unrevoked", live)
	}
	return l
}

// of is the lease of a generation.
func (w *world) of(g *rotation.Generation) *lease { return w.byPassword[g.Credential().Password()] }

func (w *world) find(id string) *lease {
	for _, l := range w.leases {
		if l.id == id {
			return l
		}
	}
	return nil
}

// outcome is how one call goes.
type outcome struct {
	fault fault
	d     time.Duration
}

// script is how the next calls of a kind go; guarded by the world's mutex.
type script []outcome

func (s *script) add(st step) {
	for range st.n {
		*s = append(*s, outcome{st.fault, st.d})
	}
}

// begin takes how the next call goes, with mu held; over is to be called without it
// when the call is over.
func (w *world) begin(s *script) (o outcome, over func()) {
	if len(*s) == 0 {
		return o, func() {}
	}
	o, *s = (*s)[0], (*s)[1:]
	w.slow++
	return o, func() { w.do(func() { w.slow-- }) }
}

// laterError asks to be left alone for a while.
type laterError time.Duration

func (e laterError) Error() string             { return "rate limit exceeded" }
func (e laterError) RetryAfter() time.Duration { return time.Duration(e) }

var (
	errFault   = errors.New("connection reset by peer")
	errDenied  = errors.New("permission denied for table")
	errUnknown = errors.New("no route to host")
)

// err is what a call that goes like this returns, beside what it does.
func (o outcome) err() error {
	switch o.fault {
	case fails, lost:
		return errFault
	case denied:
		return rotation.ErrDenied
	case invalid:
		return rotation.ErrInvalid
	case later:
		return laterError(o.d)
	case gone:
		return rotation.ErrLeaseGone
	case refused:
		return rotation.ErrRefused
	case unknown, hangs, deaf:
		return errUnknown
	case panics:
		panic("in a fake")
	default:
		return nil
	}
}

// delay is how long it takes. The least of it makes every call take some time.
func (o outcome) delay() time.Duration {
	if o.fault == later {
		return time.Millisecond
	}
	return o.d + time.Millisecond
}

func (w *world) told() string {
	var b strings.Builder
	for _, l := range w.story {
		_, _ = fmt.Fprintf(&b, "%14v  "+l.format+"\n", append([]any{l.at}, l.args...)...)
	}
	return b.String()
}
