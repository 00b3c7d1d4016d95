package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"time"
)

// Who pays for a login depends on whose context it is made with, and on what is idle.
func TestLogins_WhoPays(t *testing.T) {
	for _, c := range []struct {
		who  actor
		idle int
		want loginCount
	}{
		{nobody, 0, loginCount{total: 1, peak: 1, second: 1}},
		{upkeep, 0, loginCount{total: 1, peak: 1, second: 1}},
		{caller, 0, loginCount{total: 1, peak: 1, second: 1, paid: 1}},
		{caller, 2, loginCount{total: 1, peak: 1, second: 1, paid: 1, whileIdle: 1}},
		{queue, 0, loginCount{total: 1, peak: 1, second: 1, paid: 1}},
		{queue, 2, loginCount{total: 1, peak: 1, second: 1}},
	} {
		var l logins
		l.count(as(t.Context(), c.who), func() int { return c.idle })
		if got := l.take(); got != c.want {
			t.Errorf("actor %d, %d idle: %+v, not %+v", c.who, c.idle, got, c.want)
		}
		if got := l.take(); got != (loginCount{}) {
			t.Errorf("actor %d: %+v after it was taken", c.who, got)
		}
	}
}

// countedConnector opens connections that do nothing.
type countedConnector struct {
	p      *sqlPool
	l      *logins
	closed bool
}

func (c *countedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	c.l.count(ctx, c.p.idle)
	return idleConn{}, nil
}

func (c *countedConnector) Driver() driver.Driver { return nil }

func (c *countedConnector) Close() error {
	c.closed = true
	return nil
}

type idleConn struct{}

func (idleConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not prepared") }
func (idleConn) Begin() (driver.Tx, error)           { return nil, errors.New("not begun") }
func (idleConn) Close() error                        { return nil }

// A caller who finds no connection pays where database/sql connects within the call, and also where it waits for the
// opener, whose context says nothing of callers.
func TestLogins_DatabaseSQL(t *testing.T) {
	c := &countedConnector{p: new(sqlPool), l: new(logins)}
	c.p.openDB(c, form{conns: 1, maxConns: 1})
	if err := c.p.fill(as(t.Context(), upkeep), 1); err != nil {
		t.Fatal(err)
	}
	if got := c.l.take(); got.total != 1 || got.paid != 0 {
		t.Errorf("filling the pool: %+v", got)
	}

	ctx := as(t.Context(), caller)
	first, err := c.p.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.l.take(); got != (loginCount{}) {
		t.Errorf("there was one idle, and a caller logged in: %+v", got)
	}
	second := make(chan *sql.Conn)
	go func() {
		defer close(second)
		conn, err := c.p.Conn(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		second <- conn
	}()
	for c.p.Stats().WaitCount == 0 {
		time.Sleep(time.Millisecond)
	}
	// It is not given back but broken, so that a new one is opened for who waits.
	if err := first.Raw(func(any) error { return driver.ErrBadConn }); !errors.Is(err, driver.ErrBadConn) {
		t.Errorf("breaking a connection: %v", err)
	}
	conn := <-second
	if got := c.l.take(); got.total != 1 || got.paid != 1 || got.whileIdle != 0 {
		t.Errorf("one waited for the opener: %+v", got)
	}
	if conn == nil {
		t.FailNow()
	}
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	third, err := c.p.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.l.take(); got.total != 1 || got.paid != 1 || got.whileIdle != 0 {
		t.Errorf("one logged in itself: %+v", got)
	}
	_ = third.Close()
	if err := c.p.shut(); err != nil || !c.closed {
		t.Errorf("closing: error %v, and the connector's Close was called: %v", err, c.closed)
	}
}
