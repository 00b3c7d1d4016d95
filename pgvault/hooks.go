package pgvault

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// session is what we remember of a connection, beside its socket.
type session struct {
	pg        *pgconn.PgConn
	sweeper   atomic.Pointer[replacer] // who took it and gave it back last, so that its idle time lies
	idleSince atomic.Int64             // since when it is idle, as far as we know, in Unix nanoseconds; 0: it has been used since
	quiet     atomic.Bool              // we release it now: the user's AfterRelease and tracer step aside
}

type contextKey int

const (
	loginKey contextKey = iota // log in with this generation, not the current one
	sweepKey                   // the caller is our own replacer
)

// login is a generation to log in with, other than the current one: to prove it,
// or to end its sessions.
type login struct {
	g      *rotation.Generation
	ending bool
}

func isSweep(ctx context.Context) bool { return ctx.Value(sweepKey) != nil }

// chain puts our hooks before the user's, on a config that is ours. What is on
// everybody's path does not ask whether the user has one.
func (t *target) chain(c *pgxpool.Config) {
	c.BeforeConnect = t.beforeConnect
	c.ConnConfig.Tracer = t.tracer(c.ConnConfig.Tracer)
	if c.PrepareConn != nil || c.BeforeAcquire != nil {
		c.PrepareConn = t.prepareConnAndUser
	} else { // not the method: that would be a call more
		c.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			return t.allServe() || t.mayServe(ctx, conn), nil
		}
	}
	if c.ShouldPing != nil {
		c.ShouldPing = t.shouldPingOrUser
	} else {
		c.ShouldPing = t.shouldPing
	}
	if c.AfterConnect != nil {
		c.AfterConnect = t.afterConnect
	}
	if c.AfterRelease != nil { // it costs every release a goroutine
		c.AfterRelease = t.afterRelease
	}
}

// beforeConnect prepares one connection's config. The user's hook comes first, so
// that nothing it sets is lost.
func (t *target) beforeConnect(ctx context.Context, c *pgx.ConnConfig) error {
	c.Tracer = t.user.ConnConfig.Tracer
	given, _ := ctx.Value(loginKey).(login)
	if r, ok := ctx.Value(sweepKey).(*replacer); ok && given.g == nil {
		r.built.Store(true)
	}
	if err := t.userBeforeConnect(ctx, c); err != nil {
		return err
	}
	if given.g == nil {
		// Fail before dialling. Waiting here would hold a slot of the pool; the
		// outer Pool waits, without one.
		if _, err := t.att.Current(); err != nil {
			return err
		}
	}
	t.loggingIn.Add(1) // until TraceConnectEnd, which pgx calls in any case
	t.watchErrors(c)
	attempt := &attempt{t: t, given: given, sweep: isSweep(ctx), user: c.Tracer}
	dial := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return t.att.Track(raw), nil
	}
	afterNetConnect := c.AfterNetConnect
	c.AfterNetConnect = func(ctx context.Context, pc *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if err := attempt.bind(pc, conn); err != nil || afterNetConnect == nil {
			return conn, err
		}
		wrapped, err := afterNetConnect(ctx, pc, conn)
		if wrapped == nil {
			wrapped = conn // pgconn closes it after an error
		}
		return wrapped, err
	}
	c.Tracer = attempt
	return nil
}

// recovered makes an error of a panic in a user's hook, which fails the connection
// instead: most hooks run in puddle's goroutine, where it would end the process,
// and after one in PrepareConn the connection would stay acquired for ever.
func recovered(hook string, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("pgvault: %s panicked: %v", hook, v)
	}
}

func (t *target) userBeforeConnect(ctx context.Context, c *pgx.ConnConfig) (err error) {
	defer recovered("BeforeConnect", &err)
	if t.user.BeforeConnect == nil {
		return nil
	}
	return t.user.BeforeConnect(ctx, c)
}

func (t *target) afterConnect(ctx context.Context, conn *pgx.Conn) (err error) {
	defer recovered("AfterConnect", &err)
	if t.user.AfterConnect == nil {
		return nil
	}
	return t.user.AfterConnect(ctx, conn)
}

// attempt follows one connection from its dial to the end of its login. It poses
// as the connection's tracer until that starts, and then puts the user's back, so
// that queries are not traced by us.
type attempt struct {
	t      *target
	given  login // what to log in with; none: the current one
	sweep  bool  // it is our own replacer's
	user   pgx.QueryTracer
	config *pgx.ConnConfig // pgx's own copy, which bind is handed too
	conn   *rotation.Conn  // the last socket bound
	mixed  bool            // sockets of this attempt are bound to different generations
}

// bind counts the socket and sets its login, both with the same generation. It is
// the last moment before the startup message.
func (a *attempt) bind(pc *pgconn.Config, conn net.Conn) error {
	c := rotation.ConnOf(conn)
	if c == nil {
		return fmt.Errorf("pgvault: cannot find our socket below a %T: give it a NetConn method, as crypto/tls has", conn)
	}
	g := a.given.g
	var err error
	switch {
	case g == nil:
		g, err = a.t.att.BindCurrent(c)
	case a.given.ending:
		err = c.BindToEnd(g)
	default:
		err = c.BindToProbe(g)
	}
	if err != nil {
		return err
	}
	a.mixed = a.mixed || a.conn != nil && a.conn.Generation() != g
	a.conn = c
	pc.User, pc.Password = g.Credential().Username(), g.Credential().Password()
	return nil
}

func (a *attempt) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	a.config = data.ConnConfig
	a.config.Tracer = a.user
	if user, ok := a.user.(pgx.ConnectTracer); ok {
		return user.TraceConnectStart(ctx, data)
	}
	return ctx
}

func (a *attempt) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	a.t.loggingIn.Add(-1)
	if a.given.g == nil {
		a.t.learn(data.Err)
		if data.Err == nil && !a.sweep && a.t.settle() {
			a.t.att.PaidLogin()
		}
	}
	switch {
	case data.Err == nil:
		if a.conn != nil {
			pg := data.Conn.PgConn()
			a.conn.SetSession(&session{pg: pg})
			if rotation.ConnOf(pg.Conn()) == nil { // the user's AfterNetConnect wrapped it
				pg.CustomData()[customKey] = a.conn
			}
		}
	case a.conn != nil:
		a.config.Password = "" // data.Err holds the config
		if a.given.g == nil && !a.mixed && refusedLogin(data.Err) {
			a.t.att.Refused(a.conn.Generation(), data.Err)
		}
	}
	if user, ok := a.user.(pgx.ConnectTracer); ok {
		user.TraceConnectEnd(ctx, data)
	}
}

// TraceQueryStart and TraceQueryEnd make attempt a pgx.QueryTracer, which a
// connect tracer has to be. They are not reached.
func (a *attempt) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd is TraceQueryStart's other half.
func (a *attempt) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func sessionOf(c *rotation.Conn) *session {
	if c == nil {
		return nil
	}
	s, _ := c.Session().(*session)
	return s
}

// customKey is where the tracked socket is found when it is wrapped out of sight.
const customKey = "vaultpool.conn"

func trackedConn(c *pgx.Conn) *rotation.Conn { return trackedSocket(c.PgConn()) }

func trackedSocket(c *pgconn.PgConn) *rotation.Conn {
	if tracked := rotation.ConnOf(c.Conn()); tracked != nil {
		return tracked
	}
	tracked, _ := c.CustomData()[customKey].(*rotation.Conn)
	return tracked
}

// allServe reports that no connection is of a generation that callers are to be kept
// from. It is on everybody's path: two atomic loads. Otherwise mayServe looks at one.
func (t *target) allServe() bool { return !t.look.Load() && t.att.Settled() }

func (t *target) prepareConnAndUser(ctx context.Context, conn *pgx.Conn) (bool, error) {
	if !t.allServe() && !t.mayServe(ctx, conn) {
		return false, nil
	}
	if isSweep(ctx) {
		return true, nil
	}
	return t.userPrepareConn(ctx, conn)
}

func (t *target) userPrepareConn(ctx context.Context, conn *pgx.Conn) (ok bool, err error) {
	if t.user.PrepareConn != nil {
		defer recovered("PrepareConn", &err)
		return t.user.PrepareConn(ctx, conn)
	}
	defer recovered("BeforeAcquire", &err)
	return t.user.BeforeAcquire(ctx, conn), nil
}

const pingAfter = time.Second // pgxpool's default

// shouldPing is pgxpool's rule, and once for a connection whose idle time we have
// reset by taking it. Some time after we have stopped doing that, the rule comes
// to the same by itself.
func (t *target) shouldPing(_ context.Context, p pgxpool.ShouldPingParams) bool {
	return t.look.Load() && wasIdle(p.Conn) || p.IdleDuration > pingAfter
}

func (t *target) shouldPingOrUser(ctx context.Context, p pgxpool.ShouldPingParams) bool {
	return wasIdle(p.Conn) || t.user.ShouldPing(ctx, p)
}

// wasIdle reports whether a connection that we have taken and given back meanwhile was
// idle for long, or may have been.
func wasIdle(conn *pgx.Conn) bool {
	s := sessionOf(trackedConn(conn))
	if s == nil || s.idleSince.Load() == 0 {
		return false
	}
	return time.Now().UnixNano()-s.idleSince.Swap(0) > int64(pingAfter)
}

func (t *target) afterRelease(conn *pgx.Conn) bool {
	if s := sessionOf(trackedConn(conn)); s != nil && s.quiet.CompareAndSwap(true, false) {
		return true
	}
	return t.user.AfterRelease(conn)
}
