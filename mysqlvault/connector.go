package mysqlvault

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/internal/origin"
	"github.com/vaultpool/vaultpool/rotation"
)

// Connector opens connections that log in with a leased credential. It is a
// driver.Connector for sql.OpenDB, and an io.Closer, so that sql.DB.Close drains it
// and revokes the lease.
type Connector struct {
	config *Config
	origin *origin.Origin
	target *target

	once    sync.Once
	err     error // of starting
	rotator *rotation.Rotator
	owned   func(context.Context) error // closes the rotator, if it is ours

	closing sync.Once
	closed  error
}

// Open is sql.Open with credentials from Vault: the DSN says which by vault_path, see
// [ParseConfig]. Unlike sql.Open it waits for the first credential, within ctx and
// vault_start_timeout (30 s), and logs in with it once. It fails if Vault does not
// issue one or if the database refuses it; it is no failure if the database cannot be
// reached. After a failure nothing is left in Vault.
func Open(ctx context.Context, dsn string) (*sql.DB, error) {
	config, err := ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	c, err := NewConnector(ctx, config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// NewConnector is Open for callers who want to set more than a DSN can say; give the
// result to sql.OpenDB. The config is copied: changing it afterwards has no effect.
func NewConnector(ctx context.Context, config *Config) (*Connector, error) {
	c, err := newConnector(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		undo, cancel := context.WithTimeout(context.Background(), c.origin.CloseTimeout())
		defer cancel()
		return nil, errors.Join(fmt.Errorf("mysqlvault: %w", err), c.release(undo))
	}
	return c, nil
}

// newConnector makes one that starts with its first connection.
func newConnector(ctx context.Context, config *Config) (*Connector, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	config = config.Clone()
	c := &Connector{config: config, origin: config.origin(), target: newTarget(config.Config)}
	if err := c.origin.Resolve(ctx); err != nil {
		return nil, fmt.Errorf("mysqlvault: %w", err)
	}
	return c, nil
}

// start waits for the first credential and proves it.
func (c *Connector) start(ctx context.Context) error {
	startCtx, cancel := context.WithTimeout(ctx, c.origin.StartTimeout())
	defer cancel()
	c.once.Do(func() {
		c.err = c.attach(func() (*rotation.Rotator, func(context.Context) error, error) { return c.origin.New(startCtx) })
	})
	if c.err != nil {
		return c.err
	}
	if err := c.target.att.Prove(startCtx); err != nil {
		return err
	}
	return ctx.Err() // the proof has nothing to say then
}

// begin starts without waiting for anything, once.
func (c *Connector) begin() error {
	c.once.Do(func() { c.err = c.attach(c.origin.Start) })
	return c.err
}

func (c *Connector) attach(rotator func() (*rotation.Rotator, func(context.Context) error, error)) (err error) {
	if c.rotator, c.owned, err = rotator(); err != nil {
		return err
	}
	_, err = c.rotator.Attach(c.target)
	return err
}

// Connect logs in with the current credential. Where that is refused, or there is
// none, it waits for the rotation that follows, within ctx, and tries again. It
// returns a *[rotation.NoCredentialError] at once when waiting is a matter of luck,
// and never driver.ErrBadConn.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.begin(); err != nil {
		return nil, fmt.Errorf("mysqlvault: %w", err)
	}
	s, err := c.target.logIn(ctx)
	if err != nil {
		return nil, err
	}
	return c.target.adopt(s), nil
}

// Driver returns a driver that remembers this connector, for [RotatorOf].
func (c *Connector) Driver() driver.Driver { return &Driver{config: c.config, connector: c} }

// Rotate replaces the credential now; see [rotation.Rotator.Rotate]. Connections
// follow in the background.
func (c *Connector) Rotate(ctx context.Context) error {
	if err := c.begin(); err != nil {
		return fmt.Errorf("mysqlvault: %w", err)
	}
	return c.rotator.Rotate(ctx)
}

// Rotator returns the connector's rotator, for Status, Subscribe and Pause, and starts
// it if that has not happened. The connector closes it, unless it was given one. It
// is nil if starting failed, which Connect reports.
func (c *Connector) Rotator() *rotation.Rotator {
	if c.begin() != nil {
		return nil
	}
	return c.rotator
}

// Close is Shutdown bounded by vault_close_timeout (10 s). sql.DB.Close calls it when
// it has closed the connections that are idle.
func (c *Connector) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.origin.CloseTimeout())
	defer cancel()
	return c.Shutdown(ctx)
}

// Shutdown closes what is idle, waits for the connections in use for half the time that
// ctx leaves, ends those that are left, and revokes the lease. From then on nothing is
// opened: it may be called before or instead of sql.DB.Close. It returns what it could not do, and how
// many connections it had to end. Without a deadline in ctx it takes
// vault_close_timeout (10 s). On a shared Rotator it leaves the lease to whoever closes
// that. Idempotent: later calls return the first one's result.
func (c *Connector) Shutdown(ctx context.Context) error {
	c.closing.Do(func() {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.origin.CloseTimeout())
			defer cancel()
		}
		c.once.Do(func() { c.err = rotation.ErrClosed }) // never started: nothing to close
		c.target.closing.Store(true)
		c.wait(ctx)
		c.closed = c.release(ctx)
	})
	return c.closed
}

// wait waits for the connections in use.
func (c *Connector) wait(ctx context.Context) {
	deadline, _ := ctx.Deadline()
	patience := time.NewTimer(time.Until(deadline) / 2)
	defer patience.Stop()
	for c.target.closeIdle() > 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-patience.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// release ends what is still open and closes what is ours.
func (c *Connector) release(ctx context.Context) error {
	var errs []error
	if c.target.att != nil {
		errs = append(errs, c.endLeft(ctx))
	}
	if c.owned != nil {
		errs = append(errs, c.owned(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("mysqlvault: closing %s: %w", c.target.Name(), err)
	}
	return nil
}

// endLeft takes half the time there is at most: the lease is to be revoked yet.
func (c *Connector) endLeft(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return c.target.att.Close(ctx)
}
