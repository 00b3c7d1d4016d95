package mysqlvault

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vaultpool/vaultpool/internal/pace"
	"github.com/vaultpool/vaultpool/rotation"
)

// replacer replaces the sessions of one generation. It logs in one after the other
// and puts each in the place of an old one: of one that is idle, or else of the first
// that comes out of the pool. So nobody waits for a login, not even where no
// connection is ever idle.
type replacer struct {
	t     *target
	old   *rotation.Generation
	spare atomic.Pointer[session] // logged in, for whoever comes next
	came  atomic.Bool             // an old one was given back since the last look
}

// Replace is called when a generation has been replaced.
func (t *target) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	r := &replacer{t: t, old: old}
	t.begin(r)
	defer t.end(r)
	p := pace.New(time.Now(), by, t.att.Connections(old))
	for ctx.Err() == nil {
		left := t.att.Connections(old)
		if left == 0 {
			return
		}
		wait := p.Next(time.Now(), left)
		if r.round(ctx) && old.Dead() {
			continue // there is nothing to spare
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
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

// returned tells that a connection of an old generation was given back.
func (t *target) returned() {
	for _, r := range t.atWork() {
		r.came.Store(true)
	}
}

// takeSpare returns the session that is ready to replace one of generation g; nil if
// there is none.
func (t *target) takeSpare(g *rotation.Generation) *session {
	for _, r := range t.atWork() {
		if r.old == g {
			return r.spare.Swap(nil)
		}
	}
	return nil
}

// round replaces one session, or has one ready to, and reports whether it did. While
// all old ones are in use, and stay so, it does nothing.
func (r *replacer) round(ctx context.Context) bool {
	next := r.spare.Swap(nil)
	if next == nil {
		idle := r.findIdle()
		if idle == nil && !r.came.Swap(false) {
			return false
		}
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

// logIn logs in before anything is closed, but where the server is full.
func (r *replacer) logIn(ctx context.Context, idle *conn) *session {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	s, err := r.t.tryLogIn(ctx, true)
	if err != nil && idle != nil && serverFull(err) {
		if old := idle.vacate(r.isOld); old != nil {
			_ = old.close()
			s, _ = r.t.tryLogIn(ctx, true)
		}
	}
	return s
}
