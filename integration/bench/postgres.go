package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
)

// postgres is pgvault beside pgxpool.
type postgres struct{}

func (postgres) raw() string              { return "raw pgxpool" }
func (postgres) ours() string             { return "pgvault" }
func (postgres) servers() testbed.Options { return testbed.Options{Postgres: true} }

func (postgres) prepare(ctx context.Context, bed *testbed.Bed) error {
	for _, statement := range []string{
		fmt.Sprintf("INSERT INTO items (name) SELECT 'item ' || n FROM generate_series(1, %d) n", items),
		"VACUUM ANALYZE items",
	} {
		if err := bed.Postgres.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (postgres) role(ctx context.Context, bed *testbed.Bed) (*testbed.Role, error) {
	return bed.PostgresRole(ctx, testbed.RoleOptions{})
}

func (f form) postgresURL(e *env) string {
	return fmt.Sprintf("%s&pool_min_conns=%d&pool_max_conns=%d", e.bed.Postgres.URL("app"), f.conns, f.maxConns)
}

// pgxPool is a pgxpool.Pool, or a pgvault.Pool.
type pgxPool struct{ pgxCalls }

type pgxCalls interface {
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
	Stat() *pgxpool.Stat
	Reset()
	Close()
}

func (p *pgxPool) query(ctx context.Context, id int) error {
	var name string
	return p.QueryRow(ctx, "SELECT name FROM items WHERE id = $1", id).Scan(&name)
}

func (p *pgxPool) begin(ctx context.Context) (tx, error) {
	t, err := p.Begin(ctx)
	return pgxTx{t}, err
}

func (p *pgxPool) idle() int { return int(p.Stat().IdleConns()) }

func (p *pgxPool) shut() error {
	p.Close()
	return nil
}

// fill waits: the pool opens its least connections by itself.
func (p *pgxPool) fill(ctx context.Context, n int) error {
	const patience = 30 * time.Second
	for start := time.Now(); p.idle() < n; time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil || time.Since(start) > patience {
			return fmt.Errorf("only %d of %d connections are open after %v", p.idle(), n, patience)
		}
	}
	return nil
}

type pgxTx struct{ pgx.Tx }

func (t pgxTx) read(ctx context.Context) error {
	var n int
	return t.QueryRow(ctx, "SELECT count(*) FROM items WHERE id < 10").Scan(&n)
}

func (t pgxTx) commit(ctx context.Context) error   { return t.Commit(ctx) }
func (t pgxTx) rollback(ctx context.Context) error { return t.Rollback(ctx) }

func (postgres) open(ctx context.Context, e *env, l *logins, f form, login func() *testbed.Credential) (pool, error) {
	return openPgx(ctx, e, l, f, login, func(*pgxPool, *pgxpool.Config) {})
}

// openPgx opens a pgxpool. What change sets of the config comes on top.
func openPgx(ctx context.Context, e *env, l *logins, f form, login func() *testbed.Credential, change func(*pgxPool, *pgxpool.Config)) (*pgxPool, error) {
	c, err := pgxpool.ParseConfig(f.postgresURL(e))
	if err != nil {
		return nil, err
	}
	p := &pgxPool{}
	c.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		login := login()
		c.User, c.Password = login.User, login.Password
		l.count(ctx, p.idle)
		return nil
	}
	change(p, c)
	p.pgxCalls, err = pgxpool.NewWithConfig(ctx, c)
	return p, err
}

func (postgres) openVault(ctx context.Context, e *env, l *logins, f form) (*vaultPool, error) {
	c, err := pgvault.ParseConfig(f.postgresURL(e))
	if err != nil {
		return nil, err
	}
	if c.Vault, c.Rotation, err = e.vault(ctx); err != nil {
		return nil, err
	}
	p := &pgxPool{}
	c.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
		l.count(ctx, p.idle)
		return nil
	}
	vault, err := pgvault.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	p.pgxCalls = vault
	return &vaultPool{pool: p, rotator: vault.Rotator(), shutdown: vault.Shutdown}, nil
}

func (postgres) logIn(e *env, login *testbed.Credential) (func(context.Context) error, error) {
	c, err := pgx.ParseConfig(e.bed.Postgres.URL("app"))
	if err != nil {
		return nil, err
	}
	c.User, c.Password = login.User, login.Password
	return func(ctx context.Context) error {
		conn, err := pgx.ConnectConfig(ctx, c)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}, nil
}

func (postgres) orphans(ctx context.Context, e *env) (n int, err error) {
	err = e.bed.Postgres.Superuser.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = usesysid)`).Scan(&n)
	return n, err
}

func (postgres) recipes() []contender {
	return []contender{
		{"BeforeConnect + Reset()", openReset},
		{"the same, revoked at once", openResetRevoke},
		{"new pool swapped under a mutex", openSwap},
		{"paced, callers pay", openPaced},
		{"MaxConnLifetime tuned", openLifetime},
	}
}

// openPgxRecipe opens a pool whose BeforeConnect sets whatever login is current.
func openPgxRecipe(ctx context.Context, e *env, l *logins, change func(*recipe, *pgxPool, *pgxpool.Config)) (subject, error) {
	r, err := newRecipe(ctx, e)
	if err != nil {
		return nil, err
	}
	r.pool, err = openPgx(ctx, e, l, e.form(), r.current.Load, func(p *pgxPool, c *pgxpool.Config) { change(r, p, c) })
	return r, err
}

// openReset is what most people write.
func openReset(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(r *recipe, p *pgxPool, _ *pgxpool.Config) {
		r.replace = func(context.Context) error { p.Reset(); return nil }
	})
}

// openResetRevoke does not wait until the old login is out of use.
func openResetRevoke(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(r *recipe, p *pgxPool, _ *pgxpool.Config) {
		r.replace = func(ctx context.Context) error { p.Reset(); return r.revokeOld(ctx) }
	})
}

// openLifetime lets no connection live so long that a transaction which it gets at its end outlives an old login, and
// has pgxpool look for those that are too old often enough to replace most of them while they are idle.
func openLifetime(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(_ *recipe, _ *pgxPool, c *pgxpool.Config) {
		c.MaxConnLifetime = e.lifetime()
		c.HealthCheckPeriod = e.interval / 10
	})
}

// openPaced rejects old connections in PrepareConn, one now and then, at the rate at which pgvault replaces them.
func openPaced(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(r *recipe, _ *pgxPool, c *pgxpool.Config) {
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

// setups are what is measured while nothing happens: calls of pools that have all their connections, and Acquire of one
// that has nothing idle.
func (postgres) setups(e *env) []setup {
	return []setup{
		{form: form{conns: e.conns, maxConns: e.conns}, rotates: true, operations: []operation{
			{"Acquire and Release", 1, acquireRelease},
			{"Acquire and Release", 8, acquireRelease},
			{"QueryRow", 1, pgxQueryRow},
			{"QueryRow", 8, pgxQueryRow},
		}},
		{form: form{maxConns: 1}, operations: []operation{{"Acquire that logs in", 1, acquireHijack}}},
	}
}

func acquireRelease(p pool) func(context.Context) error {
	calls := p.(*pgxPool).pgxCalls //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		c, err := calls.Acquire(ctx)
		if err != nil {
			return err
		}
		c.Release()
		return nil
	}
}

func pgxQueryRow(p pool) func(context.Context) error {
	calls := p.(*pgxPool).pgxCalls //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		var one int
		return calls.QueryRow(ctx, "select 1").Scan(&one)
	}
}

// acquireHijack takes the connection away from the pool, so that the next one has to be built as well.
func acquireHijack(p pool) func(context.Context) error {
	calls := p.(*pgxPool).pgxCalls //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		c, err := calls.Acquire(ctx)
		if err != nil {
			return err
		}
		return c.Hijack().Close(ctx)
	}
}
