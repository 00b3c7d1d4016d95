package mysqlvault

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/rotation"
)

// driverConn is all that a connection of the driver can do.
type driverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.NamedValueChecker
	driver.SessionResetter
	driver.Validator
	driver.Execer  //nolint:staticcheck // forwarded, since the driver has it
	driver.Queryer //nolint:staticcheck // likewise
}

// session is a connection of the driver's, and the generation it logged in with.
type session struct {
	driverConn
	g       *rotation.Generation
	att     *rotation.Attachment
	tracked *rotation.Conn
	socket  *socket

	mu      sync.Mutex  // held while it or one of its statements is closed
	retired atomic.Bool // it was closed to make room, and has no successor
}

// login is what a generation logs in by: a connector of its own, so that a
// connection's generation is never in doubt.
type login struct {
	att       *rotation.Attachment
	g         *rotation.Generation
	connector driver.Connector
}

// attempt is handed to the dialer through the context, and handed back with what was
// dialled.
type attempt struct {
	unused  bool // no caller waits for it
	tracked *rotation.Conn
	socket  *socket
}

type attemptKey struct{}

// logIn connects with the current credential. If that is refused, or there is none,
// it waits for the rotation that follows, within ctx, and tries again.
func (t *target) logIn(ctx context.Context) (s *session, err error) {
	broken := 0
	err = t.att.LogIn(ctx, func(g *rotation.Generation) error {
		for {
			if s, err = t.logInAs(ctx, g, false); !errors.Is(err, driver.ErrBadConn) {
				return err
			}
			// database/sql would take it for a connection of the pool's, and try again
			// itself, as often.
			if broken++; broken > 2 {
				return fmt.Errorf("mysqlvault: %s closed the connection during the login: %v", t.Name(), err) //nolint:errorlint // must not be ErrBadConn
			}
		}
	})
	return s, err
}

// tryLogIn is logIn without a wait and a second attempt. unused says that no caller
// waits for it.
func (t *target) tryLogIn(ctx context.Context, unused bool) (*session, error) {
	for {
		g, err := t.att.Current()
		if err != nil {
			return nil, err
		}
		s, err := t.logInAs(ctx, g, unused)
		switch {
		case errors.Is(err, rotation.ErrStale):
			continue
		case errors.Is(err, rotation.ErrRefused):
			t.att.Refused(g, err)
		}
		return s, err
	}
}

// logInAs connects with g, the current generation. unused says that no caller waits
// for it.
func (t *target) logInAs(ctx context.Context, g *rotation.Generation, unused bool) (*session, error) {
	if t.closing.Load() {
		return nil, fmt.Errorf("mysqlvault: %s: %w", t.Name(), rotation.ErrClosed)
	}
	l := t.login.Load()
	if l == nil || l.g != g {
		var err error
		if l, err = t.newLogin(g, (*rotation.Conn).Bind, nil); err != nil {
			return nil, err
		}
		t.login.Store(l)
	}
	t.loggingIn.Add(1)
	s, err := l.connect(ctx, unused)
	t.loggingIn.Add(-1)
	if err == nil {
		for _, r := range t.atWork() {
			r.lost.Store(false)
		}
	}
	return s, err
}

// newLogin makes a connector for g. bind counts a connection; at, if not nil, is the
// server to dial instead of the configured address.
func (t *target) newLogin(g *rotation.Generation, bind binder, at net.Addr) (*login, error) {
	c := t.user.Clone()
	c.User, c.Passwd = g.Credential().Username(), g.Credential().Password()
	dial := dialTo(c.DialFunc, at)
	c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		wrapped, s := newSocket(raw, func(s *socket) { t.abandoned.add(g, s) })
		conn := t.att.Track(wrapped)
		tracked := rotation.ConnOf(conn)
		a := ctx.Value(attemptKey{}).(*attempt) //nolint:forcetypeassert // connect has set it
		tracked.SetUnused(a.unused)
		if err := bind(tracked, g); err != nil {
			_ = conn.Close()
			return nil, err
		}
		a.tracked, a.socket = tracked, s
		return conn, nil
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("mysqlvault: mysql.Config: %w", err)
	}
	return &login{t.att, g, connector}, nil
}

// binder counts a connection in a generation.
type binder func(*rotation.Conn, *rotation.Generation) error

// dialer is what mysql.Config.DialFunc is.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// dialTo returns user, or the driver's own dialer, that dials a certain server if at is
// not nil. One of the user's may know names only, and gets the configured one then,
// which has to lead to that server.
func dialTo(user dialer, at net.Addr) dialer {
	dial := user
	if dial == nil {
		dial = dialNet
	}
	if at == nil || at.Network() == "unix" { // whose address at our end says nothing
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, at.Network(), at.String())
		if err != nil && user != nil {
			return dial(ctx, network, addr)
		}
		return conn, err
	}
}

// dialNet is the driver's own dialer.
func dialNet(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if tcp, ok := conn.(*net.TCPConn); ok { // which the driver no longer sees
		_ = tcp.SetKeepAlive(true)
	}
	return conn, err
}

func (l *login) connect(ctx context.Context, unused bool) (*session, error) {
	a := attempt{unused: unused}
	conn, err := l.connector.Connect(context.WithValue(ctx, attemptKey{}, &a))
	if err != nil {
		if a.tracked != nil {
			if ended := a.tracked.Ended(); ended != nil {
				err = fmt.Errorf("%w: %w", ended, err)
			}
			_ = a.tracked.Close() // the driver has; but nothing may stay counted
		}
		if refusedLogin(err) {
			err = fmt.Errorf("%w: %w", rotation.ErrRefused, err)
		}
		return nil, err
	}
	all, ok := conn.(driverConn)
	if !ok || a.tracked == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("mysqlvault: this version of the driver returns a %T that lacks something database/sql uses, or does not dial by DialFunc", conn)
	}
	a.socket.established.Store(true)
	a.tracked.SetSession(a.socket)
	return &session{driverConn: all, g: l.g, att: l.att, tracked: a.tracked, socket: a.socket}, nil
}

// close ends the session in an orderly way, if it is in order.
func (s *session) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.IsValid() {
		s.socket.parted.Store(true)
	}
	err := s.Close()
	_ = s.tracked.Close() // once only; the driver's watcher may be at it still
	return err
}

// retire closes a session that has been replaced, in the background: saying goodbye
// may take as long as the network likes.
func (s *session) retire() {
	s.tracked.SetUnused(true)
	go func() { _ = s.close() }()
}

// explain adds to an error why the connection was ended, where that is the cause. The
// engine hears of a right that is missing.
func (s *session) explain(err error) error {
	if err == nil || errors.Is(err, driver.ErrSkip) {
		return err
	}
	if refusedRight(err) {
		s.att.Suspect(s.g, err)
	}
	if ended := s.tracked.Ended(); ended != nil {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// loginTimeout bounds logins that nobody waits for.
const loginTimeout = 10 * time.Second

// whileFull repeats a login for as long as the server is full, until ctx is done: it is
// for those who have just closed a session, which takes the server a moment.
func whileFull(ctx context.Context, logIn func() (*session, error)) (*session, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		s, err := logIn()
		if err == nil || !serverFull(err) {
			return s, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}
