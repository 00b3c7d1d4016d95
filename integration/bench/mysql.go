package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
)

// mariadb is mysqlvault beside go-sql-driver/mysql, both below a sql.DB.
type mariadb struct{}

func (mariadb) raw() string              { return "raw go-sql-driver/mysql" }
func (mariadb) ours() string             { return "mysqlvault" }
func (mariadb) servers() testbed.Options { return testbed.Options{MariaDB: true} }

func (mariadb) prepare(ctx context.Context, bed *testbed.Bed) error {
	const digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL " +
		"SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	return bed.MariaDB.Exec(ctx, fmt.Sprintf(`
		INSERT INTO items (id, name) SELECT n, concat('item ', n)
		FROM (SELECT 1 + a.d + 10 * b.d + 100 * c.d AS n FROM %[1]s a, %[1]s b, %[1]s c) numbers WHERE n <= %[2]d;
		ANALYZE TABLE items`, digits, items))
}

func (mariadb) role(ctx context.Context, bed *testbed.Bed) (*testbed.Role, error) {
	return bed.MariaDBRole(ctx, testbed.RoleOptions{})
}

// sqlPool is a sql.DB.
type sqlPool struct{ *sql.DB }

func (p *sqlPool) query(ctx context.Context, id int) error {
	var name string
	return p.QueryRowContext(ctx, "SELECT name FROM items WHERE id = ?", id).Scan(&name)
}

func (p *sqlPool) begin(ctx context.Context) (tx, error) {
	t, err := p.BeginTx(ctx, nil)
	return sqlTx{t}, err
}

func (p *sqlPool) idle() int   { return p.Stats().Idle }
func (p *sqlPool) shut() error { return p.Close() }

// fill has the pool open connections, which it does not by itself, by using that many at a time.
func (p *sqlPool) fill(ctx context.Context, n int) (err error) {
	for range n {
		c, err := p.Conn(ctx)
		if err != nil {
			return fmt.Errorf("open %d connections: %w", n, err)
		}
		defer func() { _ = c.Close() }() // gives it back
	}
	return nil
}

type sqlTx struct{ *sql.Tx }

func (t sqlTx) read(ctx context.Context) error {
	var n int
	return t.QueryRowContext(ctx, "SELECT count(*) FROM items WHERE id < 10").Scan(&n)
}

func (t sqlTx) commit(context.Context) error   { return t.Commit() }
func (t sqlTx) rollback(context.Context) error { return t.Rollback() }

// queueing is a connector whose user is a sql.DB. What that asks for without the context of a caller is for those who
// wait: its background opener opens no more than there are.
type queueing struct{ driver.Connector }

func (q queueing) Connect(ctx context.Context) (driver.Conn, error) {
	if actorOf(ctx) == nobody {
		ctx = as(ctx, queue)
	}
	return q.Connector.Connect(ctx)
}

func (q queueing) Close() error {
	if c, ok := q.Connector.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// openDB makes a sql.DB of a connector.
func (p *sqlPool) openDB(c driver.Connector, f form) {
	p.DB = sql.OpenDB(queueing{c})
	p.SetMaxOpenConns(f.maxConns)
	p.SetMaxIdleConns(f.maxIdle())
}

func (f form) maxIdle() int {
	if f.conns == 0 {
		return 0
	}
	return f.maxConns
}

func (mariadb) open(_ context.Context, e *env, l *logins, f form, login func() *testbed.Credential) (pool, error) {
	return openMySQL(e, l, f, login)
}

func openMySQL(e *env, l *logins, f form, login func() *testbed.Credential) (*sqlPool, error) {
	c, err := mysql.ParseDSN(e.bed.MariaDB.DSN("app"))
	if err != nil {
		return nil, err
	}
	p := &sqlPool{}
	c.InterpolateParams = f.interpolate
	err = c.Apply(mysql.BeforeConnect(func(ctx context.Context, c *mysql.Config) error {
		login := login()
		c.User, c.Passwd = login.User, login.Password
		l.count(ctx, p.idle)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	p.openDB(connector, f)
	return p, nil
}

func (mariadb) openVault(ctx context.Context, e *env, l *logins, f form) (*vaultPool, error) {
	c, err := mysqlvault.ParseConfig(e.bed.MariaDB.DSN("app"))
	if err != nil {
		return nil, err
	}
	if c.Vault, c.Rotation, err = e.vault(ctx); err != nil {
		return nil, err
	}
	p := &sqlPool{}
	c.InterpolateParams = f.interpolate
	err = c.Apply(mysql.BeforeConnect(func(ctx context.Context, _ *mysql.Config) error {
		l.count(ctx, p.idle)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	connector, err := mysqlvault.NewConnector(ctx, c)
	if err != nil {
		return nil, err
	}
	p.openDB(connector, f)
	return &vaultPool{pool: p, rotator: connector.Rotator(), shutdown: func(context.Context) error { return p.Close() }}, nil
}

func (mariadb) logIn(e *env, login *testbed.Credential) (func(context.Context) error, error) {
	c, err := mysql.ParseDSN(e.bed.MariaDB.DSNFor(login.User, login.Password))
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		conn, err := connector.Connect(ctx)
		if err != nil {
			return err
		}
		return conn.Close()
	}, nil
}

func (mariadb) orphans(ctx context.Context, e *env) (n int, err error) {
	err = e.bed.MariaDB.Root.QueryRowContext(ctx, `SELECT count(*) FROM information_schema.processlist p
		WHERE p.user LIKE ? AND NOT EXISTS (SELECT 1 FROM mysql.user u WHERE u.user = p.user)`, "v-%-"+e.role.Name+"-%").Scan(&n)
	return n, err
}

func (mariadb) recipes() []contender {
	return []contender{
		{"BeforeConnect + closing the idle", openCloseIdle},
		{"the same, revoked at once", openCloseIdleRevoke},
		{"new DB swapped under a mutex", openSwap},
		{"SetConnMaxLifetime tuned", openConnMaxLifetime},
	}
}

// openSQLRecipe opens a pool whose BeforeConnect sets whatever login is current.
func openSQLRecipe(ctx context.Context, e *env, l *logins, change func(*recipe, *sqlPool)) (subject, error) {
	r, err := newRecipe(ctx, e)
	if err != nil {
		return nil, err
	}
	p, err := openMySQL(e, l, e.form(), r.current.Load)
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
	return openSQLRecipe(ctx, e, l, func(r *recipe, p *sqlPool) {
		r.replace = func(context.Context) error { p.closeIdle(e.form()); return nil }
	})
}

// openCloseIdleRevoke does not wait until the old login is out of use.
func openCloseIdleRevoke(ctx context.Context, e *env, l *logins) (subject, error) {
	return openSQLRecipe(ctx, e, l, func(r *recipe, p *sqlPool) {
		r.replace = func(ctx context.Context) error { p.closeIdle(e.form()); return r.revokeOld(ctx) }
	})
}

// openConnMaxLifetime lets no connection live so long that a transaction which it gets at its end outlives an old login.
func openConnMaxLifetime(ctx context.Context, e *env, l *logins) (subject, error) {
	return openSQLRecipe(ctx, e, l, func(_ *recipe, p *sqlPool) { p.SetConnMaxLifetime(e.lifetime()) })
}

// setups are what is measured while nothing happens: calls of pools that have all their connections, and Conn of one
// that keeps none.
func (mariadb) setups(e *env) []setup {
	full := form{conns: e.conns, maxConns: e.conns}
	interpolating := full
	interpolating.interpolate = true
	return []setup{
		{form: full, rotates: true, operations: []operation{
			{"Conn and Close", 1, connClose},
			{"Conn and Close", 8, connClose},
			{"QueryRow", 1, sqlQueryRow},
			{"QueryRow", 8, sqlQueryRow},
			{"QueryRow with an argument, prepared", 1, sqlQueryRowArg},
			{"QueryRow with an argument, prepared", 8, sqlQueryRowArg},
		}},
		{form: interpolating, rotates: true, operations: []operation{
			{"QueryRow with an argument, interpolated", 1, sqlQueryRowArg},
			{"QueryRow with an argument, interpolated", 8, sqlQueryRowArg},
		}},
		{form: form{maxConns: 1}, operations: []operation{{"Conn that logs in", 1, connClose}}},
	}
}

func connClose(p pool) func(context.Context) error {
	db := p.(*sqlPool).DB //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

func sqlQueryRow(p pool) func(context.Context) error {
	db := p.(*sqlPool).DB //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		var one int
		return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	}
}

func sqlQueryRowArg(p pool) func(context.Context) error {
	db := p.(*sqlPool).DB //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		var one int
		return db.QueryRowContext(ctx, "SELECT ?", 1).Scan(&one)
	}
}
