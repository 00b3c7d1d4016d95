package main

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// growing is a Rotator with pools whose sockets lead nowhere.
type growing struct {
	rotator *rotation.Rotator
	source  *promptSource
	pools   []*growingPool
}

func newGrowing(ctx context.Context, pools int) (*growing, error) {
	source := new(promptSource)
	rotator, err := rotation.New(ctx, source, rotation.Config{IssueInterval: time.Millisecond, DrainTimeout: time.Minute})
	if err != nil {
		return nil, err
	}
	g := &growing{rotator: rotator, source: source}
	for range pools {
		if err := g.attach(); err != nil {
			return nil, errors.Join(err, g.close())
		}
	}
	return g, nil
}

func (g *growing) attach() error {
	p := &growingPool{replace: make(chan struct{}), replaced: make(chan error, 1)}
	if _, err := g.rotator.Attach(p); err != nil {
		return err
	}
	g.pools = append(g.pools, p)
	return nil
}

// open opens n sockets in each pool.
func (g *growing) open(n int) error {
	for _, p := range g.pools {
		if err := p.track(make([]net.Conn, n)); err != nil {
			return err
		}
	}
	return nil
}

// rotate returns how long it took from the source's answer until Current returned the new generation, and until Rotate
// returned. Only then are sockets replaced: no more than that is measured.
func (g *growing) rotate(ctx context.Context) (current, rotated time.Duration, err error) {
	p := g.pools[0]
	old, err := p.att.Current()
	if err != nil {
		return 0, 0, err
	}
	type end struct {
		at  time.Time
		err error
	}
	returned := make(chan end, 1)
	go func() {
		err := g.rotator.Rotate(ctx)
		returned <- end{time.Now(), err}
	}()
	published := p.whenNext(old, func() bool { return len(returned) > 0 })
	rotate := <-returned
	if rotate.err != nil {
		return 0, 0, rotate.err
	}
	p.replace <- struct{}{}
	if err := <-p.replaced; err != nil {
		return 0, 0, err
	}
	answered := *g.source.answered.Load()
	return published.Sub(answered), rotate.at.Sub(answered), g.retired(ctx)
}

// retired waits until nothing is left of what was replaced.
func (g *growing) retired(ctx context.Context) error {
	for len(g.rotator.Status().Generations) > 1 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (g *growing) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var errs []error
	for _, p := range g.pools {
		errs = append(errs, p.close(), p.att.Close(ctx))
	}
	return errors.Join(append(errs, g.rotator.Close(ctx))...)
}

// promptSource answers at once, and knows when it last did.
type promptSource struct {
	issued   atomic.Int64
	answered atomic.Pointer[time.Time]
}

func (s *promptSource) Issue(context.Context) (rotation.Credential, rotation.Lease, error) {
	n := strconv.FormatInt(s.issued.Add(1), 10)
	credential, lease := rotation.NewCredential("user"+n, "secret"), rotation.Lease{ID: n, TTL: time.Hour, Revocable: true}
	now := time.Now()
	s.answered.Store(&now)
	return credential, lease, nil
}

func (*promptSource) Revoke(context.Context, rotation.Lease) error { return nil }

// growingPool is a rotation.Target that replaces all its sockets as soon as it is told to.
type growingPool struct {
	att      *rotation.Attachment
	conns    []net.Conn
	replace  chan struct{}
	replaced chan error
}

func (p *growingPool) Attached(a *rotation.Attachment) { p.att = a }
func (p *growingPool) Name() string                    { return "growing" }

func (p *growingPool) Probe(_ context.Context, g *rotation.Generation) rotation.ProbeResult {
	c := p.att.Track(new(deadEnd))
	err := errors.Join(rotation.ConnOf(c).BindToProbe(g), c.Close())
	if err != nil {
		return rotation.ProbeResult{Unknown: 1, Err: err}
	}
	return rotation.ProbeResult{Accepted: 1}
}

func (p *growingPool) Replace(ctx context.Context, _ *rotation.Generation, _ time.Time) {
	select {
	case <-p.replace:
	case <-ctx.Done():
		return
	}
	n := len(p.conns)
	p.replaced <- errors.Join(p.close(), p.track(make([]net.Conn, n)))
}

func (p *growingPool) End(context.Context, *rotation.Generation, []*rotation.Conn) error { return nil }

// track tracks sockets, and makes those that are nil.
func (p *growingPool) track(sockets []net.Conn) error {
	for _, socket := range sockets {
		if socket == nil {
			socket = new(deadEnd)
		}
		c := p.att.Track(socket)
		if _, err := p.att.BindCurrent(rotation.ConnOf(c)); err != nil {
			return err
		}
		rotation.ConnOf(c).SetSession(socket) // adapters keep a pointer there
		p.conns = append(p.conns, c)
	}
	return nil
}

// close closes all sockets.
func (p *growingPool) close() error {
	var errs []error
	for _, c := range p.conns {
		errs = append(errs, c.Close())
	}
	p.conns = p.conns[:0]
	return errors.Join(errs...)
}

// whenNext returns when another generation than old is current, or none can be expected any more.
func (p *growingPool) whenNext(old *rotation.Generation, over func() bool) time.Time {
	for {
		last := over()
		if g, err := p.att.Current(); last || err == nil && g != old {
			return time.Now()
		}
		runtime.Gosched()
	}
}

// deadEnd is a socket that leads nowhere. As those of the net package it has a descriptor, or says so, which makes what
// tracks it larger.
type deadEnd struct{ _ int64 }

func (*deadEnd) Read([]byte) (int, error)              { return 0, io.EOF }
func (*deadEnd) Write(b []byte) (int, error)           { return len(b), nil }
func (*deadEnd) Close() error                          { return nil }
func (*deadEnd) LocalAddr() net.Addr                   { return nil }
func (*deadEnd) RemoteAddr() net.Addr                  { return nil }
func (*deadEnd) SetDeadline(time.Time) error           { return nil }
func (*deadEnd) SetReadDeadline(time.Time) error       { return nil }
func (*deadEnd) SetWriteDeadline(time.Time) error      { return nil }
func (*deadEnd) SyscallConn() (syscall.RawConn, error) { return nil, errors.New("it leads nowhere") }
