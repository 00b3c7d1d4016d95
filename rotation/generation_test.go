package rotation

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// hazard 1: connections that bind while generations change are each counted in
// the one they log in with, and none is missed when that is revoked. The world
// checks each revocation.
func TestHazard1BindRacesPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{IssueInterval: time.Millisecond, DrainTimeout: time.Minute})
		p := g.pool("db")
		ctx, stop := context.WithCancel(context.Background())
		var dialers sync.WaitGroup
		var bound, stale atomic.Int64
		for range 50 {
			dialers.Go(func() {
				for ctx.Err() == nil {
					// Read before a rotation, dialled after it.
					gen, err := p.a.Current()
					time.Sleep(time.Duration(bound.Load()%5) * 400 * time.Microsecond)
					raw, c := p.newSocket(false)
					if err == nil {
						err = c.Bind(gen)
					}
					if errors.Is(err, ErrStale) {
						stale.Add(1)
						gen, err = p.a.BindCurrent(c)
					}
					if err != nil {
						t.Errorf("binding: %v", err)
						_ = c.Close()
						return
					}
					if got := c.Generation(); got != gen {
						t.Errorf("bound to generation %d, logs in with %d", got.ID(), gen.ID())
					}
					if n, _ := gen.count(); n == 0 {
						t.Error("bound and not counted")
					}
					if err := raw.login(gen.Credential().Username()); err != nil {
						t.Errorf("login: %v", err)
					}
					bound.Add(1)
					time.Sleep(time.Duration(bound.Load()%7) * 100 * time.Microsecond)
					_ = c.Close()
				}
			})
		}
		const rotations = 100
		for range rotations {
			if err := g.r.Rotate(context.Background()); err != nil {
				t.Errorf("Rotate: %v", err)
			}
		}
		stop()
		dialers.Wait()
		synctest.Wait()
		g.wantCalls(rotations+1, 0, rotations)
		if bound.Load() < rotations || stale.Load() < rotations {
			t.Errorf("only %d connections in %d rotations, %d of which came late", bound.Load(), rotations, stale.Load())
		}
		g.wantEvents(map[EventKind]int{DrainDeadline: 0})
	})
}

// hazard 1, outside a bubble: real parallelism on the count alone.
func TestHazard1CountIsExact(t *testing.T) {
	for range 200 {
		var signalled atomic.Int64
		g := newGeneration(1, NewCredential("u", "p"), func() { signalled.Add(1) })
		a := &Attachment{ctx: context.Background()}
		var bound, stale atomic.Int64
		var all sync.WaitGroup
		hold := make(chan struct{})
		for range 32 {
			all.Go(func() {
				c := &Conn{Conn: nopConn{}, att: a}
				switch err := c.Bind(g); {
				case err == nil:
					bound.Add(1)
				case errors.Is(err, ErrStale):
					stale.Add(1)
				default:
					t.Errorf("Bind: %v", err)
				}
				<-hold
				_ = c.Close()
				_ = c.Close() // hazard 7: drivers close twice
			})
		}
		shut := make(chan struct{})
		go func() { g.shut(); close(shut) }()
		<-shut
		for bound.Load()+stale.Load() < 32 {
			time.Sleep(time.Microsecond)
		}
		if late := (&Conn{Conn: nopConn{}, att: a}); !errors.Is(late.Bind(g), ErrStale) {
			t.Fatal("a login is counted in a generation that takes none")
		}
		if n, by := g.count(); n != int(bound.Load()) || by[a] != n {
			t.Fatalf("%d bound, %d counted, %d for the attachment", bound.Load(), n, by[a])
		}
		if g.empty() != (bound.Load() == 0) {
			t.Fatalf("%d bound, empty = %v", bound.Load(), g.empty())
		}
		close(hold)
		all.Wait()
		if n, _ := g.count(); n != 0 || !g.empty() {
			t.Fatalf("%d counted after all were closed", n)
		}
		if bound.Load() > 0 && signalled.Load() == 0 {
			t.Fatal("nobody was told that the last one went")
		}
	}
}

type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }

// hazard 3: what was handed out before a rotation either counts in the old
// generation or is refused; the new one is in place before the old takes no more.
func TestHazard3PublishBeforeRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{IssueInterval: time.Millisecond})
		p := g.pool("db")
		old, _ := p.a.Current()
		stop := make(chan struct{})
		var watchers sync.WaitGroup
		for range 8 {
			watchers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Microsecond):
					}
					cur, err := p.a.Current()
					if err != nil || !cur.Serving() {
						continue
					}
					// Whatever takes no more logins has a successor in place.
					_, c := p.newSocket(false)
					if err := c.Bind(cur); errors.Is(err, ErrStale) {
						if now, _ := p.a.Current(); now == cur {
							t.Error("the current generation takes no logins")
						}
					}
					_ = c.Close()
				}
			})
		}
		for range 20 {
			g.rotate()
		}
		close(stop)
		watchers.Wait()
		_, c := p.newSocket(false)
		if err := c.Bind(old); !errors.Is(err, ErrStale) {
			t.Errorf("binding to a replaced generation: %v, want ErrStale", err)
		}
		if c.Generation() != nil {
			t.Error("a refused bind left its generation behind")
		}
		if _, err := p.a.BindCurrent(c); err != nil {
			t.Errorf("and then to the current one: %v", err)
		}
		if err := c.Bind(old); !errors.Is(err, ErrStale) {
			t.Errorf("binding twice: %v, want ErrStale", err)
		}
		if _, err := p.a.BindCurrent(c); err == nil {
			t.Error("binding the same connection twice succeeds")
		}
		_ = c.Close()
	})
}

// The order in which things are seen is the order of a rotation.
func TestHazard3OrderOfARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.idle(t)
		p.set(func(p *fakePool) {
			p.onProbe = func(_ context.Context, gen *Generation) ProbeResult {
				if cur, err := p.a.Current(); err != nil || cur.ID() != 1 || !cur.Serving() {
					t.Errorf("while generation %d is proven, generation 1 serves: %v", gen.ID(), err)
				}
				return p.login(gen)
			}
			p.onReplace = func(_ context.Context, old *Generation, _ time.Time) {
				if cur, _ := p.a.Current(); cur.ID() != 2 || old.Serving() || old.Dead() {
					t.Errorf("replacing generation %d while %d is current", old.ID(), cur.ID())
				}
				p.closeAll()
			}
		})
		g.rotate()
		want := []EventKind{Issued, Published, Issued, Published, Draining, Drained, Revoked}
		if got := g.story(); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

// A socket that was closed before it was bound is not counted for ever.
func TestBindAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		_, c := p.newSocket(false)
		_ = c.Close()
		if _, err := p.a.BindCurrent(c); err == nil {
			t.Error("binding a closed connection succeeds")
		}
		cur, _ := p.a.Current()
		if n := p.a.Connections(cur); n != 0 {
			t.Errorf("%d connections are counted, none is open", n)
		}
	})
}

// hazard 5: a login that fails leaves nothing counted, and the raw socket's own
// answers come through.
func TestHazard5FailedLoginIsUncounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		g.w.set(func(w *world) { w.down = true })
		if _, err := p.connect(false, false); err == nil {
			t.Fatal("logging in to a database that is down succeeds")
		}
		cur, _ := p.a.Current()
		if n := p.a.Connections(cur); n != 0 {
			t.Errorf("%d connections after a failed login", n)
		}
		g.w.set(func(w *world) { w.down = false })
		c := p.idle(t)
		if n := p.a.Connections(cur); n != 1 {
			t.Errorf("%d connections after a login, want 1", n)
		}
		_ = c.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("reading a connection that its owner closed: %v, want the socket's own error", err)
		}
	})
}

// Drivers probe for syscall.Conn and take an error from it for a dead socket, so
// a wrapper has it exactly where the socket has it.
func TestTrackKeepsTheSocketsNature(t *testing.T) {
	a := &Attachment{ctx: context.Background()}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	tcp, err := net.Dial("tcp", l.Addr().String()) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	tracked := a.Track(tcp)
	if sc, ok := tracked.(syscall.Conn); !ok {
		t.Error("a TCP socket lost SyscallConn")
	} else if _, err := sc.SyscallConn(); err != nil {
		t.Errorf("SyscallConn: %v", err)
	}
	if c := ConnOf(tracked); c == nil || c.NetConn() != tcp {
		t.Error("ConnOf does not find the tracked connection")
	}
	if c := ConnOf(tls.Client(tracked, &tls.Config{MinVersion: tls.VersionTLS13})); c == nil || c.NetConn() != tcp {
		t.Error("ConnOf does not find it under TLS")
	}
	pipe, _ := net.Pipe()
	plain := a.Track(pipe)
	if _, ok := plain.(syscall.Conn); ok {
		t.Error("a pipe gained SyscallConn")
	}
	if ConnOf(plain) == nil || ConnOf(pipe) != nil || ConnOf(nil) != nil {
		t.Error("ConnOf confuses tracked and untracked")
	}
}
