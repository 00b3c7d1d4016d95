package rotation

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// The phases a connection's owner has to tell apart, cheaply, on every checkout.
const (
	phaseServing  = iota // issued or current
	phaseDraining        // replaced, still valid: may serve
	phaseDead            // never handed out
)

// Generation is one issued credential, its lease, and every socket that was
// opened with it. The Rotator revokes the lease when the last of them is gone.
type Generation struct {
	id   uint64
	cred Credential

	phase  atomic.Int32
	lapsed atomic.Bool // the database refuses it, or its lease is known to be gone
	hush   hush        // after a suspicion
	live   func()      // called, without a lock held, when no login is possible and the last socket went

	mu     sync.Mutex
	open   bool                               // takes logins
	ending int                                // enders at work: they may still log in, by BindToEnd
	conns  map[*Attachment]map[*Conn]struct{} // no set is empty

	owned // belongs to the Rotator's goroutine
}

// ID returns the generation's number, from 1.
func (g *Generation) ID() uint64 { return g.id }

// Credential returns what to log in with.
func (g *Generation) Credential() Credential { return g.cred }

// Serving reports whether this is the current generation, or one being proven.
// It costs one atomic load.
func (g *Generation) Serving() bool { return g.phase.Load() == phaseServing }

// Dead reports whether connections of this generation may no longer be handed
// out. It costs one atomic load.
func (g *Generation) Dead() bool { return g.phase.Load() == phaseDead }

func newGeneration(id uint64, cred Credential, live func()) *Generation {
	return &Generation{id: id, cred: cred, live: live, open: true, conns: make(map[*Attachment]map[*Conn]struct{})}
}

// shut takes no more logins. What was bound before is counted, so that a count
// of zero seen after shut stays zero.
func (g *Generation) shut() {
	g.mu.Lock()
	g.open = false
	g.mu.Unlock()
}

// empty reports that nothing is left and nothing can come.
func (g *Generation) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.open && g.ending == 0 && len(g.conns) == 0
}

// count returns how many connections there are, in all and by attachment.
func (g *Generation) count() (int, map[*Attachment]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	by, total := make(map[*Attachment]int), 0
	for a, conns := range g.conns {
		by[a] = len(conns)
		total += len(conns)
	}
	return total, by
}

// countOf returns how many connections a has.
func (g *Generation) countOf(a *Attachment) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns[a])
}

// uncount takes c out; g.mu is held.
func (g *Generation) uncount(c *Conn) {
	if delete(g.conns[c.att], c); len(g.conns[c.att]) == 0 {
		delete(g.conns, c.att)
	}
}

// beginEnding takes out the connections of att, of all attachments if nil, that
// nobody is ending yet. They stay counted until endEnding.
func (g *Generation) beginEnding(att *Attachment) []*Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ending++
	var conns []*Conn
	for a, all := range g.conns {
		if att != nil && a != att {
			continue
		}
		for c := range all {
			if !c.ending {
				c.ending = true
				conns = append(conns, c)
			}
		}
	}
	return conns
}

// beginSweep lets enders log in, until endEnding. It reports false where that is
// in vain.
func (g *Generation) beginSweep() bool {
	if g.lapsed.Load() {
		return false
	}
	g.mu.Lock()
	g.ending++
	g.mu.Unlock()
	return true
}

func (g *Generation) endEnding(conns []*Conn) {
	g.mu.Lock()
	g.ending--
	for _, c := range conns {
		g.uncount(c)
	}
	g.mu.Unlock()
	g.signalIfEmpty()
}

func (g *Generation) signalIfEmpty() {
	if g.empty() {
		g.live()
	}
}

// Conn is a socket that a generation counts from Bind, before the login, until
// Close. It is made by [Attachment.Track].
type Conn struct {
	net.Conn
	att    *Attachment
	gen    atomic.Pointer[Generation]
	cause  atomic.Pointer[error]
	once   sync.Once
	err    error
	closed atomic.Bool // before gen is looked at, so that Bind or Close sees the other
	ending bool        // guarded by gen.mu: an ender uncounts it, not Close
	unused atomic.Bool // nobody's to miss: closing the pool need not tell of it

	session atomic.Pointer[any]
}

// NetConn returns the socket underneath, as crypto/tls.Conn's does.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Bind counts the connection in g from now on. It returns ErrStale when g takes
// no more logins: take the current generation and bind again; ErrClosed once the
// attachment is closed; net.ErrClosed if the connection itself is. A connection is
// bound once.
func (c *Conn) Bind(g *Generation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.att.ctx.Err() != nil {
		return ErrClosed
	}
	if !g.open {
		return ErrStale
	}
	return c.bind(g)
}

// BindToProbe is Bind for [Target.Probe], and SetUnused.
func (c *Conn) BindToProbe(g *Generation) error {
	c.SetUnused(true)
	return c.Bind(g)
}

// BindToEnd is Bind, and SetUnused, for [Target.End], which logs in to end the sessions
// of a generation that takes no logins otherwise. It returns ErrStale at other times.
func (c *Conn) BindToEnd(g *Generation) error {
	c.SetUnused(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending == 0 {
		return ErrStale
	}
	return c.bind(g)
}

// bind counts c; g.mu is held.
func (c *Conn) bind(g *Generation) error {
	if !c.gen.CompareAndSwap(nil, g) {
		return ErrStale
	}
	if c.closed.Load() { // nobody would close it again and uncount it
		return net.ErrClosed
	}
	if g.conns[c.att] == nil {
		g.conns[c.att] = make(map[*Conn]struct{})
	}
	g.conns[c.att][c] = struct{}{}
	return nil
}

// Generation returns what Bind bound, nil before.
func (c *Conn) Generation() *Generation { return c.gen.Load() }

// Ended returns why the Rotator closed the connection under its user's feet, wrapping
// ErrEnded; nil if it did not.
func (c *Conn) Ended() error {
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// SetUnused says whether no caller has the connection, not yet or not any more: when
// its pool is closed meanwhile, that is not worth a report. It is counted until Close
// all the same.
func (c *Conn) SetUnused(unused bool) { c.unused.Store(unused) }

// SetSession stores whatever the adapter needs to end this connection's session
// at the server; Session returns it, nil before.
func (c *Conn) SetSession(s any) { c.session.Store(&s) }

// Session returns what SetSession stored.
func (c *Conn) Session() any {
	if s := c.session.Load(); s != nil {
		return *s
	}
	return nil
}

// Read reads from the socket; after the connection was ended it says why.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.explain(err)
}

// Write writes to the socket; after the connection was ended it says why.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.explain(err)
}

func (c *Conn) explain(err error) error {
	if err == nil {
		return nil
	}
	if ended := c.Ended(); ended != nil {
		return ended
	}
	return err
}

// Close closes the socket and uncounts it, once.
func (c *Conn) Close() error {
	c.closed.Store(true)
	c.closeSocket()
	g := c.gen.Load()
	if g == nil {
		return c.err
	}
	g.mu.Lock()
	if !c.ending {
		g.uncount(c)
	}
	g.mu.Unlock()
	g.signalIfEmpty()
	return c.err
}

// interrupt closes the socket under its user's feet and leaves it counted.
func (c *Conn) interrupt(cause error) {
	c.cause.Store(&cause)
	c.closeSocket()
}

func (c *Conn) closeSocket() { c.once.Do(func() { c.err = c.Conn.Close() }) }

// descriptorConn is a Conn over a socket that gives access to its descriptor.
// They are two types because drivers probe for syscall.Conn, and take an error
// from it for a dead connection.
type descriptorConn struct {
	Conn
	raw syscall.Conn
}

// SyscallConn returns the socket's.
func (c *descriptorConn) SyscallConn() (syscall.RawConn, error) { return c.raw.SyscallConn() }

// track wraps raw so that it can be bound.
func track(att *Attachment, raw net.Conn) net.Conn {
	if descriptor, ok := raw.(syscall.Conn); ok {
		return &descriptorConn{Conn{Conn: raw, att: att}, descriptor}
	}
	return &Conn{Conn: raw, att: att}
}

// ConnOf finds the tracked connection in c: c itself, or what is underneath
// where c has a NetConn method (crypto/tls does). nil if there is none.
func ConnOf(c net.Conn) *Conn {
	for c != nil {
		switch v := c.(type) {
		case *descriptorConn:
			return &v.Conn
		case *Conn:
			return v
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
	return nil
}
