package rotation

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// fakePool is a Target: a few connections, idle or in use, and hooks.
type fakePool struct {
	w    *world
	name string
	a    *Attachment

	mu        sync.Mutex // guards what follows
	conns     []*fakeConn
	probed    []uint64 // generations, in order
	replaced  []uint64
	ended     []int // how many connections each End was given
	onProbe   func(ctx context.Context, g *Generation) ProbeResult
	onReplace func(ctx context.Context, old *Generation, by time.Time)
	onEnd     func(ctx context.Context, g *Generation, conns []*Conn) error
}

// fakeConn is one connection of a fakePool.
type fakeConn struct {
	*Conn
	busy bool // guarded by fakePool.mu: in use, so not to be replaced
}

func (p *fakePool) set(f func(*fakePool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func (p *fakePool) newSocket(executing bool) (*socket, *Conn) {
	here, _ := net.Pipe()
	raw := &socket{Conn: here, w: p.w, executing: executing}
	return raw, ConnOf(p.a.Track(raw))
}

// connect opens a connection with whatever is current, as an adapter does.
func (p *fakePool) connect(busy, executing bool) (*fakeConn, error) {
	raw, c := p.newSocket(executing)
	g, err := p.a.BindCurrent(c)
	if err == nil {
		err = raw.login(g.Credential().Username())
	}
	if err != nil {
		_ = c.Close()
		if errors.Is(err, ErrRefused) {
			p.a.Refused(g, err)
		}
		return nil, err
	}
	conn := &fakeConn{Conn: c, busy: busy}
	p.set(func(p *fakePool) { p.conns = append(p.conns, conn) })
	return conn, nil
}

// idle opens a connection that lies in the pool.
func (p *fakePool) idle(t *testing.T) *fakeConn {
	t.Helper()
	c, err := p.connect(false, false)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return c
}

// inUse opens a connection that its user keeps: leaked, hijacked, or long.
func (p *fakePool) inUse(t *testing.T) *fakeConn {
	t.Helper()
	c, err := p.connect(true, false)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return c
}

// executing is inUse with a statement that outlives the socket.
func (p *fakePool) executing(t *testing.T) *fakeConn {
	t.Helper()
	c, err := p.connect(true, true)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	return c
}

// takeIdle takes the connections of g that may be replaced out of the pool.
func (p *fakePool) takeIdle(g *Generation) (taken []*fakeConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c *fakeConn) bool {
		old := !c.busy && c.Generation() == g
		if old {
			taken = append(taken, c)
		}
		return old
	})
	return taken
}

func (p *fakePool) closeAll() {
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (p *fakePool) Name() string { return p.name }

func (p *fakePool) Attached(a *Attachment) { p.a = a }

func (p *fakePool) Probe(ctx context.Context, g *Generation) ProbeResult {
	p.mu.Lock()
	p.probed = append(p.probed, g.ID())
	hook := p.onProbe
	p.mu.Unlock()
	if hook != nil {
		return hook(ctx, g)
	}
	return p.login(g)
}

// login is what a probe does: bind, log in, close.
func (p *fakePool) login(g *Generation) ProbeResult {
	raw, c := p.newSocket(false)
	defer func() { _ = c.Close() }()
	if err := c.Bind(g); err != nil {
		return ProbeResult{Unknown: 1, Err: err}
	}
	switch err := raw.login(g.Credential().Username()); {
	case err == nil:
		return ProbeResult{Accepted: 1}
	case errors.Is(err, ErrRefused):
		return ProbeResult{Refused: 1, Err: err}
	default:
		return ProbeResult{Unknown: 1, Err: err}
	}
}

func (p *fakePool) Replace(ctx context.Context, old *Generation, by time.Time) {
	p.mu.Lock()
	p.replaced = append(p.replaced, old.ID())
	hook := p.onReplace
	p.mu.Unlock()
	if hook != nil {
		hook(ctx, old, by)
		return
	}
	for p.a.Connections(old) > 0 && ctx.Err() == nil {
		for _, c := range p.takeIdle(old) {
			if _, err := p.connect(false, false); err != nil && !errors.Is(err, ErrClosed) {
				p.w.t.Errorf("replacing a connection of %s: %v", p.name, err)
			}
			_ = c.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *fakePool) End(ctx context.Context, g *Generation, conns []*Conn) error {
	p.mu.Lock()
	p.ended = append(p.ended, len(conns))
	hook := p.onEnd
	p.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, g, conns); err != nil {
			return err
		}
	}
	for _, c := range conns {
		c.NetConn().(*socket).endSession()
	}
	return nil
}

func (p *fakePool) snapshot() (probed, replaced []uint64, ended []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.probed), slices.Clone(p.replaced), slices.Clone(p.ended)
}
