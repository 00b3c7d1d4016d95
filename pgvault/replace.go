package pgvault

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// Replace gives the pool new connections for old ones, one at a time, while they
// are idle.
func (t *target) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	pool := t.wait(ctx)
	if pool == nil {
		return
	}
	defer t.toll.Store(false)
	r := replacer{t: t, pool: pool, old: old, ctx: context.WithValue(ctx, sweepKey, true)}
	p := newPace(time.Now(), by, t.att.Connections(old))
	for {
		left := t.att.Connections(old)
		if left == 0 || ctx.Err() != nil {
			return
		}
		r.round(p.over(time.Now()))
		select {
		case <-ctx.Done():
		case <-time.After(p.next(time.Now(), left)):
		}
	}
}

// pace spreads replacements over the first half of the drain window. The second
// half is for what was in use meanwhile.
type pace struct {
	end     time.Time
	least   time.Duration // half the even interval: never more than twice the rate
	longest time.Duration
	left    int // at the last look
	misses  int
}

func newPace(start, by time.Time, n int) pace {
	half := max(0, by.Sub(start)/2)
	return pace{
		end:     start.Add(half),
		least:   max(half/time.Duration(2*max(n, 1)), time.Millisecond),
		longest: min(max(half/8, time.Millisecond), time.Second),
		left:    n + 1,
	}
}

func (p *pace) over(now time.Time) bool { return !now.Before(p.end) }

// next is the time to the next replacement, where left are to be replaced. While
// they do not get fewer, neither replaced nor given up by a caller, it gets longer,
// since each look takes every idle connection for some microseconds.
func (p *pace) next(now time.Time, left int) time.Duration {
	if p.misses++; left < p.left {
		p.misses = 0
	}
	p.left = left
	even := p.end.Sub(now) / time.Duration(max(left, 1))
	return min(max(even, p.least<<min(p.misses, 8)), p.longest)
}

// loginTimeout is how long a replacement waits for its login. What becomes of that
// later still goes to the pool.
const loginTimeout = 10 * time.Second

// replacer replaces the connections of one generation in one pool.
type replacer struct {
	t      *target
	pool   *pgxpool.Pool
	old    *rotation.Generation
	ctx    context.Context // marked as a sweep
	misses int
	doubt  bool // the last login failed
}

// round replaces one connection, if one is idle. If none ever is, the next caller
// who is handed an old connection gets another one instead: an idle one if there
// is any, else one that it has to wait for.
func (r *replacer) round(late bool) {
	if r.old.Dead() {
		give(r.takeIdle()) // taking destroys the dead ones
		return
	}
	if r.doubt = r.doubt && !r.canLogIn(); r.doubt {
		return // what is open is worth more than what is new
	}
	idle := r.takeIdle()
	i := slices.IndexFunc(idle, r.isOld)
	if i < 0 {
		give(idle)
		if r.misses++; late || len(idle) == 0 || r.misses > 3 {
			r.t.toll.Store(true)
		}
		return
	}
	r.misses = 0
	victim := idle[i]
	r.replace(victim, slices.Delete(idle, i, i+1))
}

func (r *replacer) isOld(c *pgxpool.Conn) bool {
	tracked := trackedConn(c.Conn())
	return tracked != nil && tracked.Generation() == r.old
}

// replace logs a new connection in and closes victim. pgxpool builds a connection
// only in Acquire, and only while none is idle: so all that are idle have been
// taken, and others are given back as soon as Acquire has decided to build.
func (r *replacer) replace(victim *pgxpool.Conn, others []*pgxpool.Conn) {
	var gone *pgx.Conn
	if stat := r.pool.Stat(); stat.TotalConns() >= stat.MaxConns() {
		gone = victim.Hijack() // the slot must be free; Destroy would hold it on
	}
	giveOthers := sync.OnceFunc(func() { give(others) })
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	fresh, err := r.pool.Acquire(&deciding{Context: ctx, decided: giveOthers})
	giveOthers()
	if r.doubt = err != nil; !r.doubt {
		giveOne(fresh, false)
	}
	switch {
	case gone != nil:
	case err != nil:
		giveOne(victim, true) // as good as before
		return
	default:
		gone = victim.Hijack()
	}
	r.t.discard(gone)
}

// canLogIn tries a login outside the pool. On a server that is full, closing an old
// connection is what makes room.
func (r *replacer) canLogIn() bool {
	g, err := r.t.att.Current()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	conn, err := r.t.connect(ctx, login{g: g}, r.t.user.ConnConfig.Copy())
	if err == nil {
		err = r.t.leave(ctx, conn)
	}
	var refusal *pgconn.PgError
	return err == nil || errors.As(err, &refusal) && refusal.Code == "53300" // too_many_connections
}

func (r *replacer) takeIdle() []*pgxpool.Conn {
	r.t.sweeps.Add(1)
	return r.pool.AcquireAllIdle(r.ctx)
}

// give returns connections that were taken, in the order in which they were idle:
// the one to be used next comes last.
func give(conns []*pgxpool.Conn) {
	for _, c := range slices.Backward(conns) {
		giveOne(c, true)
	}
}

// giveOne returns a connection without the user's AfterRelease. Its idle time
// starts anew, so that pgxpool would not ping it: rested says that it must.
func giveOne(conn *pgxpool.Conn, rested bool) {
	if s := sessionOf(trackedConn(conn.Conn())); s != nil {
		s.swept.Store(rested)
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
