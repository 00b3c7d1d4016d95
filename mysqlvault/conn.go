package mysqlvault

import (
	"context"
	"database/sql/driver"
	"sync"
	"sync/atomic"
)

// conn is what database/sql has for a connection. While it lies in the pool the
// session inside may be exchanged for one of another generation.
type conn struct {
	t *target

	idle atomic.Bool // nobody uses it
	s    *session    // whoever uses it reads it freely; while it is idle, mu guards it
	err  error       // why s is dead and there is none to replace it; its user's

	one     stmt // for the one statement that most uses prepare
	oneUsed bool // its user's

	mu     sync.Mutex // held to exchange s while idle, and to stop being so
	closed bool
}

var (
	_ driverConn         = (*conn)(nil)
	_ driver.Validator   = (*conn)(nil)
	_ driver.Pinger      = (*conn)(nil)
	_ driver.ConnBeginTx = (*conn)(nil)
)

// ready returns the session to use. A connection that was opened in the background,
// or comes out of the pool, is checked first.
func (c *conn) ready(ctx context.Context) (*session, error) {
	if c.idle.Load() {
		c.checkOut(ctx)
	} else if c.err != nil { // of another call, whose context may have been shorter
		c.renew(ctx)
	}
	return c.s, c.err
}

// checkOut takes the connection into use. From here on the session stays.
func (c *conn) checkOut(ctx context.Context) {
	c.mu.Lock()
	c.idle.Store(false)
	c.mu.Unlock()
	c.oneUsed = c.oneUsed && !c.one.closed
	if !c.s.g.Serving() || c.s.retired.Load() {
		c.renew(ctx)
	}
}

// renew exchanges a session of an old generation for one that was logged in for the
// purpose. A dead one it replaces in any case: it is never used.
func (c *conn) renew(ctx context.Context) {
	c.err = nil // of another attempt
	r := c.t.replacerOf(c.s.g)
	if r != nil {
		if next := r.take(); next != nil {
			c.exchange(next)
			return
		}
	}
	dead := c.s.g.Dead() || c.s.retired.Load()
	if !dead && r != nil && r.mustSwitch() {
		next, err := r.logInInstead(ctx)
		if next != nil {
			c.t.att.PaidLogin()
			c.exchange(next)
			return
		}
		if dead = serverFull(err); dead { // ours is the place that we need
			c.s.retired.Store(true)
			_ = c.s.close()
		}
	}
	if dead {
		c.revive(ctx)
	}
}

// revive logs in anew for a session that is dead. It had a place at the server, which
// may be free in a moment, or have gone to a session that is ready for us.
func (c *conn) revive(ctx context.Context) {
	patient, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	next, err := whileFull(patient, func() (*session, error) {
		if r := c.t.replacerOf(c.s.g); r != nil {
			if s := r.takeSpare(); s != nil {
				return s, nil
			}
		}
		s, err := c.t.logIn(ctx)
		if err == nil {
			c.t.att.PaidLogin()
		}
		return s, err
	})
	if c.err = err; err == nil {
		c.exchange(next)
	}
}

// exchange puts next in the place of the session; who calls it uses the connection,
// or holds mu while nobody does.
func (c *conn) exchange(next *session) {
	old := c.s
	c.s = next
	next.tracked.SetUnused(false)
	old.retire()
}

// offer exchanges the session if the connection is idle and on that generation.
func (c *conn) offer(next *session, isOld func(*session) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.idle.Load() || !isOld(c.s) {
		return false
	}
	c.exchange(next)
	return true
}

func (c *conn) idleWith(isOld func(*session) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && c.idle.Load() && isOld(c.s)
}

// vacate takes the session out of an idle connection, to make room at the server.
// Whoever uses the connection next logs in, unless it is offered a session before.
func (c *conn) vacate(isOld func(*session) bool) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.idle.Load() || !isOld(c.s) || c.s.retired.Load() {
		return nil
	}
	c.s.retired.Store(true)
	c.s.tracked.SetUnused(true)
	return c.s
}

// ResetSession is called when the connection comes out of the pool. Only ErrBadConn
// is heard there: what else is wrong the first use reports.
func (c *conn) ResetSession(ctx context.Context) error {
	s, err := c.ready(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	return s.ResetSession(ctx)
}

// IsValid is database/sql's to call, when the connection is given back: from here on
// the session may be exchanged.
func (c *conn) IsValid() bool {
	c.mu.Lock() // it may never have been used, and be idle already
	defer c.mu.Unlock()
	if c.err != nil || !c.s.retired.Load() && (c.s.tracked.Ended() != nil || !c.s.IsValid()) {
		return false // the driver does not notice by itself that it was ended
	}
	c.idle.Store(true)
	return true
}

// Close is called by database/sql only while nobody uses the connection.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	s := c.s
	c.mu.Unlock()
	s.tracked.SetUnused(true)
	c.t.remove(c)
	if err := s.close(); s.tracked.Ended() == nil {
		return err
	}
	return nil // it was ended, and that was told: there was nobody to say goodbye to
}

// Ping is the driver's.
func (c *conn) Ping(ctx context.Context) error {
	s, err := c.ready(ctx)
	if err != nil {
		return err
	}
	return s.explain(s.Ping(ctx))
}

// QueryContext is the driver's.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, query, args)
	if err != nil {
		return nil, s.explain(err)
	}
	return rows, nil
}

// ExecContext is the driver's.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	result, err := s.ExecContext(ctx, query, args)
	if err != nil {
		return nil, s.explain(err)
	}
	return result, nil
}

// Query is the driver's.
func (c *conn) Query(query string, args []driver.Value) (driver.Rows, error) {
	s, err := c.ready(context.Background())
	if err != nil {
		return nil, err
	}
	rows, err := s.Query(query, args)
	if err != nil {
		return nil, s.explain(err)
	}
	return rows, nil
}

// Exec is the driver's.
func (c *conn) Exec(query string, args []driver.Value) (driver.Result, error) {
	s, err := c.ready(context.Background())
	if err != nil {
		return nil, err
	}
	result, err := s.Exec(query, args)
	if err != nil {
		return nil, s.explain(err)
	}
	return result, nil
}

// CheckNamedValue is the driver's, which asks nothing of the session.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	c.mu.Lock()
	s := c.s
	c.mu.Unlock()
	return s.CheckNamedValue(v)
}

// Prepare is PrepareContext without a context.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext prepares a statement that prepares itself again where the session
// has been exchanged.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := s.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	st := &c.one
	if c.oneUsed {
		st = new(stmt)
	} else {
		c.oneUsed = true
	}
	*st = stmt{c: c, query: query, s: s, inner: inner}
	return st, nil
}

// Begin is BeginTx without a context or options.
func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx is the driver's.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	s, err := c.ready(ctx)
	if err != nil {
		return nil, err
	}
	inner, err := s.BeginTx(ctx, opts)
	if err != nil {
		return nil, s.explain(err)
	}
	return tx{s, inner}, nil
}

// tx is a transaction whose errors say why its connection was ended.
type tx struct {
	s     *session
	inner driver.Tx
}

// Commit is the driver's.
func (t tx) Commit() error { return t.s.explain(t.inner.Commit()) }

// Rollback is the driver's.
func (t tx) Rollback() error { return t.s.explain(t.inner.Rollback()) }
