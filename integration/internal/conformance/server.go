package conformance

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-sql-driver/mysql"
	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// Server is a database as the suite sees it, and its dialect.
type Server struct {
	Addr     string
	client   *api.Client // of Vault
	role     func(context.Context, testbed.RoleOptions) (*testbed.Role, error)
	sessions func(ctx context.Context, user string) ([]testbed.Session, error)
	exec     func(ctx context.Context, sql string, args ...any) error // as administrator

	// Statements of a service.
	whoAmI     string // returns the session's user and id
	sleep      string // for so many seconds
	insert     string // an item of that name
	insertSlow string // the same, after 300 s
	count      string // the items of names like that
	setState   string // sets something in the session
	getState   string // returns it, as 42
	tryLock    string // takes the lock of that number, for the session; returns 1, or 0 if somebody has it
	denied     string // what no user may do

	// Statements of an administrator, to be completed with the user.
	dropUser, fullUser, unlimitedUser string

	// What a role does otherwise than by default; nil where it need not.
	create, revoke             []string
	createLocked, createFull   []string // users who may not log in, and who have no room for a connection; nil where there is no such thing
	refused, locked, full, not string   // what the server says of them, and of what is denied
}

// Postgres is the suite's view of a testbed's PostgreSQL. Call PreparePostgres before the first case.
func Postgres(bed *testbed.Bed) *Server {
	group := `"` + bed.Postgres.Database + `_conformance"`
	create := func(options string) []string {
		return []string{`CREATE ROLE "{{name}}" WITH ` + options + ` PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + group}
	}
	return &Server{
		Addr: bed.Postgres.Addr, client: bed.Vault.Client, role: bed.PostgresRole, sessions: bed.Postgres.Sessions, exec: bed.Postgres.Exec,

		whoAmI:     "SELECT session_user::text, pg_backend_pid()",
		sleep:      "SELECT pg_sleep($1)",
		insert:     "INSERT INTO items (name) VALUES ($1)",
		insertSlow: "INSERT INTO items (name) SELECT $1 || pg_sleep(300)::text",
		count:      "SELECT count(*) FROM items WHERE name LIKE $1",
		setState:   "SET statement_timeout = '42h'",
		getState:   "SELECT replace(current_setting('statement_timeout'), 'h', '')",
		tryLock:    "SELECT pg_try_advisory_lock($1)::int",
		denied:     "SELECT rolpassword FROM pg_authid",

		dropUser:      `DROP ROLE "%s"`,
		fullUser:      `ALTER ROLE "%s" CONNECTION LIMIT 1`,
		unlimitedUser: `ALTER ROLE "%s" CONNECTION LIMIT -1`,

		create:       create("LOGIN"),
		revoke:       []string{`DROP ROLE IF EXISTS "{{name}}"`},
		createLocked: create("NOLOGIN"), createFull: create("LOGIN CONNECTION LIMIT 0"),
		refused: "28P01", locked: "28000", full: "53300", not: "42501",
	}
}

// PreparePostgres makes the role whose members may use the tables. Grants to each user would change the tables' own
// entries in the catalogue, which PostgreSQL refuses to several at once ("tuple concurrently updated").
func PreparePostgres(ctx context.Context, bed *testbed.Bed) (undo func(context.Context) error, err error) {
	group := `"` + bed.Postgres.Database + `_conformance"`
	err = bed.Postgres.Exec(ctx, fmt.Sprintf(`
		CREATE ROLE %[1]s NOLOGIN;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, group))
	return func(ctx context.Context) error {
		return bed.Postgres.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, group))
	}, err
}

// MariaDB is the suite's view of a testbed's MariaDB. MySQL knows no user without room for a connection, and calls
// a locked one by another number.
func MariaDB(bed *testbed.Bed) *Server {
	create := func(options string) []string {
		return []string{`CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}' ` + options + `;
			GRANT SELECT, INSERT, UPDATE, DELETE ON ` + bed.MariaDB.Database + `.* TO '{{name}}'@'%';`}
	}
	server := &Server{
		Addr: bed.MariaDB.Addr, client: bed.Vault.Client, role: bed.MariaDBRole, sessions: bed.MariaDB.Sessions, exec: bed.MariaDB.Exec,

		whoAmI: "SELECT substring_index(user(), '@', 1), connection_id()",
		sleep:  "DO SLEEP(?)",
		insert: "INSERT INTO items (name) VALUES (?)",
		// Two rows: MySQL lets a killed statement finish the row that it sleeps in, and would commit if that were all.
		insertSlow: "INSERT INTO items (name) SELECT concat(?, sleep(300)) FROM (SELECT 1 UNION SELECT 2) AS twice",
		count:      "SELECT count(*) FROM items WHERE name LIKE ?",
		setState:   "SET @kept = 42",
		getState:   "SELECT @kept",
		tryLock:    "SELECT GET_LOCK(concat('lock ', ?), 0)",
		denied:     "SELECT user FROM mysql.user",

		dropUser:      `DROP USER '%s'@'%%'`,
		fullUser:      `ALTER USER '%s'@'%%' WITH MAX_USER_CONNECTIONS 1`,
		unlimitedUser: `ALTER USER '%s'@'%%' WITH MAX_USER_CONNECTIONS 0`,

		createLocked: create("ACCOUNT LOCK"), createFull: create("WITH MAX_USER_CONNECTIONS -1"),
		refused: "1045", locked: "4151", full: "1226", not: "1142",
	}
	if bed.MariaDB.MySQL {
		server.createFull, server.locked = nil, "3118"
	}
	return server
}

// complete adds our way to create and drop users.
func (s *Server) complete(o testbed.RoleOptions) testbed.RoleOptions {
	if o.Create == nil {
		o.Create = s.create
	}
	if o.Revoke == nil {
		o.Revoke = s.revoke
	}
	return o
}

// admin executes a statement about a user.
func (s *Server) admin(ctx context.Context, format, user string) error {
	return s.exec(ctx, fmt.Sprintf(format, user))
}

// codeOf returns what a server's error is called: an SQLSTATE, or MySQL's number; "" for any other error.
func codeOf(err error) string {
	var state interface{ SQLState() string } // of pgx and of lib/pq
	var number *mysql.MySQLError
	switch {
	case errors.As(err, &state):
		return state.SQLState()
	case errors.As(err, &number):
		return strconv.Itoa(int(number.Number))
	}
	return ""
}
