// Package pqadapter is github.com/lib/pq under a rotation.Rotator, by that package's public seam alone: it shows
// what an adapter for another driver takes, which is less than 150 lines of code, imports and comments not counted.
package pqadapter

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/lib/pq"

	"github.com/vaultpool/vaultpool/rotation"
)

// Open returns a DB that logs in to one host, PostgreSQL 14 or later, with r's credential, once that is proven.
// Close it before r: that waits 5 s for connections in use, then ends them.
func Open(ctx context.Context, dsn string, r *rotation.Rotator) (*sql.DB, error) {
	config, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, err
	}
	t := &target{config: config}
	t.db = sql.OpenDB(t)
	if _, err = r.Attach(t); err == nil {
		err = t.att.Prove(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.db.Close())
	}
	return t.db, nil
}

// target is a rotation.Target, and the driver.Connector of its DB.
type target struct {
	config pq.Config
	db     *sql.DB
	att    *rotation.Attachment
	retire atomic.Int64 // how many old connections may be closed when they are given back
}

func (t *target) Attached(a *rotation.Attachment) { t.att = a }
func (t *target) Name() string                    { return t.config.Host + "/" + t.config.Database }
func (t *target) Driver() driver.Driver           { return pq.Driver{} }

// session is all that database/sql uses of pq's connections.
type session interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.NamedValueChecker
	driver.SessionResetter
	driver.Validator
}

// conn is a connection: kept while its generation serves, given up one by one when it drains, never used when dead.
type conn struct {
	session
	t *target
	g *rotation.Generation
}

func (c *conn) ResetSession(ctx context.Context) error { // before a use
	if c.g.Dead() {
		return driver.ErrBadConn
	}
	return c.session.ResetSession(ctx)
}

func (c *conn) IsValid() bool { // after a use
	return c.session.IsValid() && (c.g.Serving() || !c.g.Dead() && c.t.retire.Add(-1) < 0)
}

// Connect logs in, and again once a refused login has led to another credential.
func (t *target) Connect(ctx context.Context) (c driver.Conn, err error) {
	err = t.att.LogIn(ctx, func(g *rotation.Generation) (err error) { c, err = t.logIn(ctx, g, (*rotation.Conn).Bind); return err })
	return c, err
}

// login is one login's pq.Dialer, of which pq calls DialContext only: to log in, and later to cancel statements.
type login struct {
	pq.Dialer
	bind func(net.Conn) (net.Conn, error) // nil once it is over
	conn atomic.Pointer[rotation.Conn]
}

func (l *login) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if c, err = new(net.Dialer).DialContext(ctx, network, addr); err == nil && l.bind != nil {
		return l.bind(c)
	}
	return c, err
}

func (l *login) cut() {
	if c := l.conn.Load(); c != nil {
		_ = c.Close()
	}
}

// logIn dials, binds the socket to g, and logs in.
func (t *target) logIn(ctx context.Context, g *rotation.Generation, bind func(*rotation.Conn, *rotation.Generation) error) (*conn, error) {
	config := t.config.Clone()
	config.User, config.Password = g.Credential().Username(), g.Credential().Password()
	connector, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, err
	}
	l := new(login)
	l.bind = func(raw net.Conn) (net.Conn, error) {
		c := t.att.Track(raw)
		l.conn.Store(rotation.ConnOf(c))
		return c, bind(l.conn.Load(), g)
	}
	connector.Dialer(l)
	defer context.AfterFunc(ctx, l.cut)() // pq itself heeds ctx only while dialling
	inner, err := connector.Connect(ctx)
	l.bind = nil
	if e := new(pq.Error); errors.As(err, &e) && (e.Code == "28P01" || e.Code == "28000" || e.Code == "42501") {
		err = fmt.Errorf("%w: %w", rotation.ErrRefused, err)
	}
	if err != nil {
		l.cut() // pq has, unless it could not be bound
		return nil, err
	}
	return &conn{inner.(session), t, g}, nil //nolint:forcetypeassert // what pq returns is one
}

// Probe logs in once.
func (t *target) Probe(ctx context.Context, g *rotation.Generation) rotation.ProbeResult {
	c, err := t.logIn(ctx, g, (*rotation.Conn).BindToProbe)
	if err == nil {
		err = c.Close()
	}
	return rotation.Probed(err)
}

// Replace has old connections closed one after the other, and takes up what is idle so that it is given back.
func (t *target) Replace(ctx context.Context, old *rotation.Generation, by time.Time) {
	for range t.att.Rounds(ctx, old, by) {
		t.retire.Store(1)
		t.takeUp(ctx, t.db.Stats().Idle)
	}
}

func (t *target) takeUp(ctx context.Context, n int) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond) // what is idle is had at once
	defer cancel()
	for range n {
		if c, err := t.db.Conn(ctx); err == nil {
			defer func() { _ = c.Close() }() // when all are taken, not before
		}
	}
}

// End terminates sessions at the server, which it knows by the ports at our end, so not behind NAT: their sockets are
// closed, but their statements would go on. One that is not there any more cannot be signalled again.
func (t *target) End(ctx context.Context, g *rotation.Generation, conns []*rotation.Conn) error {
	var ports pq.Int64Array
	for _, c := range conns {
		ports = append(ports, int64(c.LocalAddr().(*net.TCPAddr).Port)) //nolint:forcetypeassert // pq dials TCP
	}
	list, err := ports.Value()
	if err != nil || len(ports) == 0 {
		return err
	}
	c, err := t.logIn(ctx, g, (*rotation.Conn).BindToEnd)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	left, err := c.ExecContext(ctx, `SELECT FROM (SELECT pid FROM pg_stat_activity WHERE usename = session_user AND client_port = ANY($1) OFFSET 0) s
		WHERE NOT pg_terminate_backend(pid, 3000) AND pg_terminate_backend(pid)`, []driver.NamedValue{{Ordinal: 1, Value: list}})
	if err != nil {
		return err
	}
	if n, _ := left.RowsAffected(); n > 0 {
		return fmt.Errorf("%d of %d sessions do not end", n, len(ports))
	}
	return nil
}

// Close is called by the DB's Close once it has closed what was idle.
func (t *target) Close() error {
	for end := time.Now().Add(5 * time.Second); t.db.Stats().OpenConnections > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return t.att.Close(ctx)
}
