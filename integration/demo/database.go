package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// What -db may be, here and in the service.
const (
	postgresName = "postgres"
	mysqlName    = "mysql"
)

// database is the service's database as its owner sees it, who is not rotated and looks at the service from outside.
type database interface {
	name() string // for people
	exec(ctx context.Context, statements string) error
	terms() testbed.RoleOptions // of leases that are short, for the load there is
	role(ctx context.Context, options testbed.RoleOptions) (*testbed.Role, error)
	// connString is the only thing in which the service's configuration differs from that of one without Vault.
	connString(role *testbed.Role) (string, error)
	books(ctx context.Context) (books, error)
	// sessions returns those of the role's users.
	sessions(ctx context.Context, role *testbed.Role) ([]string, error)
	// orphans returns the sessions among them whose user does not exist any more.
	orphans(ctx context.Context, role *testbed.Role) ([]string, error)
}

// databaseOf returns the one database of a testbed.
func databaseOf(bed *testbed.Bed) database {
	if bed.MariaDB != nil {
		return &mariadb{bed}
	}
	return &postgres{bed}
}

// usersLike is an SQL LIKE pattern for the users that Vault makes for a role.
func usersLike(role *testbed.Role) string { return "v-%-" + role.Name + "-%" }

// oneLine keeps the beginning of a statement.
func oneLine(text string) string { return cut(strings.Join(strings.Fields(text), " "), 100) }

type postgres struct{ bed *testbed.Bed }

func (*postgres) name() string { return "PostgreSQL" }

func (p *postgres) exec(ctx context.Context, statements string) error {
	return p.bed.Postgres.Exec(ctx, statements)
}

func (*postgres) terms() testbed.RoleOptions {
	return testbed.RoleOptions{DefaultTTL: 8 * time.Second, MaxTTL: 20 * time.Second}
}

func (p *postgres) role(ctx context.Context, options testbed.RoleOptions) (*testbed.Role, error) {
	return p.bed.PostgresRole(ctx, options)
}

func (p *postgres) connString(role *testbed.Role) (string, error) {
	address, err := url.Parse(p.bed.Postgres.URL("app"))
	if err != nil {
		return "", fmt.Errorf("read PostgreSQL's address: %w", err)
	}
	query := address.Query()
	query.Set("application_name", serviceName)
	query.Set("pool_max_conns", strconv.Itoa(poolSize))
	address.RawQuery = query.Encode() + "&vault_path=" + role.CredsPath // readable, unlike %2F
	return address.String(), nil
}

const booksQuery = "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM transfers), (SELECT sum(balance) FROM accounts)"

func (p *postgres) books(ctx context.Context) (b books, err error) {
	err = p.bed.Postgres.Superuser.QueryRow(ctx, booksQuery).Scan(&b.items, &b.transfers, &b.balances)
	return b, err
}

// sessions goes by the application_name: a user who does not exist any more has no name here.
func (p *postgres) sessions(ctx context.Context, _ *testbed.Role) ([]string, error) {
	return p.list(ctx, "application_name = $1", serviceName)
}

func (p *postgres) orphans(ctx context.Context, _ *testbed.Role) ([]string, error) {
	return p.list(ctx, "application_name = $1 AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = usesysid)", serviceName)
}

func (p *postgres) list(ctx context.Context, condition string, arguments ...any) ([]string, error) {
	rows, err := p.bed.Postgres.Superuser.Query(ctx, `
		SELECT coalesce(usename, 'a user who does not exist any more') || ' in process ' || pid || ': ' || coalesce(state, '') || ' ' || coalesce(query, '')
		FROM pg_stat_activity WHERE datname = current_database() AND `+condition+" ORDER BY pid", arguments...)
	if err != nil {
		return nil, fmt.Errorf("look into pg_stat_activity: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look into pg_stat_activity: %w", err)
	}
	for i, session := range found {
		found[i] = oneLine(session)
	}
	return found, nil
}

// mariadb is MariaDB, or MySQL where one is given by the environment.
type mariadb struct{ bed *testbed.Bed }

func (*mariadb) name() string { return "MariaDB" }

func (m *mariadb) exec(ctx context.Context, statements string) error {
	return m.bed.MariaDB.Exec(ctx, statements)
}

// terms are longer here: connections have a fifth of the lease to finish, and the jobs' transactions take a second.
func (*mariadb) terms() testbed.RoleOptions {
	return testbed.RoleOptions{DefaultTTL: 12 * time.Second, MaxTTL: 22 * time.Second}
}

func (m *mariadb) role(ctx context.Context, options testbed.RoleOptions) (*testbed.Role, error) {
	return m.bed.MariaDBRole(ctx, options)
}

func (m *mariadb) connString(role *testbed.Role) (string, error) {
	dsn, separator := m.bed.MariaDB.DSN("app"), "?"
	if strings.Contains(dsn, "?") {
		separator = "&"
	}
	return dsn + separator + "vault_path=" + role.CredsPath, nil
}

func (m *mariadb) books(ctx context.Context) (b books, err error) {
	err = m.bed.MariaDB.Root.QueryRowContext(ctx, booksQuery).Scan(&b.items, &b.transfers, &b.balances)
	return b, err
}

func (m *mariadb) sessions(ctx context.Context, role *testbed.Role) ([]string, error) {
	return m.list(ctx, role, true)
}

func (m *mariadb) orphans(ctx context.Context, role *testbed.Role) ([]string, error) {
	return m.list(ctx, role, false)
}

func (m *mariadb) list(ctx context.Context, role *testbed.Role, all bool) ([]string, error) {
	rows, err := m.bed.MariaDB.Root.QueryContext(ctx, `
		SELECT concat(p.user, ' in session ', p.id, ': ', p.command, ' ', coalesce(p.info, ''))
		FROM information_schema.processlist p
		WHERE p.user LIKE ? AND (? OR NOT EXISTS (SELECT 1 FROM mysql.user u WHERE u.user = p.user))
		ORDER BY p.id`, usersLike(role), all)
	if err != nil {
		return nil, fmt.Errorf("look into the processlist: %w", err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var session string
		if err := rows.Scan(&session); err != nil {
			return nil, fmt.Errorf("look into the processlist: %w", err)
		}
		found = append(found, oneLine(session))
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look into the processlist: %w", err)
	}
	return found, nil
}
