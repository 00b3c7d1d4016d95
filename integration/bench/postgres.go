package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
)

// postgres is pgvault beside pgxpool.
type postgres struct{}

func (postgres) raw() string               { return "raw pgxpool" }
func (postgres) ours() string              { return "pgvault" }
func (postgres) name() (name, file string) { return "PostgreSQL", "postgresql" }

func (postgres) servers(o options) testbed.Options {
	servers := testbed.Options{Postgres: true, PostgresTLS: o.tls}
	if usual := 300; o.sessions() > usual {
		servers.PostgresMaxConns = o.sessions()
	}
	return servers
}

func (postgres) version(ctx context.Context, bed *testbed.Bed) (version string, err error) {
	err = bed.Postgres.Superuser.QueryRow(ctx, "SHOW server_version").Scan(&version)
	return version, err
}

func (postgres) prepare(ctx context.Context, e *env) error {
	for _, statement := range []string{
		fmt.Sprintf("INSERT INTO items (name) SELECT 'item ' || n FROM generate_series(1, %d) n", items),
		"VACUUM ANALYZE items",
	} {
		if err := e.bed.Postgres.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (postgres) role(ctx context.Context, e *env, options testbed.RoleOptions) (*testbed.Role, error) {
	return e.bed.PostgresRole(ctx, options)
}

// postgresURL asks for a verified certificate where the testbed's server has one.
func (f form) postgresURL(e *env) string {
	return fmt.Sprintf("%s&pool_min_conns=%d&pool_max_conns=%d", e.bed.Postgres.URL("app"), f.conns, f.maxConns)
}

// The load's statements.
const (
	selectItem = "SELECT name FROM items WHERE id = $1"
	countItems = "SELECT count(*) FROM items WHERE id < 10"
)

// rehearse is an AfterConnect: the server reads its catalogs for these statements and pgx prepares them.
func rehearse(ctx context.Context, conn *pgx.Conn) error {
	var (
		name string
		n    int
	)
	return errors.Join(conn.QueryRow(ctx, selectItem, 1).Scan(&name), conn.QueryRow(ctx, countItems).Scan(&n))
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
	return p.QueryRow(ctx, selectItem, id).Scan(&name)
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
	return t.QueryRow(ctx, countItems).Scan(&n)
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
	if f.rehearse {
		c.AfterConnect = rehearse
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
