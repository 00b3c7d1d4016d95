package model

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// pool is a fake Target.
type pool struct {
	w    *world
	name string
	a    *rotation.Attachment

	// All guarded by the world's mutex.
	conns        []*conn
	closing      bool
	probes, ends script
	proofs       map[uint64]rotation.ProbeResult // the last, by generation
	candidate    *rotation.Generation            // proven last, before it was current
	count        int                             // of its proofs
	since        time.Time                       // the first
}

type conn struct {
	*rotation.Conn
	raw  *socket
	busy bool // in use: not replaced
}

// socket is a socket of which nobody reads, and the session behind it.
type socket struct {
	net.Conn // nil
	pool     *pool

	// All guarded by the world's mutex.
	user   *lease // nil before the login
	closed bool
	ours   bool // closed by its pool
	given  bool // to End
	probe  bool
}

// Close is called by whoever closes it first.
func (s *socket) Close() error {
	w := s.pool.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.closed || s.user == nil {
		s.closed = true
		return nil
	}
	s.closed = true
	delete(s.user.open, s)
	if !s.ours {
		s.user.ended = append(s.user.ended, s)
		w.note("a connection of %s at %s is cut", s.user.user, s.pool.name)
		w.checkCut(s)
	}
	return nil
}

// checkCut checks that the engine closes no connection before the drain deadline;
// mu is held.
func (w *world) checkCut(s *socket) {
	l, now := s.user, time.Now()
	if w.closing || s.pool.closing || s.probe || l.drained.IsZero() {
		return
	}
	if w.h.shape.sameUser {
		w.wrong(drainFirst, "a connection of %s is cut, of which only the password changed", l.user)
	}
	drain, waited := w.h.config.DrainTimeout, now.Sub(l.drained)
	if waited >= drain {
		return
	}
	if !l.left.IsZero() && l.drained.Before(l.left) && !now.Before(l.left.Add(-min(2*time.Second, l.full/20))) {
		return // its end is near
	}
	if !l.left.IsZero() && !l.drained.Before(l.left) && waited >= min(5*time.Second, max(l.full/4, 100*time.Millisecond)) {
		return // it had ended before it was replaced
	}
	w.wrong(drainFirst, "a connection of %s is cut %v after it was replaced, before the drain deadline", l.user, waited)
}

// login begins a session.
func (s *socket) login(g *rotation.Generation) error {
	w := s.pool.w
	w.mu.Lock()
	defer w.mu.Unlock()
	l, now := w.of(g), time.Now()
	switch {
	case w.down:
		return errUnknown
	case !l.live(now):
		return fmt.Errorf("%w: user %s", rotation.ErrRefused, l.user)
	case s.closed:
		return net.ErrClosed
	}
	s.user = l
	l.open[s] = true
	return nil
}

func (p *pool) dial() (*socket, *rotation.Conn) {
	raw := &socket{pool: p}
	return raw, rotation.ConnOf(p.a.Track(raw))
}

func (p *pool) hangUp(raw *socket, c *rotation.Conn) {
	p.w.do(func() { raw.ours = true })
	_ = c.Close()
}

// connect logs in with what is current, as an adapter does.
func (p *pool) connect(busy bool) error {
	raw, c := p.dial()
	g, err := p.a.BindCurrent(c)
	if err != nil {
		p.hangUp(raw, c)
		return err
	}
	p.w.do(func() { p.w.checkOffer(g) })
	if err := raw.login(g); err != nil {
		p.hangUp(raw, c)
		if errors.Is(err, rotation.ErrRefused) {
			p.refused(g)
		}
		return err
	}
	p.w.do(func() { p.conns = append(p.conns, &conn{c, raw, busy}) })
	return nil
}

// checkOffer checks what a login is given; mu is held. At the very end of a lease
// its timer and this may come in either order.
func (w *world) checkOffer(g *rotation.Generation) {
	l := w.of(g)
	switch {
	case l == nil:
		w.wrong(neverPast, "a login is offered %v, which was never issued", g)
	case !l.told.IsZero() && time.Now().After(l.told):
		w.wrong(neverPast, "a login is offered %s, which ended %v ago", l.user, time.Since(l.told))
	}
}

// offers reports whether a login would be offered l.
func (w *world) offers(l *lease) bool {
	g, err := w.pools[0].a.Current()
	return err == nil && w.of(g) == l
}

// doubt notes that g is refused, rightly or not; mu is held.
func (w *world) doubt(g *rotation.Generation) {
	w.events.doubts++
	w.of(g).doubted = true
}

func (p *pool) refused(g *rotation.Generation) {
	p.w.do(func() {
		p.w.doubt(g)
		p.w.note("%s reports a refusal of %v", p.name, g)
	})
	p.a.Refused(g, rotation.ErrRefused)
}

func (p *pool) connections() (n int) {
	p.w.do(func() { n = len(p.conns) })
	return n
}

// release closes the nth connection.
func (p *pool) release(n int) {
	var c *conn
	p.w.do(func() {
		if n >= 0 && n < len(p.conns) {
			c = p.conns[n]
			p.conns = slices.Delete(p.conns, n, n+1)
		}
	})
	if c != nil {
		p.hangUp(c.raw, c.Conn)
	}
}

func (p *pool) Name() string                    { return p.name }
func (p *pool) Attached(a *rotation.Attachment) { p.a = a }

func (p *pool) Probe(ctx context.Context, g *rotation.Generation) rotation.ProbeResult {
	var o outcome
	var over func()
	p.w.do(func() {
		o, over = p.w.begin(&p.probes)
		p.checkProofs(g)
		p.proofs[g.ID()] = rotation.ProbeResult{Unknown: 1} // until it answers
		p.w.note("probe of %v by %s %s", g, p.name, o.fault)
	})
	defer over()
	r := p.prove(ctx, g, o)
	if ctx.Err() == nil {
		p.w.do(func() { p.proofs[g.ID()] = r })
	}
	if r.Refused > 0 {
		p.w.do(func() { p.w.doubt(g) })
	}
	return r
}

// checkProofs checks the rate at which a candidate is proven: less than a second apart
// are the first six only; mu is held.
func (p *pool) checkProofs(g *rotation.Generation) {
	if p.w.events.state[g.ID()] != rotation.Issued {
		return
	}
	if p.candidate != g {
		p.candidate, p.count, p.since = g, 0, time.Now()
	}
	p.count++
	if took := time.Since(p.since); p.count > 10+int(took/time.Second) {
		p.w.wrong(rateBound, "%d proofs of %v in %v", p.count, g, took)
	}
}

func (p *pool) prove(ctx context.Context, g *rotation.Generation, o outcome) rotation.ProbeResult {
	raw, c := p.dial()
	p.w.do(func() { raw.probe = true })
	defer p.hangUp(raw, c)
	if err := c.BindToProbe(g); err != nil {
		return rotation.Probed(err)
	}
	time.Sleep(time.Millisecond)
	err := raw.login(g)
	o.wait(ctx)
	if o.fault != "" {
		err = o.err()
	}
	return rotation.Probed(err)
}

// wait is how long a hook takes.
func (o outcome) wait(ctx context.Context) {
	switch o.fault {
	case hangs:
		<-ctx.Done()
	case deaf:
		time.Sleep(o.d)
	default:
	}
}

// Replace replaces what is idle.
func (p *pool) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	for range p.a.Rounds(ctx, old, by) {
		var c *conn
		p.w.do(func() {
			i := slices.IndexFunc(p.conns, func(c *conn) bool { return !c.busy && c.Generation() == old })
			if i >= 0 {
				c = p.conns[i]
				p.conns = slices.Delete(p.conns, i, i+1)
			}
		})
		if c != nil {
			_ = p.connect(false)
			p.hangUp(c.raw, c.Conn)
		}
	}
}

// End marks the sessions as ended.
func (p *pool) End(ctx context.Context, g *rotation.Generation, conns []*rotation.Conn) error {
	var o outcome
	var over func()
	p.w.do(func() {
		o, over = p.w.begin(&p.ends)
		p.w.note("end %d connections of %v at %s %s", len(conns), g, p.name, o.fault)
		for _, c := range conns {
			raw, ok := c.NetConn().(*socket)
			if !ok || !raw.closed {
				p.w.wrong(drainFirst, "End is given a connection whose socket is open")
				continue
			}
			raw.given = true
		}
	})
	defer over()
	o.wait(ctx)
	return o.err()
}

// sweeper is a pool whose server goes on without a socket.
type sweeper struct{ *pool }

func (s sweeper) Sweep(ctx context.Context, g *rotation.Generation) error {
	var o outcome
	var over func()
	s.w.do(func() {
		o, over = s.w.begin(&s.ends)
		s.w.of(g).swept = true
		s.w.note("sweep of %v at %s %s", g, s.name, o.fault)
	})
	defer over()
	o.wait(ctx)
	return o.err()
}

// close is what the pool's owner does: close what is idle, and what is in use too
// unless it is to be kept, then the attachment.
func (p *pool) close(ctx context.Context, keep bool) {
	var conns []*conn
	p.w.do(func() {
		if p.closing {
			return
		}
		p.closing = true
		conns, p.conns = p.conns, nil
	})
	for _, c := range conns {
		if !keep || !c.busy {
			p.hangUp(c.raw, c.Conn)
		}
	}
	_ = p.a.Close(ctx)
}
