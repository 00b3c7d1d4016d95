package stdlib

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	pgxstdlib "github.com/jackc/pgx/v5/stdlib"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// Connector takes connections from a pgvault.Pool. It is a driver.Connector, for
// sql.OpenDB and what wraps drivers, and an io.Closer.
type Connector struct {
	config *pgvault.Config // of a pool of our own; nil: it is somebody else's

	once  sync.Once
	err   error // of starting
	pool  *pgvault.Pool
	inner driver.Connector // pgx's, for that pool
}

var _ interface {
	driver.Connector
	io.Closer
} = (*Connector)(nil)

// OpenDB returns a sql.DB that takes its connections from pool, which may serve
// others, too. Closing it does not close the pool.
func OpenDB(pool *pgvault.Pool) *sql.DB { return sql.OpenDB(NewConnector(pool)) }

// NewConnector is OpenDB for what wants a driver.Connector.
func NewConnector(pool *pgvault.Pool) *Connector {
	c := &Connector{}
	c.once.Do(func() { c.use(pool) })
	return c
}

func (c *Connector) use(pool *pgvault.Pool) {
	c.pool, c.inner = pool, pgxstdlib.GetPoolConnector(pool.Pool)
}

// begin starts the pool, once, without waiting for anything.
func (c *Connector) begin() error {
	c.once.Do(func() {
		pool, err := pgvault.Start(c.config)
		if err != nil {
			c.err = err
			return
		}
		c.use(pool)
	})
	return c.err
}

// Connect takes a connection from the pool, as [pgvault.Pool.Acquire] does: where a
// login is refused, or there is no credential yet, it waits for the rotation that
// follows, within ctx, and tries again. It never returns driver.ErrBadConn.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.begin(); err != nil {
		return nil, fmt.Errorf("pgvault: opening a connection: %w", err)
	}
	var conn driver.Conn
	err := c.pool.Retry(ctx, func(*pgxpool.Pool) (err error) {
		conn, err = c.inner.Connect(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return (*Conn)(conn.(*pgxstdlib.Conn)), nil //nolint:forcetypeassert // what pgx's connector returns
}

// Driver returns a driver that remembers this connector, for [RotatorOf].
func (c *Connector) Driver() driver.Driver { return &Driver{config: c.config, connector: c} }

// Rotator returns the pool's rotator, for Status, Subscribe, Rotate and Pause, and
// starts the pool if that has not happened. It is nil if starting failed, which
// Connect reports.
func (c *Connector) Rotator() *rotation.Rotator {
	if c.begin() != nil {
		return nil
	}
	return c.pool.Rotator()
}

// Close closes the pool, unless that was given: it waits for the connections in use
// for half of vault_close_timeout (10 s), ends those that are left, and revokes the
// lease. It returns what it could not do, and how many connections it had to end. On a
// shared Rotator it leaves the lease to whoever closes that. sql.DB.Close calls it.
// Idempotent: later calls return the first one's result.
func (c *Connector) Close() error {
	if c.config == nil {
		return nil
	}
	c.once.Do(func() { c.err = rotation.ErrClosed }) // never started: nothing to close
	if c.pool == nil {
		return nil
	}
	return c.pool.Shutdown(context.Background())
}
