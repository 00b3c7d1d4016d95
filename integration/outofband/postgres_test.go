package outofband_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
)

type postgres struct{}

func (postgres) connection() string { return "postgres" }

// group has the rights that all users of a test have. They are members, because PostgreSQL fails some of those who grant on
// the same table at once.
func group() string { return pgx.Identifier{bed.Postgres.Database + "_outofband"}.Sanitize() }

func createGroup(ctx context.Context) error {
	return bed.Postgres.Exec(ctx, fmt.Sprintf(`
		CREATE ROLE %[1]s NOLOGIN;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, group()))
}

func dropGroup(ctx context.Context) error {
	return bed.Postgres.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, group()))
}

func (postgres) role(ctx context.Context, options testbed.RoleOptions) (*testbed.Role, error) {
	options.Create = []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + group()}
	options.Revoke = []string{`DROP ROLE IF EXISTS "{{name}}"`}
	return bed.PostgresRole(ctx, options)
}

func (postgres) open(ctx context.Context, params string, o poolOptions) (pool, error) {
	url := withParams(bed.Postgres.URL("app"), params)
	if o.plain {
		p, err := pgvault.New(ctx, url+"&pool_max_conns=4")
		return pgPool{p}, err
	}
	config, err := pgvault.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.Rotation = o.rotation
	config.MaxConns = int32(o.maxConns)
	if o.warm {
		config.MinConns = config.MaxConns
	}
	p, err := pgvault.NewWithConfig(ctx, config)
	return pgPool{p}, err
}

func withParams(address, params string) string {
	if strings.Contains(address, "?") {
		return address + "&" + params
	}
	return address + "?" + params
}

func (postgres) createUser(t *testing.T, user, password string) {
	t.Helper()
	kit.Check(t, bed.Postgres.Exec(t.Context(), fmt.Sprintf(`CREATE ROLE %s WITH LOGIN PASSWORD '%s' IN ROLE %s`,
		pgx.Identifier{user}.Sanitize(), password, group())))
}

func (postgres) changePassword(t *testing.T, user, password string) {
	t.Helper()
	kit.Check(t, bed.Postgres.Exec(t.Context(), "ALTER ROLE "+pgx.Identifier{user}.Sanitize()+" PASSWORD '"+password+"'"))
}

func (postgres) dropUser(t *testing.T, user string) {
	t.Helper()
	kit.Check(t, bed.Postgres.Exec(context.WithoutCancel(t.Context()), "DROP ROLE "+pgx.Identifier{user}.Sanitize()))
}

func (postgres) sessions(ctx context.Context, user string) ([]testbed.Session, error) {
	return bed.Postgres.Sessions(ctx, user)
}

func (postgres) isDenied(err error) bool {
	var denied *pgconn.PgError
	var connect *pgconn.ConnectError
	return !errors.As(err, &connect) && errors.As(err, &denied) && denied.Code == "42501"
}

type pgPool struct{ *pgvault.Pool }

const count = "SELECT count(*) FROM items WHERE name = 'nobody'"

func (p pgPool) read(ctx context.Context) error {
	var n int
	return p.QueryRow(ctx, count).Scan(&n)
}

func (p pgPool) write(ctx context.Context) error {
	return pgx.BeginFunc(ctx, p.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO items (name) VALUES ($1)", "somebody")
		return err
	})
}

func (p pgPool) readForbidden(ctx context.Context) error {
	_, err := p.Exec(ctx, "SELECT rolpassword FROM pg_authid")
	return err
}

func (p pgPool) reconnect(ctx context.Context) error {
	return p.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		var n int
		return errors.Join(c.QueryRow(ctx, count).Scan(&n), c.Conn().Close(ctx))
	})
}

func (p pgPool) hold(ctx context.Context) (held, error) {
	c, err := p.Acquire(ctx)
	return pgHeld{c}, err
}

func (p pgPool) isWarm(maxConns int) bool {
	stat := p.Stat()
	return int(stat.TotalConns()) == maxConns && stat.ConstructingConns() == 0
}

func (p pgPool) close(ctx context.Context) error { return p.Shutdown(ctx) }

type pgHeld struct{ *pgxpool.Conn }

func (h pgHeld) id(ctx context.Context) (id int, user string, err error) {
	err = h.QueryRow(ctx, "SELECT pg_backend_pid(), session_user").Scan(&id, &user)
	return id, user, err
}

func (h pgHeld) release() { h.Release() }
