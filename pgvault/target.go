package pgvault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// target is a pool as the engine sees it: rotation.Target.
type target struct {
	user  *pgxpool.Config // as the user gave it
	hosts []host
	att   *rotation.Attachment

	ready chan struct{} // closed once pool is set
	pool  *pgxpool.Pool

	gate gate
	look atomic.Bool // at each connection that is handed out: one is replaced, or was a second ago, or End was called

	loggingIn atomic.Int32 // logins of the pool that are under way
	owed      atomic.Int32 // connections that a rotation took from the pool and that no login has made up for

	closing atomic.Bool // Shutdown was called: nothing is replaced or made up for any more

	// End has closed sockets of connections that their users may give back yet.
	ended atomic.Bool

	mu        sync.Mutex                  // held to change replacers
	replacers atomic.Pointer[[]*replacer] // one for each generation that is being replaced, or was a second ago
}

// host is one place the pool may dial: the entries of a connection string, less
// the variants of the same address (with TLS and without).
type host struct {
	name    string
	port    uint16
	entries []*pgconn.FallbackConfig
}

func newTarget(user *pgxpool.Config) *target {
	return &target{user: user, hosts: hostsOf(user.ConnConfig), ready: make(chan struct{})}
}

func hostsOf(c *pgx.ConnConfig) []host {
	var hosts []host
	first := &pgconn.FallbackConfig{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}
	for _, f := range append([]*pgconn.FallbackConfig{first}, c.Fallbacks...) {
		i := slices.IndexFunc(hosts, func(h host) bool { return h.name == f.Host && h.port == f.Port })
		if i < 0 {
			i, hosts = len(hosts), append(hosts, host{name: f.Host, port: f.Port})
		}
		hosts[i].entries = append(hosts[i].entries, f)
	}
	return hosts
}

// Attached is called before any other method.
func (t *target) Attached(a *rotation.Attachment) { t.att = a }

// Name is host:port/database of the first host.
func (t *target) Name() string {
	h := t.hosts[0]
	return fmt.Sprintf("%s/%s", net.JoinHostPort(h.name, fmt.Sprint(h.port)), t.user.ConnConfig.Database)
}

func (t *target) set(pool *pgxpool.Pool) {
	t.pool = pool
	close(t.ready)
}

// wait returns the pool once there is one; nil if ctx is done first.
func (t *target) wait(ctx context.Context) *pgxpool.Pool {
	select {
	case <-t.ready:
		return t.pool
	case <-ctx.Done():
		return nil
	}
}

// connectTo logs in to one host, outside the pool but with all of its
// configuration. dial replaces the user's, if not nil.
func (t *target) connectTo(ctx context.Context, l login, h host, dial pgconn.DialFunc) (*pgx.Conn, error) {
	c := t.user.ConnConfig.Copy()
	c.Host, c.Port, c.TLSConfig, c.Fallbacks = h.name, h.port, h.entries[0].TLSConfig, h.entries[1:]
	// Which host is to be preferred is no question here.
	c.ValidateConnect = nil
	if dial != nil {
		c.DialFunc = dial
	}
	return t.connect(ctx, l, c)
}

func (t *target) connect(ctx context.Context, l login, c *pgx.ConnConfig) (*pgx.Conn, error) {
	ctx = context.WithValue(ctx, loginKey, l)
	if err := t.beforeConnect(ctx, c); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

// discard closes a connection that is no longer the pool's, as the pool would: in
// the background, since the user's BeforeClose may take its time. What it returns is
// closed when the server has ended the session, which pgx waits for.
func (t *target) discard(conn *pgx.Conn) <-chan struct{} {
	if c := trackedConn(conn); c != nil {
		c.SetUnused(true)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		t.close(conn)
	}()
	return gone
}

func (t *target) close(conn *pgx.Conn) {
	defer func() { _ = recover() }() // the user's BeforeClose, on our goroutine
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	defer func() { _ = conn.Close(ctx) }()
	if t.user.BeforeClose != nil {
		t.user.BeforeClose(conn)
	}
}

// leave ends a trial login: it does what is left of a pool's connect and closes
// the connection again, as discard does.
func (t *target) leave(ctx context.Context, conn *pgx.Conn) (<-chan struct{}, error) {
	if err := t.afterConnect(ctx, conn); err != nil {
		_ = conn.Close(ctx) // as pgxpool does, without BeforeClose
		return nil, err
	}
	return t.discard(conn), nil
}

// Probe logs in on every host at once.
func (t *target) Probe(ctx context.Context, g *rotation.Generation) rotation.ProbeResult {
	results := make([]rotation.ProbeResult, len(t.hosts))
	var wg sync.WaitGroup
	for i, h := range t.hosts {
		wg.Go(func() { results[i] = t.probeHost(ctx, g, h) })
	}
	wg.Wait()
	var sum rotation.ProbeResult
	var errs []error
	for _, r := range results {
		sum.Accepted += r.Accepted
		sum.Refused += r.Refused
		sum.Unknown += r.Unknown
		errs = append(errs, r.Err)
	}
	sum.Err = errors.Join(errs...)
	return sum
}

func (t *target) probeHost(ctx context.Context, g *rotation.Generation, h host) (r rotation.ProbeResult) {
	defer func() {
		if v := recover(); v != nil {
			r = rotation.ProbeResult{Unknown: 1, Err: fmt.Errorf("a hook of %s panicked: %v", t.Name(), v)}
		}
	}()
	conn, err := t.connectTo(ctx, login{g: g}, h, nil)
	if err == nil {
		_, err = t.leave(ctx, conn)
	}
	if err != nil && refusedLogin(err) {
		err = fmt.Errorf("%w: %w", rotation.ErrRefused, err)
	}
	return rotation.Probed(err)
}
