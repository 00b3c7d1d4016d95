package mysqlvault_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// setup says what a test's service is like. The zero value is useful.
type setup struct {
	bed       *testbed.Bed // nil: shared
	role      testbed.RoleOptions
	params    string                   // more parameters of the DSN, "parseTime=true"
	configure func(*mysqlvault.Config) // changes the config at last
	mayReport bool                     // DB.Close reports something, which the test looks at
}

// service is a role, a token that may use it and no more, and the DB of a program that has both.
type service struct {
	*sql.DB
	bed       *testbed.Bed
	connector *mysqlvault.Connector
	role      *testbed.Role
	vault     *kit.VaultProxy // between the DB and Vault
	config    *mysqlvault.Config
	events    *kit.Recorder
	logs      *kit.Logs
	dsn       string
}

// prepare does all but open the DB.
func prepare(t *testing.T, set setup) *service {
	t.Helper()
	s := &service{bed: set.bed, events: kit.NewRecorder(), logs: &kit.Logs{}}
	if s.bed == nil {
		s.bed = shared
	}
	ctx := t.Context()
	var err error
	s.role, err = s.bed.MariaDBRole(ctx, set.role)
	kit.Check(t, err)
	token, err := s.bed.Vault.Token(ctx, s.role.Policy, time.Hour)
	kit.Check(t, err)
	s.vault = kit.NewVaultProxy(t, s.bed.Vault.Addr)
	s.vault.AddSecret(token)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	s.dsn = s.bed.MariaDB.DSN("app")
	separator := "?"
	if strings.Contains(s.dsn, "?") {
		separator = "&"
	}
	s.dsn += separator + "vault_path=" + s.role.CredsPath + "&vault_addr=" + s.vault.URL + "&vault_token_file=" + url.QueryEscape(file)
	if set.params != "" {
		s.dsn += "&" + set.params
	}
	s.config, err = mysqlvault.ParseConfig(s.dsn)
	kit.Check(t, err)
	s.config.Rotation.IssueInterval, s.config.Rotation.Logger = time.Millisecond, slog.New(s.logs)
	if set.configure != nil {
		set.configure(s.config)
	}
	return s
}

// open opens the DB. At the end of the test it is closed, and nothing may be left.
func open(t *testing.T, set setup) *service {
	t.Helper()
	s := prepare(t, set)
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	var err error
	s.connector, err = mysqlvault.NewConnector(ctx, s.config)
	kit.Check(t, err)
	s.DB = sql.OpenDB(s.connector)
	s.connector.Rotator().Subscribe(s.events.Add)
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !set.mayReport {
			t.Errorf("closing: %v", err)
		}
		s.checkNothingLeft(t)
		if n := s.vault.SecretsIn(s.logs.String()); n > 0 {
			t.Errorf("%d secrets are in the log", n)
		}
	})
	return s
}

// checkNothingLeft holds as soon as a DB is closed; a session that has said goodbye may take a moment.
func (s *service) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if leases, err := s.role.Leases(ctx); err != nil || len(leases) > 0 {
		t.Errorf("left in Vault: leases %v (error %v)", leases, err)
	}
	if users, err := s.role.Users(ctx); err != nil || len(users) > 0 {
		t.Errorf("left in MariaDB: users %v (error %v)", users, err)
	}
	kit.Eventually(t, "no session left", func(ctx context.Context) bool { return len(s.sessions(ctx, t)) == 0 })
}

// process is one session, as the server lists it.
type process struct {
	id    uint64
	user  string
	state string
	info  string
}

// sessions lists the sessions of all users of the role.
func (s *service) sessions(ctx context.Context, t *testing.T) (all []process) {
	t.Helper()
	rows, err := s.bed.MariaDB.Root.QueryContext(ctx, `SELECT id, user, command, coalesce(info, '')
		FROM information_schema.processlist WHERE user LIKE ?`, "v-%-"+s.role.Name+"-%")
	kit.Check(t, err)
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var p process
		kit.Check(t, rows.Scan(&p.id, &p.user, &p.state, &p.info))
		all = append(all, p)
	}
	kit.Check(t, rows.Err())
	return all
}

// sessionsOf lists the sessions of one user.
func (s *service) sessionsOf(t *testing.T, user string) []process {
	t.Helper()
	return slices.DeleteFunc(s.sessions(context.WithoutCancel(t.Context()), t), func(p process) bool { return p.user != user })
}

// rotate rotates and waits until the new credential serves.
func (s *service) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, s.connector.Rotate(ctx))
}

// user is whom new connections log in as.
func (s *service) user() string { return s.connector.Rotator().Status().User }

// connections returns how many sockets the engine counts for one generation.
func (s *service) connections(id uint64) int {
	for _, g := range s.connector.Rotator().Status().Generations {
		if g.Generation == id {
			return g.Connections
		}
	}
	return 0
}

// waitRevoked waits until a generation's lease is revoked, and looks whether any session of its user was
// alive then.
func (s *service) waitRevoked(t *testing.T, id uint64, user string) {
	t.Helper()
	s.events.Wait(t, rotation.Revoked, id)
	users, err := s.role.Users(t.Context())
	kit.Check(t, err)
	if slices.Contains(users, user) {
		t.Errorf("generation %d is revoked, but %s is still there", id, user)
	}
	s.checkGone(t, user)
}

// checkGone fails if a session of the user does anything, or stays.
func (s *service) checkGone(t *testing.T, user string) {
	t.Helper()
	for _, p := range s.sessionsOf(t, user) {
		if p.state != "Sleep" && p.state != "Quit" {
			t.Errorf("a session of the revoked user lives: %+v", p)
		}
	}
	kit.Eventually(t, "no session of a revoked user", func(context.Context) bool { return len(s.sessionsOf(t, user)) == 0 })
}

// execute runs a statement as root.
func execute(t *testing.T, format string, args ...any) {
	t.Helper()
	kit.Check(t, shared.MariaDB.Exec(t.Context(), fmt.Sprintf(format, args...)))
}

// dropUser removes a user behind Vault's back. Its sessions go on.
func dropUser(t *testing.T, user string) {
	t.Helper()
	execute(t, "DROP USER '%s'@'%%'", user)
}

// querier is what DBs, connections and transactions have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// whoami asks the server whom a connection has logged in as.
func whoami(t *testing.T, q querier) (user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, q.QueryRowContext(ctx, "SELECT substring_index(user(), '@', 1)").Scan(&user))
	return user
}

func sessionID(t *testing.T, q querier) (id uint64) {
	t.Helper()
	kit.Check(t, q.QueryRowContext(t.Context(), "SELECT connection_id()").Scan(&id))
	return id
}

// fill opens n connections and leaves them idle.
func (s *service) fill(t *testing.T, n int) {
	t.Helper()
	s.SetMaxIdleConns(n)
	var held []*sql.Conn
	for range n {
		c, err := s.Conn(t.Context())
		kit.Check(t, err)
		kit.Check(t, c.PingContext(t.Context()))
		held = append(held, c)
	}
	for _, c := range held {
		kit.Check(t, c.Close())
	}
}
