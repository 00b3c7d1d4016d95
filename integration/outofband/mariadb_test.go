package outofband_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

type mariadb struct{}

func (mariadb) connection() string { return "mariadb" }

func (mariadb) role(ctx context.Context, options testbed.RoleOptions) (*testbed.Role, error) {
	return bed.MariaDBRole(ctx, options)
}

func (mariadb) open(ctx context.Context, params string, o poolOptions) (pool, error) {
	dsn := withParams(bed.MariaDB.DSN("app"), params)
	if o.plain {
		db, err := mysqlvault.Open(ctx, dsn)
		if err == nil {
			db.SetMaxOpenConns(4)
		}
		return sqlPool{db}, err
	}
	config, err := mysqlvault.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.Rotation = o.rotation
	connector, err := mysqlvault.NewConnector(ctx, config)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(o.maxConns)
	db.SetMaxIdleConns(o.maxConns)
	p := sqlPool{db}
	if o.warm {
		err = p.fill(ctx, o.maxConns)
	}
	return p, err
}

func (mariadb) createUser(t *testing.T, user, password string) {
	t.Helper()
	kit.Check(t, bed.MariaDB.Exec(t.Context(), fmt.Sprintf(
		"CREATE USER '%[1]s'@'%%' IDENTIFIED BY '%[2]s'; GRANT SELECT, INSERT, UPDATE, DELETE ON %[3]s.* TO '%[1]s'@'%%'",
		user, password, bed.MariaDB.Database)))
}

func (mariadb) changePassword(t *testing.T, user, password string) {
	t.Helper()
	kit.Check(t, bed.MariaDB.Exec(t.Context(), fmt.Sprintf("ALTER USER '%s'@'%%' IDENTIFIED BY '%s'", user, password)))
}

func (mariadb) dropUser(t *testing.T, user string) {
	t.Helper()
	kit.Check(t, bed.MariaDB.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf("DROP USER '%s'@'%%'", user)))
}

func (mariadb) sessions(ctx context.Context, user string) ([]testbed.Session, error) {
	return bed.MariaDB.Sessions(ctx, user)
}

func (mariadb) isDenied(err error) bool {
	var denied *mysql.MySQLError
	return errors.As(err, &denied) && denied.Number == 1142
}

type sqlPool struct{ *sql.DB }

// fill opens n connections and leaves them idle.
func (p sqlPool) fill(ctx context.Context, n int) error {
	var errs []error
	for range n {
		c, err := p.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { errs = append(errs, c.Close()) }()
	}
	return errors.Join(errs...)
}

func (p sqlPool) read(ctx context.Context) error {
	var n int
	return p.QueryRowContext(ctx, count).Scan(&n)
}

func (p sqlPool) write(ctx context.Context) error {
	tx, err := p.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // unless it is committed
	if _, err := tx.ExecContext(ctx, "INSERT INTO items (name) VALUES (?)", "somebody"); err != nil {
		return err
	}
	return tx.Commit()
}

func (p sqlPool) readForbidden(ctx context.Context) error {
	var password string
	return p.QueryRowContext(ctx, "SELECT password FROM mysql.user").Scan(&password)
}

func (p sqlPool) reconnect(ctx context.Context) error {
	c, err := p.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it is closed unless something went wrong
	var n int
	if err := c.QueryRowContext(ctx, count).Scan(&n); err != nil {
		return err
	}
	if err := c.Raw(func(any) error { return driver.ErrBadConn }); !errors.Is(err, driver.ErrBadConn) {
		return fmt.Errorf("the connection is not closed: %w", err)
	}
	return nil
}

func (p sqlPool) hold(ctx context.Context) (held, error) {
	c, err := p.Conn(ctx)
	return sqlHeld{c}, err
}

func (p sqlPool) Rotator() *rotation.Rotator { return mysqlvault.RotatorOf(p.DB) }

func (p sqlPool) isWarm(maxConns int) bool { return p.Stats().OpenConnections == maxConns }

func (p sqlPool) close(context.Context) error { return p.Close() }

type sqlHeld struct{ *sql.Conn }

func (h sqlHeld) id(ctx context.Context) (id int, user string, err error) {
	err = h.QueryRowContext(ctx, "SELECT connection_id(), substring_index(user(), '@', 1)").Scan(&id, &user)
	return id, user, err
}

func (h sqlHeld) release() { _ = h.Close() }
