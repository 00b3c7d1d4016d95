package pgvault

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// Replace gives the pool new connections for old ones, one at a time, while they
// are idle. It also makes up for those that the pool loses meanwhile.
func (t *target) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	p := rotation.NewPace(time.Now(), by, t.att.Connections(old))
	r := &replacer{t: t, old: old, late: p.End(), last: p.End().Add(time.Until(by) / 4)}
	r.ctx = context.WithValue(ctx, sweepKey, r)
	t.begin(r)
	if r.pool = t.wait(ctx); r.pool == nil {
		return
	}
	r.size = r.pool.Stat().TotalConns()
	for ctx.Err() == nil && !t.closing.Load() {
		left, missing := t.att.Connections(old), 0
		if time.Now().Before(by) {
			missing = r.missing()
		}
		if left == 0 && missing == 0 {
			// What we gave back looks used just now until pgxpool pings it by itself.
			time.AfterFunc(pingAfter, func() { t.end(r) })
			return
		}
		began := time.Now()
		if r.round(missing > 0) && old.Dead() {
			continue // there is nothing to spare
		}
		select {
		case <-ctx.Done():
		case <-time.After(p.Next(began, left) - time.Since(began)):
		}
	}
}

// loginTimeout is how long a replacement waits for its login. What becomes of that
// later still goes to the pool.
const loginTimeout = 10 * time.Second

// replacer replaces the connections of one generation in one pool. What is atomic
// callers read too.
type replacer struct {
	t       *target
	pool    *pgxpool.Pool
	old     *rotation.Generation
	ctx     context.Context // marked as a sweep
	size    int32           // how many connections the pool had when the generation began to drain
	retried bool            // see mayClose
	misses  int             // looks in a row at which no old connection was idle
	built   atomic.Bool     // the last Acquire built a connection

	late  time.Time   // half the drain window is over: no caller gets an old connection, if that can be helped
	last  time.Time   // three quarters are
	toll  atomic.Bool // the next caller does not either
	yield atomic.Bool // nor then, though logins fail: its place at the server is needed
	doubt atomic.Bool // the last login failed, whoever's it was: they do
	lost  atomic.Bool // a connection was closed for one that is not there yet: no login has succeeded since
}

// missing is how many connections the pool has lost of those that it had. One of those
// that have come since may be lost as well: a caller who was to get another one has found
// one idle, and logged in nowhere.
func (r *replacer) missing() int {
	stat := r.pool.Stat()
	n := max(0, r.size-stat.TotalConns())
	if n == 0 && r.lost.Load() && stat.ConstructingConns() == 0 && stat.TotalConns() < stat.MaxConns() {
		n = 1
	}
	return int(n)
}

// round replaces one connection, if one is idle, or adds one that is missing. While
// logins fail it leaves alone what is open: that is worth more than what is new. But
// on a server that is full, closing an old connection is what makes room. It reports
// whether it has added one.
func (r *replacer) round(missing bool) bool {
	if r.doubt.Load() && !r.old.Dead() {
		switch err := r.tryLogIn(); {
		case err == nil:
			r.doubt.Store(false)
			r.lost.Store(false)
		case serverFull(err) && r.mayClose():
			r.makeRoom()
			return false
		default:
			return false
		}
	}
	open := r.t.gate.close()
	defer open()
	idle := r.takeIdle() // destroys the dead ones
	if victim, others := r.pick(idle); victim != nil {
		r.misses = 0
		r.replace(victim, others, open)
		return false
	}
	if r.misses++; len(idle) == 0 || r.misses > 3 {
		r.toll.Store(true)
	}
	if missing && r.missing() > 0 { // still: the look at it may be long ago
		return r.makeUp(idle, open)
	}
	r.give(idle)
	return false
}

// mayClose reports whether an old connection may be closed though none may come of it. That
// is so once, once more when half of the drain window is over, since a login may have
// taken somebody else's place, and in the last quarter, when there is little to lose.
func (r *replacer) mayClose() bool {
	now := time.Now()
	switch {
	case !r.lost.Load(), now.After(r.last):
		return true
	case now.After(r.late) && !r.retried:
		r.retried = true
		return true
	default:
		return false
	}
}

// pick separates one old connection, nil if there is none, from the others.
func (r *replacer) pick(idle []*pgxpool.Conn) (*pgxpool.Conn, []*pgxpool.Conn) {
	i := slices.IndexFunc(idle, r.isOld)
	if i < 0 {
		return nil, idle
	}
	victim := idle[i]
	return victim, slices.Delete(idle, i, i+1)
}

// makeRoom closes an old connection and logs in in its place. If somebody else is
// faster, the pool has one less, but not another one: see lost. Where none is idle, the
// next caller who is handed an old one makes room and logs in itself.
func (r *replacer) makeRoom() {
	open := r.t.gate.close()
	victim, others := r.pick(r.takeIdle())
	if victim == nil {
		if len(others) == 0 {
			r.lost.Store(true)
			r.yield.Store(true)
		}
		r.give(others)
		open()
		return
	}
	r.lost.Store(true)
	gone := victim.Hijack()
	r.t.owed.Add(1)
	r.give(others)
	open()
	select {
	case <-r.t.discard(gone):
	case <-r.ctx.Done():
		return
	case <-time.After(loginTimeout): // the user's BeforeClose takes its time
	}
	open = r.t.gate.close()
	defer open()
	r.makeUp(r.takeIdle(), open)
}

func (r *replacer) isOld(c *pgxpool.Conn) bool {
	tracked := trackedConn(c.Conn())
	return tracked != nil && tracked.Generation() == r.old
}

// replace logs a new connection in and closes victim.
func (r *replacer) replace(victim *pgxpool.Conn, others []*pgxpool.Conn, open func()) {
	if stat := r.pool.Stat(); stat.TotalConns() >= stat.MaxConns() {
		gone := victim.Hijack() // the slot must be free; Destroy would hold it on
		r.t.owed.Add(1)
		if !r.makeUp(others, open) {
			r.lost.Store(true) // it is missing
		}
		r.t.discard(gone)
		return
	}
	if !r.build(others, open) {
		r.giveOne(victim, true) // as good as before
		return
	}
	r.t.discard(victim.Hijack())
}

// makeUp is build for a connection that is missing.
func (r *replacer) makeUp(others []*pgxpool.Conn, open func()) bool {
	built := r.build(others, open)
	if built {
		r.t.settle()
	}
	return built
}

// build logs a new connection in and reports whether it did. pgxpool builds one
// only in Acquire, and only while none is idle: so all that are idle have been
// taken, and others are given back as soon as Acquire has decided to build. It may
// also get one that a caller has just released.
func (r *replacer) build(others []*pgxpool.Conn, open func()) bool {
	giveBack := sync.OnceFunc(func() {
		r.give(others)
		open()
	})
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	r.built.Store(false)
	c, err := r.pool.Acquire(&deciding{Context: ctx, decided: giveBack})
	giveBack()
	built := r.built.Load()
	r.doubt.Store(err != nil && (built || ctx.Err() == nil)) // where none was tried the pool was full
	if err != nil {
		return false
	}
	r.giveOne(c, !built)
	return built
}

// tryLogIn tries a login outside the pool, and returns when it has left again.
func (r *replacer) tryLogIn() error {
	g, err := r.t.att.Current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	conn, err := r.t.connect(ctx, login{g: g}, r.t.user.ConnConfig.Copy())
	if err != nil {
		return err
	}
	left, err := r.t.leave(ctx, conn)
	if err != nil {
		return err
	}
	select {
	case <-left:
	case <-ctx.Done():
	}
	return nil
}

func (r *replacer) takeIdle() []*pgxpool.Conn { return r.pool.AcquireAllIdle(r.ctx) }

// give returns connections that were taken, in the order in which they were idle:
// the one to be used next comes last.
func (r *replacer) give(conns []*pgxpool.Conn) {
	for _, c := range slices.Backward(conns) {
		r.giveOne(c, true)
	}
}

// giveOne returns a connection without the user's AfterRelease. Its idle time
// starts anew, so that pgxpool would not ping it: idleSince says whether it must. Of one
// that is taken for the first time that is not known; one that was used since we gave it
// back before has not been idle for long.
func (r *replacer) giveOne(conn *pgxpool.Conn, rested bool) {
	if s := sessionOf(trackedConn(conn.Conn())); s != nil {
		known := s.sweeper.Swap(r) == r
		switch {
		case !rested:
			s.idleSince.Store(0)
		case s.idleSince.Load() != 0: // since then
		case known:
			s.idleSince.Store(time.Now().UnixNano())
		default:
			s.idleSince.Store(1) // long ago
		}
		s.quiet.Store(true)
	}
	conn.Release()
}

// deciding is a context that tells when puddle has decided, in Acquire, to build
// a connection: it asks for Done once on entry and a second time when it begins
// to wait, for the new connection or for a slot.
type deciding struct {
	context.Context
	asked   atomic.Int32
	decided func()
}

func (d *deciding) Done() <-chan struct{} {
	if d.asked.Add(1) == 2 {
		d.decided()
	}
	return d.Context.Done()
}
