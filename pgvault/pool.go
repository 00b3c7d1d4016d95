package pgvault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// Pool is a pgxpool.Pool whose connections log in with a leased credential that
// is renewed and replaced behind its back. The embedded pool is a real one and
// may be handed to anything that wants one: accounting, draining and rotation
// hold there too. What needs this outer type is Close, and the retry of a login
// that was refused: the methods that acquire a connection wait for the rotation
// that follows, within their context, and go on.
type Pool struct {
	*pgxpool.Pool

	config  *Config
	target  *target
	att     *rotation.Attachment
	rotator *rotation.Rotator
	owned   func(context.Context) error // closes the rotator, if it is ours

	once sync.Once
	err  error
}

// New is pgxpool.New with credentials from Vault: the connection string says which
// by vault_path, see [ParseConfig]. It waits for the first credential, within ctx
// and vault_start_timeout (30 s), and logs in with it once. It fails if Vault does
// not issue one or if the database refuses it; as with pgxpool, it is no failure
// if the database cannot be reached. After a failure nothing is left in Vault.
func New(ctx context.Context, connString string) (*Pool, error) {
	config, err := ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	return NewWithConfig(ctx, config)
}

// NewWithConfig is New with a Config, which must come from [ParseConfig]. It is
// copied: changing it afterwards has no effect.
func NewWithConfig(ctx context.Context, config *Config) (*Pool, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	p := &Pool{config: config.Copy()}
	p.target = newTarget(p.config.Config)
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("pgvault: %w", err), p.undo())
	}
	return p, nil
}

func (p *Pool) open(ctx context.Context) (err error) {
	startCtx, cancel := context.WithTimeout(ctx, p.config.origin().StartTimeout())
	defer cancel()
	if err := p.findRotator(startCtx); err != nil {
		return err
	}
	if p.att, err = p.rotator.Attach(p.target); err != nil {
		return err
	}
	if err := p.att.Prove(startCtx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // the proof has nothing to say then
		return err
	}
	return p.fill(ctx)
}

// fill makes the embedded pool.
func (p *Pool) fill(ctx context.Context) (err error) {
	chained := p.config.Config.Copy()
	p.target.chain(chained)
	if p.Pool, err = newPool(ctx, chained); err != nil {
		return err
	}
	p.target.set(p.Pool)
	return nil
}

// newPool makes an error of pgxpool's panic on a config that it did not make.
func newPool(ctx context.Context, config *pgxpool.Config) (pool *pgxpool.Pool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("make the config with pgvault.ParseConfig: pgxpool says: %v", v)
		}
	}()
	return pgxpool.NewWithConfig(ctx, config)
}

// findRotator takes the one that is shared or makes one.
func (p *Pool) findRotator(ctx context.Context) (err error) {
	from := p.config.origin()
	if err := from.Resolve(ctx); err != nil {
		return err
	}
	p.rotator, p.owned, err = from.New(ctx)
	return err
}

// undo leaves nothing behind after a failed start.
func (p *Pool) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), p.closeTimeout())
	defer cancel()
	return p.release(ctx)
}

func (p *Pool) closeTimeout() time.Duration { return p.config.origin().CloseTimeout() }

// Close is Shutdown bounded by vault_close_timeout (10 s). What it could not do is
// logged and reported as an event.
func (p *Pool) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), p.closeTimeout())
	defer cancel()
	if err := p.Shutdown(ctx); err != nil && p.config.Rotation.Logger != nil {
		p.config.Rotation.Logger.Warn("vaultpool: closing the pool", "pool", p.target.Name(), "error", err)
	}
}

// Shutdown closes the pool, waits for the connections in use for half the time
// that ctx leaves, ends those that are left, and revokes the lease. It returns
// what it could not do, and which connections it had to end. Without a deadline in
// ctx it takes vault_close_timeout (10 s). On a shared Rotator it leaves the lease
// to whoever closes that. Idempotent: later calls return the first one's result.
func (p *Pool) Shutdown(ctx context.Context) error {
	p.once.Do(func() {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, p.closeTimeout())
			defer cancel()
		}
		p.err = p.shutdown(ctx)
	})
	return p.err
}

func (p *Pool) shutdown(ctx context.Context) error {
	p.target.closing.Store(true)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.Pool.Close() // waits for every acquired connection, for ever if one leaked
	}()
	deadline, _ := ctx.Deadline()
	patience := time.NewTimer(time.Until(deadline) / 2)
	defer patience.Stop()
	select {
	case <-closed:
	case <-patience.C:
	case <-ctx.Done():
	}
	err := p.release(ctx)
	select {
	case <-closed: // ending connections lets their users release them
	case <-time.After(100 * time.Millisecond):
		stat := p.Stat()
		err = errors.Join(err, fmt.Errorf("pgvault: pgxpool goes on waiting, in one goroutine, for %d connections that were never released by their users, which are closed, and for %d that are still being opened",
			stat.AcquiredConns(), stat.ConstructingConns()))
	}
	return err
}

// release ends what the attachment still has open and closes what is ours.
func (p *Pool) release(ctx context.Context) error {
	var errs []error
	if p.att != nil {
		errs = append(errs, p.endLeft(ctx))
	}
	if p.owned != nil {
		errs = append(errs, p.owned(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pgvault: closing %s: %w", p.target.Name(), err)
	}
	return nil
}

// endLeft takes half the time there is at most: the lease is to be revoked yet.
func (p *Pool) endLeft(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return p.att.Close(ctx)
}

// Config returns a copy of the config as it was given, without our hooks.
func (p *Pool) Config() *Config { return p.config.Copy() }

// Rotate replaces the credential now; see [rotation.Rotator.Rotate]. Connections
// follow in the background.
func (p *Pool) Rotate(ctx context.Context) error { return p.rotator.Rotate(ctx) }

// Rotator returns the pool's rotator, for Status, Subscribe and Pause. The pool
// closes it, unless it was given one.
func (p *Pool) Rotator() *rotation.Rotator { return p.rotator }
