package pgvault

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// What callers of Acquire get while a generation is being replaced.

// begin makes r known to callers.
func (t *target) begin(r *replacer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.look.Store(true)
	replacers := append(slices.Clone(t.atWork()), r)
	t.replacers.Store(&replacers)
}

// end undoes begin.
func (t *target) end(r *replacer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	replacers := slices.DeleteFunc(slices.Clone(t.atWork()), func(other *replacer) bool { return other == r })
	t.replacers.Store(&replacers)
	if len(replacers) > 0 {
		return
	}
	t.owed.Store(0) // what is opened from here on the pool wants for itself
	if !t.ended.Load() {
		t.look.Store(false)
	}
}

func (t *target) atWork() []*replacer {
	if replacers := t.replacers.Load(); replacers != nil {
		return *replacers
	}
	return nil
}

// learn takes note of how a login went, whoever's it was. After one that failed callers
// keep what is open.
func (t *target) learn(err error) {
	for _, r := range t.atWork() {
		if err != nil {
			r.doubt.Store(true)
		} else {
			r.lost.Store(false)
		}
	}
}

// settle notes a login for a connection that a rotation took, and reports whether there was
// one to make up for. A caller's login is one that it paid for then: it would not have had to
// log in otherwise. (It may also be the pool's own, for MinConns: that is seldom, since
// the replacer is at work, and cannot be told.)
func (t *target) settle() bool {
	for {
		n := t.owed.Load()
		if n <= 0 {
			return false
		}
		if t.owed.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// mayServe is serves, and takes note of what the pool loses by it.
func (t *target) mayServe(ctx context.Context, conn *pgx.Conn) bool {
	ok := t.serves(ctx, conn)
	if !ok {
		t.owed.Add(1)
	}
	return ok
}

// serves decides about a connection by its generation: dead, no; draining, yes,
// unless it is time for this caller to get another one.
func (t *target) serves(ctx context.Context, conn *pgx.Conn) bool {
	c := trackedConn(conn)
	if c == nil {
		return true
	}
	g := c.Generation()
	switch {
	case g == nil || g.Serving():
		return true
	case g.Dead():
		return false
	case isSweep(ctx):
		return true
	}
	for _, r := range t.atWork() {
		if r.old == g && r.switches() {
			t.gate.pass(ctx) // the caller looks for another one now
			return false
		}
	}
	return true
}

// switches reports whether a caller who was handed an old connection gets another
// one: an idle one if there is any, else one that it has to wait for. In the second
// half of the drain window everybody does, so that no use shorter than that is cut;
// before, one caller after each look at which none was idle, or no old one for long.
//
// What the server cannot do as fast as that it is not asked for, up to the last quarter:
// while some logins are under way, old connections serve.
func (r *replacer) switches() bool {
	now := time.Now()
	switch {
	case r.yield.Load() && r.yield.CompareAndSwap(true, false):
		r.lost.Store(true)
		return true
	case r.doubt.Load():
		return false
	case now.After(r.late):
		return now.After(r.last) || r.t.loggingIn.Load() < atOnce
	case r.lost.Load() || !r.toll.Load() || !r.toll.CompareAndSwap(true, false):
		return false
	}
	r.lost.Store(true)
	return true
}

// atOnce is how many logins may be under way when a caller is made to log in.
const atOnce = 3
