package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

func (mariadb) variants() []contender { return nil }

func (mariadb) recipes() []contender {
	return []contender{
		{"BeforeConnect + closing the idle", "BeforeConnect sets the login, and a rotation has the DB close what is idle, as sql.DB has no Reset; the old login is revoked one rotation later", openCloseIdle},
		{"the same, revoked at once", howRevoked, openCloseIdleRevoke},
		{"new DB swapped under a mutex", howSwapped, openSwap},
		{"paced, callers pay", howPaced, openPacedSQL},
		{"SetConnMaxLifetime tuned", howAged, openConnMaxLifetime},
	}
}

// wrapper is what a recipe makes of the driver's connector.
type wrapper func(*recipe, driver.Connector) driver.Connector

// asItIs wraps nothing.
func asItIs(_ *recipe, c driver.Connector) driver.Connector { return c }

// openSQLRecipe opens a pool whose BeforeConnect sets whatever login is current.
func openSQLRecipe(ctx context.Context, e *env, l *logins, wrap wrapper, change func(*recipe, *sqlPool)) (subject, error) {
	r, err := newRecipe(ctx, e)
	if err != nil {
		return nil, err
	}
	p, err := openMySQL(e, l, e.form(), r.current.Load, func(c driver.Connector) driver.Connector { return wrap(r, c) })
	if err != nil {
		return nil, err
	}
	r.pool = p
	change(r, p)
	return r, nil
}

// closeIdle has the pool close what is idle; it knows no other way to be told.
func (p *sqlPool) closeIdle(f form) {
	p.SetMaxIdleConns(0)
	p.SetMaxIdleConns(f.maxIdle())
}

// openCloseIdle leaves alone what is in use at the time, which goes on with its old login, also after that is revoked.
func openCloseIdle(ctx context.Context, e *env, l *logins) (subject, error) {
	return openSQLRecipe(ctx, e, l, asItIs, func(r *recipe, p *sqlPool) {
		r.replace = func(context.Context) error { p.closeIdle(e.form()); return nil }
	})
}

// openCloseIdleRevoke does not wait until the old login is out of use.
func openCloseIdleRevoke(ctx context.Context, e *env, l *logins) (subject, error) {
	return openSQLRecipe(ctx, e, l, asItIs, func(r *recipe, p *sqlPool) {
		r.replace = func(ctx context.Context) error { p.closeIdle(e.form()); return r.revokeOld(ctx) }
	})
}

// openConnMaxLifetime lets no connection live so long that a transaction which it gets at its end outlives an old login.
func openConnMaxLifetime(ctx context.Context, e *env, l *logins) (subject, error) {
	return openSQLRecipe(ctx, e, l, asItIs, func(_ *recipe, p *sqlPool) { p.SetConnMaxLifetime(e.lifetime()) })
}

// openPacedSQL rejects old connections in ResetSession, one now and then.
func openPacedSQL(ctx context.Context, e *env, l *logins) (subject, error) {
	return openSQLRecipe(ctx, e, l, func(r *recipe, c driver.Connector) driver.Connector {
		return &pacedConnector{c, newPacer(r)}
	}, func(*recipe, *sqlPool) {})
}

// pacedConnector opens connections that know whose login they have.
type pacedConnector struct {
	driver.Connector
	pacer *pacer
}

// Connect notes the login before the driver takes it: if that is another one already, the connection is replaced once
// more.
func (c *pacedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	user := c.pacer.r.current.Load().User
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	inner, ok := conn.(mysqlConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a %T lacks something that database/sql uses", conn), conn.Close())
	}
	return &pacedConn{inner, c.pacer, user}, nil
}

// mysqlConn is what the driver's connections can.
type mysqlConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type pacedConn struct {
	mysqlConn
	pacer *pacer
	user  string
}

// ResetSession is called before a caller gets the connection. If it says that it is bad, the caller gets another one, or
// logs in.
func (c *pacedConn) ResetSession(ctx context.Context) error {
	if !c.pacer.keeps(c.user) {
		return driver.ErrBadConn
	}
	return c.mysqlConn.ResetSession(ctx)
}
