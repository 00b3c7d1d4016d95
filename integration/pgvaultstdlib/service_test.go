package pgvaultstdlib_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// setup says what a test's service is like. The zero value is useful.
type setup struct {
	role      testbed.RoleOptions
	policy    string                // instead of the role's
	params    string                // more parameters of the connection string, "pool_max_conns=3"
	configure func(*pgvault.Config) // changes the config at last
	mayReport bool                  // DB.Close reports something, which the test looks at
}

// service is a role, a token that may use it and no more, and the DB of a program that has both.
type service struct {
	*sql.DB
	role       *testbed.Role
	vault      *kit.VaultProxy // between the DB and Vault
	config     *pgvault.Config
	events     *kit.Recorder
	logs       *kit.Logs
	tokenFile  string
	connString string
}

// prepare does all but open the DB.
func prepare(t *testing.T, set setup) *service {
	t.Helper()
	s := &service{events: kit.NewRecorder(), logs: &kit.Logs{}}
	ctx := t.Context()
	var err error
	s.role, err = shared.PostgresRole(ctx, inGroup(set.role))
	kit.Check(t, err)
	s.vault = kit.NewVaultProxy(t, shared.Vault.Addr)
	s.tokenFile = filepath.Join(t.TempDir(), "token")
	policy := set.policy
	if policy == "" {
		policy = s.role.Policy
	}
	s.giveToken(t, policy)
	s.connString = shared.Postgres.URL("app")
	separator := "?"
	if strings.Contains(s.connString, "?") {
		separator = "&"
	}
	s.connString += separator + "vault_path=" + s.role.CredsPath + "&vault_addr=" + s.vault.URL + "&vault_token_file=" + s.tokenFile
	if set.params != "" {
		s.connString += "&" + set.params
	}
	s.config, err = pgvault.ParseConfig(s.connString)
	kit.Check(t, err)
	s.config.Rotation.IssueInterval, s.config.Rotation.Logger = time.Millisecond, slog.New(s.logs)
	if set.configure != nil {
		set.configure(s.config)
	}
	return s
}

// giveToken puts a token where the service finds it.
func (s *service) giveToken(t *testing.T, policy string) {
	t.Helper()
	token, err := shared.Vault.Token(t.Context(), policy, time.Hour)
	kit.Check(t, err)
	s.vault.AddSecret(token)
	kit.Check(t, os.WriteFile(s.tokenFile, []byte(token), 0o600))
}

var drivers atomic.Int32

// register registers the service's config as a driver of its own.
func (s *service) register(t *testing.T) (name string) {
	t.Helper()
	name = fmt.Sprint("pgvault-", drivers.Add(1))
	kit.Check(t, stdlib.RegisterDriver(name, s.config))
	return name
}

// use makes db the service's. At the end of the test it is closed, and nothing may be left.
func (s *service) use(t *testing.T, db *sql.DB, err error, set setup) *service {
	t.Helper()
	kit.Check(t, err)
	s.DB = db
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

// open opens the DB and waits for its first credential.
func open(t *testing.T, set setup) *service {
	t.Helper()
	s := prepare(t, set)
	db, err := sql.Open(s.register(t), "")
	s.use(t, db, err, set)
	s.rotator().Subscribe(s.events.Add)
	kit.Check(t, s.PingContext(t.Context()))
	return s
}

func (s *service) rotator() *rotation.Rotator { return stdlib.RotatorOf(s.DB) }

// user is whom new connections log in as.
func (s *service) user() string { return s.rotator().Status().User }

// issues counts what Vault was asked for.
func (s *service) issues() int { return len(s.vault.Asked(s.role.CredsPath)) }

// rotate rotates and waits until the new credential serves.
func (s *service) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, s.rotator().Rotate(ctx))
}

// waitRevoked waits until a generation's lease is revoked and its user gone.
func (s *service) waitRevoked(t *testing.T, id uint64, user string) {
	t.Helper()
	s.events.Wait(t, rotation.Revoked, id)
	users, err := s.role.Users(t.Context())
	kit.Check(t, err)
	if slices.Contains(users, user) {
		t.Errorf("generation %d is revoked, but %s is still there", id, user)
	}
}

// dropRole removes a user behind Vault's back. Its sessions go on.
func dropRole(t *testing.T, user string) {
	t.Helper()
	kit.Check(t, shared.Postgres.Exec(t.Context(), "DROP ROLE "+pgx.Identifier{user}.Sanitize()))
}

// checkNothingLeft holds as soon as a DB is closed.
func (s *service) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if leases, err := s.role.Leases(ctx); err != nil || len(leases) > 0 {
		t.Errorf("left in Vault: leases %v (error %v)", leases, err)
	}
	if users, err := s.role.Users(ctx); err != nil || len(users) > 0 {
		t.Errorf("left in PostgreSQL: roles %v (error %v)", users, err)
	}
	if n := s.sessions(ctx, t); n > 0 {
		t.Errorf("left in PostgreSQL: %d sessions", n)
	}
}

// sessions counts the sessions of all users of the role.
func (s *service) sessions(ctx context.Context, t *testing.T) (n int) {
	t.Helper()
	kit.Check(t, shared.Postgres.Superuser.QueryRow(ctx,
		`SELECT count(*) FROM pg_stat_activity WHERE usename LIKE $1`, "v-%-"+s.role.Name+"-%").Scan(&n))
	return n
}

// items counts rows of a shared table.
func items(t *testing.T, name string) (n int) {
	t.Helper()
	kit.Check(t, shared.Postgres.Superuser.QueryRow(t.Context(), "SELECT count(*) FROM items WHERE name = $1", name).Scan(&n))
	return n
}

const insertItem = "INSERT INTO items (name) VALUES ($1)"

// querier is what DB, Conn and Tx have in common.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// session asks the server which session this is, and whose.
func session(t *testing.T, q querier) (user string, pid int) {
	t.Helper()
	kit.Check(t, q.QueryRowContext(t.Context(), "SELECT session_user, pg_backend_pid()").Scan(&user, &pid))
	return user, pid
}

func insert(t *testing.T, q querier, name string) {
	t.Helper()
	kit.Check(t, insertInto(t.Context(), q, name))
}

func insertInto(ctx context.Context, q querier, name string) error {
	result, err := q.ExecContext(ctx, insertItem, name)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n != 1 {
		err = fmt.Errorf("%d rows affected, not 1", n)
	}
	return err
}
