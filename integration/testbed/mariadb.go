package testbed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is the MariaDB server of a testbed, or an existing MariaDB or MySQL, with a database "app"
// that has the tables items(id, name, created_at) and accounts(id, owner, balance).
type MariaDB struct {
	Addr     string  // host:port
	Database string  // "app"; on an existing server a name of our own
	RootDSN  string  // for a user who may do everything, in the database of ours; holds the password
	Root     *sql.DB // connected by RootDSN; Close closes it

	MySQL bool // it is a MySQL

	CACertFile string // the CA of its certificate; empty on an existing server

	bed           *Bed
	server        *mariadbServer // nil on an existing server
	root          *mysql.Config  // as RootDSN
	vaultPassword string
}

// startMariaDB starts a MariaDB, or takes the server in the environment.
func (b *Bed) startMariaDB(ctx context.Context) error {
	m := &MariaDB{bed: b, Database: appDatabase, vaultPassword: randomText(16)}
	if existing := os.Getenv("PGVAULT_TEST_MARIADB_DSN"); existing != "" {
		config, err := mysql.ParseDSN(existing)
		if err != nil {
			return errors.New("PGVAULT_TEST_MARIADB_DSN is not of the form user:password@tcp(host:port)/") // its text may hold the password
		}
		m.root, m.Database = config, "vaultpool_"+b.names.prefix+randomText(4)
	} else {
		server, err := b.newMariaDBServer(ctx)
		if err != nil {
			return err
		}
		b.onClose(server.close)
		if err := server.start(ctx); err != nil {
			return err
		}
		m.server, m.root, m.CACertFile = server, server.rootConfig(), server.tls.caFile
	}
	b.MariaDB = m
	if err := m.connect(ctx); err != nil {
		return err
	}
	return m.configureVault(ctx)
}

// connect makes the database, Vault's own login and the superuser's pool.
func (m *MariaDB) connect(ctx context.Context) error {
	m.Addr = m.root.Addr
	if m.server == nil {
		m.bed.onClose(m.dropDatabase)
	}
	vault := "'" + m.vaultUser() + "'@'%'"
	err := m.execWithoutDatabase(ctx,
		"CREATE DATABASE "+m.Database,
		"CREATE USER "+vault+" IDENTIFIED BY '"+m.vaultPassword+"'",
		"GRANT ALL ON *.* TO "+vault+" WITH GRANT OPTION")
	if err != nil {
		return fmt.Errorf("prepare the database %s: %w", m.Database, err)
	}
	m.root.DBName, m.root.MultiStatements, m.root.ParseTime = m.Database, true, true
	connector, err := mysql.NewConnector(m.root)
	if err != nil {
		return fmt.Errorf("configure the superuser's pool: %w", err)
	}
	m.RootDSN, m.Root = m.root.FormatDSN(), sql.OpenDB(connector)
	m.bed.onClose(func(context.Context) error { return m.Root.Close() })
	version := ""
	if err := m.Root.QueryRowContext(ctx, "SELECT version()").Scan(&version); err != nil {
		return fmt.Errorf("ask for the server's version: %w", err)
	}
	m.MySQL = !strings.Contains(version, "MariaDB")
	return m.createSchema(ctx)
}

func (m *MariaDB) vaultUser() string { return m.Database + "_vault" }

func (m *MariaDB) createSchema(ctx context.Context) error {
	err := m.Exec(ctx, `
		CREATE TABLE items (
			id         bigint AUTO_INCREMENT PRIMARY KEY,
			name       text NOT NULL,
			created_at timestamp NOT NULL DEFAULT current_timestamp
		) ENGINE=InnoDB;
		CREATE TABLE accounts (
			id      bigint AUTO_INCREMENT PRIMARY KEY,
			owner   text NOT NULL,
			balance bigint NOT NULL DEFAULT 0
		) ENGINE=InnoDB`)
	if err != nil {
		return fmt.Errorf("create the tables: %w", err)
	}
	return nil
}

// execWithoutDatabase runs statements on a connection that needs none of our databases.
func (m *MariaDB) execWithoutDatabase(ctx context.Context, statements ...string) error {
	config := m.root.Clone()
	config.DBName = ""
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// dropDatabase removes what we made on an existing server, and users of our roles that Vault, gone
// before they were, has left there.
func (m *MariaDB) dropDatabase(ctx context.Context) error {
	config := m.root.Clone()
	config.DBName = ""
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return fmt.Errorf("remove the database %s: %w", m.Database, err)
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	left, err := usersLike(ctx, db, m.bed.names.usersLike())
	if err != nil {
		return err
	}
	statements := []string{"DROP DATABASE IF EXISTS " + m.Database}
	for _, user := range append(left, m.vaultUser()) {
		statements = append(statements, "DROP USER IF EXISTS '"+user+"'@'%'")
	}
	if err := m.execWithoutDatabase(ctx, statements...); err != nil {
		return fmt.Errorf("remove the database %s and its users: %w", m.Database, err)
	}
	return nil
}

// DSN returns tcp(host:port)/database without a user, where "app" and "" mean Database.
func (m *MariaDB) DSN(database string) string {
	return m.dsn("", "", database)
}

// DSNFor returns the DSN of Database with that user and password.
func (m *MariaDB) DSNFor(user, password string) string {
	return m.dsn(user, password, "")
}

func (m *MariaDB) dsn(user, password, database string) string {
	if database == "" || database == appDatabase {
		database = m.Database
	}
	config := m.root.Clone()
	config.User, config.Passwd, config.DBName, config.MultiStatements, config.ParseTime = user, password, database, false, false
	return config.FormatDSN()
}

// Users returns the names of all users that match an SQL LIKE pattern, such as 'v-%-r0001-%'.
func (m *MariaDB) Users(ctx context.Context, like string) ([]string, error) {
	return usersLike(ctx, m.Root, like)
}

func usersLike(ctx context.Context, db *sql.DB, like string) ([]string, error) {
	users, err := collect(ctx, db, func(rows *sql.Rows, user *string) error { return rows.Scan(user) },
		"SELECT user FROM mysql.user WHERE user LIKE ? ORDER BY user", like)
	if err != nil {
		return nil, fmt.Errorf("list the users like %s: %w", like, err)
	}
	return users, nil
}

// Sessions returns the connections that the user has at the server. State is the server's COMMAND:
// "Sleep" while idle, "Query" while a statement runs.
func (m *MariaDB) Sessions(ctx context.Context, user string) ([]Session, error) {
	sessions, err := collect(ctx, m.Root, func(rows *sql.Rows, s *Session) error { return rows.Scan(&s.PID, &s.State, &s.Query) },
		`SELECT id, command, coalesce(info, '') FROM information_schema.processlist WHERE user = ? ORDER BY id`, user)
	if err != nil {
		return nil, fmt.Errorf("list the sessions of %s: %w", user, err)
	}
	return sessions, nil
}

// collect runs a query and scans each row.
func collect[T any](ctx context.Context, db *sql.DB, scan func(*sql.Rows, *T) error, query string, arguments ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, arguments...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // its error is that of rows.Err
	var all []T
	for rows.Next() {
		var one T
		if err := scan(rows, &one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// Exec runs SQL as root in Database, several statements if need be.
func (m *MariaDB) Exec(ctx context.Context, statements string, arguments ...any) error {
	if _, err := m.Root.ExecContext(ctx, statements, arguments...); err != nil {
		return fmt.Errorf("execute as root: %w", err)
	}
	return nil
}

// Stop shuts the server down as an administrator would. Connections are refused until Restart.
func (m *MariaDB) Stop(ctx context.Context) error {
	if m.server == nil {
		return ErrNotOurServer
	}
	return m.server.process.stop(ctx, syscall.SIGTERM)
}

// Kill ends the server and all its sessions at once. The last second's transactions may be lost.
func (m *MariaDB) Kill(ctx context.Context) error {
	if m.server == nil {
		return ErrNotOurServer
	}
	return m.server.process.stop(ctx, syscall.SIGKILL)
}

// Restart starts the server again, at the same address with the same data, after Stop if it runs.
func (m *MariaDB) Restart(ctx context.Context) error {
	if err := m.Stop(ctx); err != nil {
		return fmt.Errorf("restart MariaDB: %w", err)
	}
	if err := m.server.start(ctx); err != nil {
		return fmt.Errorf("restart MariaDB: %w", err)
	}
	return nil
}

// MariaDBRole makes a new role for users of MariaDB.
func (b *Bed) MariaDBRole(ctx context.Context, options RoleOptions) (*Role, error) {
	if b.MariaDB == nil {
		return nil, errors.New("make a MariaDB role: the testbed was started without Options.MariaDB")
	}
	return b.newRole(ctx, &Role{
		connection: "mariadb", defaults: mariadbDefaults(b.MariaDB.Database), users: b.MariaDB.Users,
	}, options)
}

func mariadbDefaults(database string) RoleOptions {
	return RoleOptions{
		Create: []string{`
			CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';
			GRANT SELECT, INSERT, UPDATE, DELETE ON ` + database + `.* TO '{{name}}'@'%';`},
		Revoke: []string{`DROP USER IF EXISTS '{{name}}'@'%';`},
	}
}

// configureVault tells Vault how to log in to MariaDB.
func (m *MariaDB) configureVault(ctx context.Context) error {
	return m.bed.Vault.configureDatabase(ctx, "mariadb", map[string]any{
		"plugin_name":    "mysql-database-plugin",
		"connection_url": m.dsn("{{username}}", "{{password}}", ""),
		"username":       m.vaultUser(),
		"password":       m.vaultPassword,
	})
}
