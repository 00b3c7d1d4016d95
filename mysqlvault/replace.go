package mysqlvault

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// replacer replaces the sessions of one generation. It logs in one after the other
// and puts each in the place of an old one: of one that is idle, or else of the first
// that comes out of the pool. So nobody waits for a login, not even where no
// connection is ever idle, unless uses are long: see mustSwitch.
type replacer struct {
	t     *target
	old   *rotation.Generation
	spare atomic.Pointer[session] // logged in, for whoever comes next
	want  chan struct{}           // somebody came, and there was none

	soon, late time.Time   // a quarter of the drain window is over, and half of it
	last       time.Time   // three quarters are
	saturated  atomic.Bool // no old connection was idle at the last look
	doubt      atomic.Bool // the last login failed, whoever's it was
	lost       atomic.Bool // a session was closed for one that could not be had, and no login has succeeded since
	failed     bool        // that of the last round did
}

// Replace is called when a generation has been replaced.
func (t *target) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	now := time.Now()
	quarter := by.Sub(now) / 4
	p := rotation.NewPace(now, now.Add(3*quarter), t.att.Connections(old)) // done before it is late
	r := &replacer{t: t, old: old, want: make(chan struct{}, 1), soon: now.Add(quarter), late: now.Add(2 * quarter), last: now.Add(3 * quarter)}
	t.begin(r)
	defer t.end(r)
	for ctx.Err() == nil {
		left := t.att.Connections(old)
		if left == 0 {
			return
		}
		began := time.Now()
		least, wait := p.Least(), p.Next(began, left)
		if r.round(ctx) && old.Dead() {
			continue // there is nothing to spare
		}
		took := time.Since(began)
		least, wait = least-took, wait-took
		if r.failed { // however little time there is
			least, wait = max(least, retryPause), max(wait, retryPause)
		}
		r.pause(ctx, least, wait)
	}
}

// retryPause is the least time between a login that failed and the next.
const retryPause = 50 * time.Millisecond

// pause waits, less if somebody wants a session, but for the least time in any case.
func (r *replacer) pause(ctx context.Context, least, wait time.Duration) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(min(least, wait)):
	}
	select {
	case <-ctx.Done():
	case <-r.want:
	case <-time.After(max(0, wait-least)):
	}
}

func (t *target) begin(r *replacer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	replacers := append(slices.Clone(t.atWork()), r)
	t.replacers.Store(&replacers)
}

func (t *target) end(r *replacer) {
	t.mu.Lock()
	replacers := slices.DeleteFunc(slices.Clone(t.atWork()), func(other *replacer) bool { return other == r })
	t.replacers.Store(&replacers)
	t.mu.Unlock()
	if s := r.spare.Swap(nil); s != nil {
		s.retire()
	}
}

func (t *target) atWork() []*replacer {
	if replacers := t.replacers.Load(); replacers != nil {
		return *replacers
	}
	return nil
}

func (t *target) replacerOf(g *rotation.Generation) *replacer {
	for _, r := range t.atWork() {
		if r.old == g {
			return r
		}
	}
	return nil
}

// takeSpare returns the session that is ready; nil if there is none, or only one that
// has itself been replaced meanwhile.
func (r *replacer) takeSpare() *session {
	s := r.spare.Swap(nil)
	if s != nil && !s.g.Serving() {
		s.retire()
		return nil
	}
	return s
}

// take is takeSpare with a word to the replacer if there is none.
func (r *replacer) take() *session {
	s := r.takeSpare()
	if s == nil {
		select {
		case r.want <- struct{}{}:
		default:
		}
	}
	return s
}

// mustSwitch reports whether a caller who is about to use an old connection once more,
// there being no spare, logs in for itself. In the second half of the drain window
// everybody does, and where no connection is ever idle from the end of its first
// quarter on: so no use is cut that is shorter than half of it, or there three quarters.
//
// What the server cannot do as fast as that it is not asked for, up to the last quarter:
// while some logins are under way, old sessions serve.
func (r *replacer) mustSwitch() bool {
	now := time.Now()
	due := now.After(r.late) || r.saturated.Load() && now.After(r.soon)
	return due && !r.doubt.Load() && (now.After(r.last) || r.t.loggingIn.Load() < atOnce)
}

// atOnce is how many logins may be under way when a caller is made to log in.
const atOnce = 3

// round replaces one session, or has one ready, and reports whether it did the former.
func (r *replacer) round(ctx context.Context) bool {
	r.failed = false
	idle := r.findIdle()
	r.saturated.Store(idle == nil)
	next := r.takeSpare()
	if next == nil {
		if next = r.logIn(ctx, idle); next == nil {
			return false
		}
	}
	for _, c := range r.t.open() {
		if c.offer(next, r.isOld) {
			return true
		}
	}
	r.spare.Store(next)
	return false
}

func (r *replacer) isOld(s *session) bool { return s.g == r.old }

func (r *replacer) findIdle() *conn {
	for _, c := range r.t.open() {
		if c.idleWith(r.isOld) {
			return c
		}
	}
	return nil
}

// logIn logs in before anything is closed, but where the server is full. If somebody
// else is faster there, that costs one session, but not another one: see lost.
func (r *replacer) logIn(ctx context.Context, idle *conn) *session {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	s, err := r.t.tryLogIn(ctx, true)
	if err != nil && idle != nil && serverFull(err) && !r.lost.Load() {
		if old := idle.vacate(r.isOld); old != nil {
			r.lost.Store(true)
			_ = old.close()
			s, err = whileFull(ctx, func() (*session, error) { return r.t.tryLogIn(ctx, true) })
		}
	}
	r.doubt.Store(err != nil && !serverFull(err))
	r.failed = err != nil
	return s
}

// switchTimeout is how long a caller tries to log in who has a session that will do.
const switchTimeout = 2 * time.Second

// logInInstead logs in for a caller who has an old session, and keeps that if it fails.
func (r *replacer) logInInstead(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, switchTimeout)
	defer cancel()
	s, err := r.t.tryLogIn(ctx, false)
	r.doubt.Store(err != nil && !serverFull(err))
	return s, err
}
