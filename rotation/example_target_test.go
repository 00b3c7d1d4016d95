package rotation_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// pool is the least of a Target: what an adapter for a driver hands to Attach.
type pool struct {
	att *rotation.Attachment

	mu   sync.Mutex // guards idle
	idle []net.Conn
}

func (p *pool) Attached(a *rotation.Attachment) { p.att = a }

func (p *pool) Name() string { return "db.internal/app" }

// Probe would log in on every host.
func (p *pool) Probe(context.Context, *rotation.Generation) rotation.ProbeResult {
	return rotation.ProbeResult{Accepted: 1}
}

// Replace closes what is idle and old, paced; a real one logs in anew for each.
func (p *pool) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	for range p.att.Rounds(ctx, old, by) {
		p.mu.Lock()
		for i, conn := range p.idle {
			if rotation.ConnOf(conn).Generation() == old {
				_ = conn.Close()
				p.idle = append(p.idle[:i], p.idle[i+1:]...)
				break
			}
		}
		p.mu.Unlock()
	}
}

// End would end sessions at the server, as their sockets are closed already.
func (p *pool) End(context.Context, *rotation.Generation, []*rotation.Conn) error { return nil }

// logIn dials, is counted, and logs in with what is current.
func (p *pool) logIn() (net.Conn, error) {
	raw, _ := net.Pipe() // a dialer's socket
	conn := p.att.Track(raw)
	g, err := p.att.BindCurrent(rotation.ConnOf(conn))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	fmt.Println("logging in as", g.Credential().Username())
	return conn, nil
}

func (p *pool) release(conn net.Conn) {
	p.mu.Lock()
	p.idle = append(p.idle, conn)
	p.mu.Unlock()
}

// A pool takes part by a Target. The lease of a credential is revoked when the last
// connection that was made with it is closed.
func ExampleRotator_Attach() {
	ctx := context.Background()
	r, err := rotation.New(ctx, &leases{}, rotation.Config{IssueInterval: time.Millisecond, DrainTimeout: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	revoked := make(chan rotation.Event, 1)
	cancel := r.Subscribe(func(e rotation.Event) {
		if e.Kind == rotation.Revoked {
			revoked <- e
		}
	})
	p := &pool{}
	attachment, err := r.Attach(p)
	if err != nil {
		fmt.Println(err)
		return
	}

	conn, err := p.logIn()
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = r.Rotate(ctx)
	old := r.Status().Generations[0]
	fmt.Println(old.User, "is", old.State, "with", old.Connections, "connection")
	p.release(conn) // it is idle from here on
	e := <-revoked
	fmt.Println("generation", e.Generation, "is revoked")

	cancel()
	_ = attachment.Close(ctx)
	_ = r.Close(ctx)
	// Output:
	// logging in as v-app-1
	// v-app-1 is draining with 1 connection
	// generation 1 is revoked
}
