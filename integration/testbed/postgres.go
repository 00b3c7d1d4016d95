package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// appDatabase is the database that roles are for.
const appDatabase = "app"

// Postgres is the PostgreSQL server of a testbed, with a database "app" whose schema public has the
// tables items(id, name, created_at) and accounts(id, owner, balance). Passwords are checked
// (scram-sha-256), those of superusers too.
type Postgres struct {
	Addr       string        // host:port
	Database   string        // "app"; on an existing server a name of our own
	SuperURL   string        // for a superuser, in the database of ours; holds the password
	CACertFile string        // the CA of its certificate, with Options.PostgresTLS
	Superuser  *pgxpool.Pool // connected by SuperURL; Close closes it

	bed      *Bed
	server   *postgresServer // nil on an existing server
	superURL *url.URL        // as SuperURL
	vault    *url.Userinfo   // whom Vault logs in as
}

// Session is a connection as the server sees it.
type Session struct {
	PID   int
	State string // "active", "idle", "idle in transaction" …
	Query string // the running one, or the last
}

// startPostgres starts a PostgreSQL, or takes the one in the environment.
func (b *Bed) startPostgres(ctx context.Context) error {
	p := &Postgres{bed: b, Database: appDatabase}
	existing := os.Getenv("PGVAULT_TEST_POSTGRES_URL")
	if existing != "" && !b.options.PostgresTLS && b.options.PostgresMaxConns == 0 && !b.options.PostgresReplicas {
		p.Database = "vaultpool_" + b.names.prefix + randomText(4)
	} else {
		server, err := b.newPostgresServer(ctx)
		if err != nil {
			return err
		}
		b.onClose(server.close)
		if err := server.start(ctx); err != nil {
			return err
		}
		p.server, existing = server, server.superURL()
	}
	b.Postgres = p
	if err := p.connect(ctx, existing); err != nil {
		return err
	}
	return p.configureVault(ctx)
}

// connect makes the database and its roles, and the superuser's pool.
func (p *Postgres) connect(ctx context.Context, superURL string) error {
	parsed, err := url.Parse(superURL)
	if err != nil || parsed.Host == "" || parsed.User == nil {
		return errors.New("PGVAULT_TEST_POSTGRES_URL is not of the form postgres://user:password@host:port/database") // its text may hold the password
	}
	p.Addr = parsed.Host
	if p.server != nil && p.server.tls != nil {
		p.CACertFile = p.server.tls.caFile
		parsed.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {p.CACertFile}}.Encode()
	}
	if err := p.createDatabase(ctx, parsed); err != nil {
		return err
	}
	own := *parsed
	own.Path = "/" + p.Database
	p.superURL, p.SuperURL = &own, own.String()
	config, err := pgxpool.ParseConfig(p.SuperURL)
	if err != nil {
		return fmt.Errorf("configure the superuser's pool: %w", err)
	}
	config.MaxConns = 8
	if p.Superuser, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("make the superuser's pool: %w", err)
	}
	p.bed.onClose(func(context.Context) error { p.Superuser.Close(); return nil })
	return p.createSchema(ctx)
}

func (p *Postgres) ownerRole() string { return p.Database + "_owner" }
func (p *Postgres) vaultRole() string { return p.Database + "_vault" }

// createDatabase makes the owner's role, Vault's own login and the database. Vault's login is a
// superuser, so that it may grant on tables whoever made them, and still gets in when all ordinary
// connections are taken.
func (p *Postgres) createDatabase(ctx context.Context, superURL *url.URL) error {
	p.vault = url.UserPassword(p.vaultRole(), randomText(16))
	password, _ := p.vault.Password()
	conn, err := pgx.Connect(ctx, superURL.String())
	if err != nil {
		return fmt.Errorf("connect as the superuser: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if p.server == nil {
		p.bed.onClose(func(ctx context.Context) error { return p.dropDatabase(ctx, superURL) })
	}
	for _, statement := range []string{
		"CREATE ROLE " + p.ownerRole() + " NOLOGIN",
		"CREATE ROLE " + p.vaultRole() + " LOGIN SUPERUSER PASSWORD '" + password + "'",
		"CREATE DATABASE " + p.Database + " OWNER " + p.ownerRole(),
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("prepare the database %s: %w", p.Database, err)
		}
	}
	return nil
}

func (p *Postgres) createSchema(ctx context.Context) error {
	err := p.Exec(ctx, `
		SET ROLE `+p.ownerRole()+`;
		CREATE TABLE items (
			id         bigserial PRIMARY KEY,
			name       text NOT NULL,
			created_at timestamptz NOT NULL DEFAULT now()
		);
		CREATE TABLE accounts (
			id      bigserial PRIMARY KEY,
			owner   text NOT NULL,
			balance bigint NOT NULL DEFAULT 0
		);
		RESET ROLE`)
	if err != nil {
		return fmt.Errorf("create the tables: %w", err)
	}
	return nil
}

// dropDatabase removes what we made on an existing server, and users of our roles that Vault, gone
// before they were, has left there.
func (p *Postgres) dropDatabase(ctx context.Context, superURL *url.URL) error {
	conn, err := pgx.Connect(ctx, superURL.String())
	if err != nil {
		return fmt.Errorf("remove the database %s: %w", p.Database, err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+p.Database+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("remove the database %s: %w", p.Database, err)
	}
	left, err := listStrings(ctx, conn, rolesLike, p.bed.names.usersLike())
	if err != nil {
		return fmt.Errorf("look for users of ours: %w", err)
	}
	for _, role := range append(left, p.vaultRole(), p.ownerRole()) {
		if _, err := conn.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{role}.Sanitize()); err != nil {
			return fmt.Errorf("remove the role %s: %w", role, err)
		}
	}
	return nil
}

// URL returns postgres://host:port/database?sslmode=…, without a user, for that database, where
// "app" and "" mean Database.
func (p *Postgres) URL(database string) string {
	if database == "" || database == appDatabase {
		database = p.Database
	}
	address := *p.superURL
	address.User, address.Path = nil, "/"+database
	return address.String()
}

// URLFor returns the URL of Database with that user and password.
func (p *Postgres) URLFor(user, password string) string {
	address := *p.superURL
	address.User = url.UserPassword(user, password)
	return address.String()
}

const rolesLike = "SELECT rolname FROM pg_roles WHERE rolname LIKE $1 ORDER BY rolname"

// Roles returns the names of all roles that match an SQL LIKE pattern, such as 'v-%-r0001-%'.
func (p *Postgres) Roles(ctx context.Context, like string) ([]string, error) {
	roles, err := listStrings(ctx, p.Superuser, rolesLike, like)
	if err != nil {
		return nil, fmt.Errorf("list the roles like %s: %w", like, err)
	}
	return roles, nil
}

// Sessions returns the connections that the user has at the server.
func (p *Postgres) Sessions(ctx context.Context, user string) ([]Session, error) {
	rows, err := p.Superuser.Query(ctx, `
		SELECT pid, coalesce(state, ''), coalesce(query, '') FROM pg_stat_activity
		WHERE usename = $1 AND backend_type = 'client backend' ORDER BY pid`, user)
	if err != nil {
		return nil, fmt.Errorf("list the sessions of %s: %w", user, err)
	}
	sessions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Session])
	if err != nil {
		return nil, fmt.Errorf("list the sessions of %s: %w", user, err)
	}
	return sessions, nil
}

// Exec runs SQL as the superuser in Database: one statement, or, without arguments, several.
func (p *Postgres) Exec(ctx context.Context, sql string, arguments ...any) error {
	if len(arguments) == 0 {
		arguments = []any{pgx.QueryExecModeSimpleProtocol}
	}
	if _, err := p.Superuser.Exec(ctx, sql, arguments...); err != nil {
		return fmt.Errorf("execute as the superuser: %w", err)
	}
	return nil
}

// Stop shuts the server down, ending all sessions as an administrator would (SIGINT, SQLSTATE 57P01).
// Connections are refused until Restart.
func (p *Postgres) Stop(ctx context.Context) error {
	if p.server == nil {
		return ErrNotOurServer
	}
	return p.server.process.stop(ctx, syscall.SIGINT)
}

// Kill makes the server and all its sessions end at once (SIGQUIT). The last second's transactions may
// be lost.
func (p *Postgres) Kill(ctx context.Context) error {
	if p.server == nil {
		return ErrNotOurServer
	}
	return p.server.process.stop(ctx, syscall.SIGQUIT)
}

// Restart starts the server again, at the same address with the same data, after Stop if it runs.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	if err := p.server.start(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	p.Superuser.Reset() // its connections are dead
	return nil
}

// listStrings returns the only column of a query's result.
func listStrings(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, arguments ...any) (pgx.Rows, error)
}, query string, arguments ...any,
) ([]string, error) {
	rows, err := db.Query(ctx, query, arguments...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
