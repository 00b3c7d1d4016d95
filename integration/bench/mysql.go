package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
)

// mariadb is mysqlvault beside go-sql-driver/mysql, both below a sql.DB.
type mariadb struct{}

func (mariadb) raw() string               { return "raw go-sql-driver/mysql" }
func (mariadb) ours() string              { return "mysqlvault" }
func (mariadb) name() (name, file string) { return "MariaDB", "mysql" }

func (mariadb) servers(options) testbed.Options { return testbed.Options{MariaDB: true} }

func (mariadb) version(ctx context.Context, bed *testbed.Bed) (version string, err error) {
	err = bed.MariaDB.Root.QueryRowContext(ctx, "SELECT version()").Scan(&version)
	return version, err
}

func (mariadb) prepare(ctx context.Context, e *env) error {
	if err := allowConnections(ctx, e.bed.MariaDB, e.sessions()); err != nil {
		return err
	}
	const digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL " +
		"SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	return e.bed.MariaDB.Exec(ctx, fmt.Sprintf(`
		INSERT INTO items (id, name) SELECT n, concat('item ', n)
		FROM (SELECT 1 + a.d + 10 * b.d + 100 * c.d AS n FROM %[1]s a, %[1]s b, %[1]s c) numbers WHERE n <= %[2]d;
		ANALYZE TABLE items`, digits, items))
}

// allowConnections has the server allow that many, unless it is somebody else's.
func allowConnections(ctx context.Context, server *testbed.MariaDB, n int) error {
	var allowed int
	if err := server.Root.QueryRowContext(ctx, "SELECT @@max_connections").Scan(&allowed); err != nil {
		return fmt.Errorf("ask how many connections the server allows: %w", err)
	}
	switch ours := server.CACertFile != ""; {
	case allowed >= n:
		return nil
	case !ours:
		return fmt.Errorf("the server allows %d connections, and these benchmarks need %d: set its max_connections", allowed, n)
	}
	return server.Exec(ctx, fmt.Sprintf("SET GLOBAL max_connections = %d", n))
}

// role lets nobody in who does not encrypt, with -tls.
func (mariadb) role(ctx context.Context, e *env, options testbed.RoleOptions) (*testbed.Role, error) {
	if e.tls {
		options.Create = []string{
			"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}' REQUIRE SSL",
			"GRANT SELECT ON " + e.bed.MariaDB.Database + ".* TO '{{name}}'@'%'",
		}
	}
	return e.bed.MariaDBRole(ctx, options)
}

// encrypt has a pool, or whatever logs in, verify the server's certificate, with -tls.
func (e *env) encrypt(c *mysql.Config) error {
	if !e.tls {
		return nil
	}
	ca, err := os.ReadFile(e.bed.MariaDB.CACertFile)
	if err != nil {
		return fmt.Errorf("-tls: read the CA of MariaDB's certificate, which only a server of the testbed's own has: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(ca) {
		return errors.New("-tls: the CA of MariaDB's certificate is no certificate")
	}
	c.TLS = &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
	return nil
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
	return openMySQL(e, l, f, login, func(c driver.Connector) driver.Connector { return c })
}

// openMySQL opens a sql.DB over what wrap makes of the driver's connector.
func openMySQL(e *env, l *logins, f form, login func() *testbed.Credential, wrap func(driver.Connector) driver.Connector) (*sqlPool, error) {
	c, err := mysql.ParseDSN(e.bed.MariaDB.DSN("app"))
	if err != nil {
		return nil, err
	}
	if err := e.encrypt(c); err != nil {
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
	p.openDB(wrap(connector), f)
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
	if err := e.encrypt(c.Config); err != nil {
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
	if err := e.encrypt(c); err != nil {
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
