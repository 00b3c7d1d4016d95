package stdlib

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	pgxstdlib "github.com/jackc/pgx/v5/stdlib"

	"github.com/vaultpool/vaultpool/rotation"
)

// Conn is pgx's stdlib.Conn in all but IsValid, and in what errors say. It is what [database/sql.Conn.Raw]
// passes:
//
//	err := conn.Raw(func(driverConn any) error {
//		_, err := driverConn.(*stdlib.Conn).Conn().Exec(ctx, "LISTEN jobs")
//		return err
//	})
//
// That is what code for pgx's own driver says, too, once it imports this package.
// Elsewhere (*pgxstdlib.Conn)(c) converts it.
type Conn pgxstdlib.Conn

// It is a conversion rather than a struct around pgx's type, since that would cost
// every use of a connection an allocation.
func (c *Conn) pgx() *pgxstdlib.Conn { return (*pgxstdlib.Conn)(c) }

var _ interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.NamedValueChecker
	driver.SessionResetter
	driver.Validator
} = (*Conn)(nil)

// IsValid returns false, upon which database/sql closes the connection after each
// use: that gives it back to the pool. Were it kept, it would be in use, for the pool,
// until the drain deadline; and were it handed to the next who waits, as
// SetMaxIdleConns(0) does in a DB that is at its limit, nobody would look whether its
// credential is still alive.
func (c *Conn) IsValid() bool { return false }

// explain says of a connection that the Rotator ended why it is bad. To database/sql
// it is ErrBadConn all the same.
func (c *Conn) explain(err error) error {
	if !errors.Is(err, driver.ErrBadConn) {
		return err
	}
	if tracked := rotation.ConnOf(c.Conn().PgConn().Conn()); tracked != nil && tracked.Ended() != nil {
		return fmt.Errorf("%w: %w", err, tracked.Ended())
	}
	return err
}

// Conn returns the connection as pgx knows it.
func (c *Conn) Conn() *pgx.Conn { return c.pgx().Conn() }

// Close gives the connection back to the pool.
func (c *Conn) Close() error { return c.pgx().Close() }

// Prepare implements driver.Conn.
func (c *Conn) Prepare(query string) (driver.Stmt, error) { return c.pgx().Prepare(query) }

// PrepareContext implements driver.ConnPrepareContext.
func (c *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	statement, err := c.pgx().PrepareContext(ctx, query)
	return statement, c.explain(err)
}

// Begin implements driver.Conn.
func (c *Conn) Begin() (driver.Tx, error) { return c.pgx().Begin() }

// BeginTx implements driver.ConnBeginTx.
func (c *Conn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	tx, err := c.pgx().BeginTx(ctx, options)
	return tx, c.explain(err)
}

// ExecContext implements driver.ExecerContext.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	result, err := c.pgx().ExecContext(ctx, query, args)
	return result, c.explain(err)
}

// QueryContext implements driver.QueryerContext.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.pgx().QueryContext(ctx, query, args)
	return rows, c.explain(err)
}

// Ping implements driver.Pinger.
func (c *Conn) Ping(ctx context.Context) error { return c.explain(c.pgx().Ping(ctx)) }

// CheckNamedValue implements driver.NamedValueChecker.
func (c *Conn) CheckNamedValue(v *driver.NamedValue) error { return c.pgx().CheckNamedValue(v) }

// ResetSession implements driver.SessionResetter, for whatever keeps connections in
// spite of IsValid.
func (c *Conn) ResetSession(ctx context.Context) error { return c.pgx().ResetSession(ctx) }
