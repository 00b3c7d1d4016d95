package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// recipe is one pool whose BeforeConnect sets whatever login is current.
type recipe struct {
	*pgxpool.Pool
	e       *env
	l       *logins
	current atomic.Pointer[testbed.Credential]
	old     *testbed.Credential // the one before, nil if it is revoked
	replace func(ctx context.Context) error
}

// openRecipe opens the pool. What change sets of the config comes on top.
func openRecipe(ctx context.Context, e *env, l *logins, change func(*recipe, *pgxpool.Config)) (subject, error) {
	r := &recipe{e: e, l: l, replace: func(context.Context) error { return nil }}
	login, err := e.role.Issue(ctx)
	if err != nil {
		return nil, err
	}
	r.current.Store(login)
	c, err := e.poolConfig("", "")
	if err != nil {
		return nil, err
	}
	count := l.hook(r.idle)
	c.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		login := r.current.Load()
		c.User, c.Password = login.User, login.Password
		return count(ctx, c)
	}
	change(r, c)
	r.Pool, err = pgxpool.NewWithConfig(ctx, c)
	return r, err
}

// rotate revokes at last what was replaced a whole interval ago, puts a new login in place, and has connections
// replaced in the recipe's way.
func (r *recipe) rotate(ctx context.Context) error {
	if err := r.revokeOld(ctx); err != nil {
		return err
	}
	login, err := r.e.role.Issue(ctx)
	if err != nil {
		return err
	}
	r.old = r.current.Swap(login)
	return r.replace(ctx)
}

func (r *recipe) revokeOld(ctx context.Context) error {
	if r.old == nil {
		return nil
	}
	old := r.old
	r.old = nil
	return r.e.revoke(ctx, old)
}

func (r *recipe) close(ctx context.Context) error {
	r.Close()
	return errors.Join(r.revokeOld(ctx), r.e.revoke(ctx, r.current.Load()))
}

func (r *recipe) idle() int { return int(r.Stat().IdleConns()) }

// openReset is what most people write.
func openReset(ctx context.Context, e *env, l *logins) (subject, error) {
	return openRecipe(ctx, e, l, func(r *recipe, _ *pgxpool.Config) {
		r.replace = func(context.Context) error { r.Reset(); return nil }
	})
}

// openResetRevoke does not wait until the old login is out of use.
func openResetRevoke(ctx context.Context, e *env, l *logins) (subject, error) {
	return openRecipe(ctx, e, l, func(r *recipe, _ *pgxpool.Config) {
		r.replace = func(ctx context.Context) error { r.Reset(); return r.revokeOld(ctx) }
	})
}

// openLifetime lets no connection live so long that a transaction which it gets at its end outlives an old login, and
// has pgxpool look for those that are too old often enough to replace most of them while they are idle.
func openLifetime(ctx context.Context, e *env, l *logins) (subject, error) {
	return openRecipe(ctx, e, l, func(_ *recipe, c *pgxpool.Config) {
		c.MaxConnLifetime = (e.interval - transaction) * 3 / 4
		c.HealthCheckPeriod = e.interval / 10
	})
}

// openPaced rejects old connections in PrepareConn, one now and then, at the rate at which pgvault replaces them.
func openPaced(ctx context.Context, e *env, l *logins) (subject, error) {
	return openRecipe(ctx, e, l, func(r *recipe, c *pgxpool.Config) {
		every := e.drainTimeout() / 2 / time.Duration(e.conns)
		var previous atomic.Pointer[testbed.Credential]
		var next atomic.Int64 // when the next one may be rejected
		const user = "user"
		c.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
			conn.PgConn().CustomData()[user] = conn.Config().User
			return nil
		}
		c.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
			switch name := conn.PgConn().CustomData()[user]; {
			case name == r.current.Load().User:
				return true, nil
			case name != previous.Load().User:
				return false, nil // its login is revoked
			}
			now, due := time.Now(), next.Load()
			return now.UnixNano() < due || !next.CompareAndSwap(due, now.Add(every).UnixNano()), nil
		}
		r.replace = func(context.Context) error { previous.Store(r.old); return nil }
		previous.Store(r.current.Load())
	})
}

// swap opens a new pool for every login, and closes the old one when its callers are done.
type swap struct {
	e *env
	l *logins

	mu    sync.RWMutex // guards what follows
	pool  *pgxpool.Pool
	login *testbed.Credential

	closing sync.WaitGroup
	errs    chan error
}

func openSwap(ctx context.Context, e *env, l *logins) (subject, error) {
	s := &swap{e: e, l: l, errs: make(chan error, 100)}
	return s, s.rotate(ctx)
}

func (s *swap) rotate(ctx context.Context) error {
	login, err := s.e.role.Issue(ctx)
	if err != nil {
		return err
	}
	c, err := s.e.poolConfig(login.User, login.Password)
	if err != nil {
		return err
	}
	c.BeforeConnect = s.l.hook(s.idle)
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return err
	}
	if err := pool.Ping(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	oldPool, oldLogin := s.pool, s.login
	s.pool, s.login = pool, login
	s.mu.Unlock()
	if oldPool != nil {
		s.closing.Go(func() { s.retire(context.WithoutCancel(ctx), oldPool, oldLogin) })
	}
	return nil
}

func (s *swap) retire(ctx context.Context, pool *pgxpool.Pool, login *testbed.Credential) {
	pool.Close()
	if err := s.e.revoke(ctx, login); err != nil {
		s.errs <- err
	}
}

func (s *swap) get() *pgxpool.Pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pool
}

func (s *swap) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return s.get().QueryRow(ctx, sql, args...)
}

func (s *swap) Begin(ctx context.Context) (pgx.Tx, error) { return s.get().Begin(ctx) }

func (s *swap) idle() int { return int(s.get().Stat().IdleConns()) }

func (s *swap) close(ctx context.Context) error {
	s.retire(ctx, s.pool, s.login)
	s.closing.Wait()
	close(s.errs)
	var errs []error
	for err := range s.errs {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
