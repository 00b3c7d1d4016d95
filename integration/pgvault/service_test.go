package pgvault_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// setup says what a test's service is like. The zero value is useful.
type setup struct {
	bed       *testbed.Bed // nil: shared
	role      testbed.RoleOptions
	policy    string                // instead of the role's
	params    string                // more parameters of the connection string, "pool_max_conns=3"
	configure func(*pgvault.Config) // changes the config at last
}

// service is a role, a token that may use it and no more, and the pool of a program that has both.
type service struct {
	*pgvault.Pool
	bed    *testbed.Bed
	role   *testbed.Role
	vault  *vaultProxy // between the pool and Vault
	config *pgvault.Config
	events *recorder
	logs   *logs

	tokenFile string
}

// prepare does all but open the pool.
func prepare(t *testing.T, set setup) *service {
	t.Helper()
	s := &service{bed: set.bed, events: newRecorder(), logs: &logs{}}
	if s.bed == nil {
		s.bed = shared
	}
	ctx := t.Context()
	var err error
	s.role, err = s.bed.PostgresRole(ctx, s.complete(set.role))
	check(t, err)
	policy := set.policy
	if policy == "" {
		policy = s.role.Policy
	}
	token, err := s.bed.Vault.Token(ctx, policy, time.Hour)
	check(t, err)
	s.vault = newVaultProxy(t, s.bed.Vault.Addr)
	s.giveToken(t, token)
	s.config, err = pgvault.ParseConfig(s.connString(set.params))
	check(t, err)
	s.config.Rotation = s.rotation()
	if set.configure != nil {
		set.configure(s.config)
	}
	return s
}

// complete adds our way to create and drop users.
func (s *service) complete(o testbed.RoleOptions) testbed.RoleOptions {
	if o.Create == nil {
		o.Create = createUser(s.bed, "LOGIN")
	}
	if o.Revoke == nil {
		o.Revoke = dropUser()
	}
	return o
}

// updateRole changes what Vault does from now on.
func (s *service) updateRole(t *testing.T, o testbed.RoleOptions) {
	t.Helper()
	check(t, s.role.Update(t.Context(), s.complete(o)))
}

// giveToken puts the token where the service finds it.
func (s *service) giveToken(t *testing.T, token string) {
	t.Helper()
	s.tokenFile = filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(s.tokenFile, []byte(token), 0o600))
	s.vault.AddSecret(token)
}

// rotation lets rotations follow each other without a pause, and logs every event from the first one on.
func (s *service) rotation() rotation.Config {
	return rotation.Config{IssueInterval: time.Millisecond, Logger: slog.New(s.logs)}
}

// connString is what a program would have in its configuration.
func (s *service) connString(params string) string {
	u := withParams(s.bed.Postgres.URL("app"),
		"vault_path="+s.role.CredsPath+"&vault_addr="+s.vault.URL+"&vault_token_file="+s.tokenFile)
	if params != "" {
		u = withParams(u, params)
	}
	return u
}

func withParams(u, params string) string {
	if strings.Contains(u, "?") {
		return u + "&" + params
	}
	return u + "?" + params
}

// issues, renewals and revocations count what Vault was asked for.
func (s *service) issues() int      { return len(s.vault.Asked(s.role.CredsPath)) }
func (s *service) renewals() int    { return len(s.vault.Asked("sys/leases/renew")) }
func (s *service) revocations() int { return len(s.vault.Asked("sys/leases/revoke")) }

// start opens the pool. At the end of the test it is closed, and nothing may be left.
func (s *service) start(t *testing.T) *service {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	s.Pool, err = pgvault.NewWithConfig(ctx, s.config)
	check(t, err)
	s.Rotator().Subscribe(s.events.Add)
	t.Cleanup(func() {
		s.Close()
		s.checkNothingLeft(t)
	})
	return s
}

// open is prepare and start.
func open(t *testing.T, set setup) *service {
	t.Helper()
	return prepare(t, set).start(t)
}

// checkNothingLeft holds as soon as a pool is closed.
func (s *service) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

// waitNothingLeft is for what goes on after Close has given up on it.
func (s *service) waitNothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, "no lease, role or session left", func(ctx context.Context) bool {
		leases, err := s.role.Leases(ctx)
		check(t, err)
		users, err := s.role.Users(ctx)
		check(t, err)
		return len(leases) == 0 && len(users) == 0 && s.sessions(ctx, t) == 0
	})
}

// sessions counts the sessions of all users of the role.
func (s *service) sessions(ctx context.Context, t *testing.T) (n int) {
	t.Helper()
	check(t, s.bed.Postgres.Superuser.QueryRow(ctx,
		`SELECT count(*) FROM pg_stat_activity WHERE usename LIKE $1`, "v-%-"+s.role.Name+"-%").Scan(&n))
	return n
}

// rotate rotates and waits until the new credential serves.
func (s *service) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, s.Rotate(ctx))
}

// generation returns one generation's status, and whether it is not yet retired.
func (s *service) generation(id uint64) (rotation.GenerationStatus, bool) {
	all := s.Rotator().Status().Generations
	i := slices.IndexFunc(all, func(g rotation.GenerationStatus) bool { return g.Generation == id })
	if i < 0 {
		return rotation.GenerationStatus{}, false
	}
	return all[i], true
}

// connections returns how many sockets the engine counts for one generation.
func (s *service) connections(id uint64) int {
	g, _ := s.generation(id)
	return g.Connections
}

// leaseOf tells whether Vault still has the lease that belongs to a database user.
func (s *service) hasUser(t *testing.T, user string) bool {
	t.Helper()
	users, err := s.role.Users(t.Context())
	check(t, err)
	return slices.Contains(users, user)
}

// waitRevoked waits until a generation's lease is revoked and its user gone.
func (s *service) waitRevoked(t *testing.T, id uint64, user string) {
	t.Helper()
	s.events.Wait(t, rotation.Revoked, id)
	if s.hasUser(t, user) {
		t.Errorf("generation %d is revoked, but %s is still there", id, user)
	}
}

// dropRole removes a user behind Vault's back. Its sessions go on.
func (s *service) dropRole(t *testing.T, user string) {
	t.Helper()
	check(t, s.bed.Postgres.Exec(t.Context(), "DROP ROLE "+pgx.Identifier{user}.Sanitize()))
}

// querier is what pools, connections and transactions have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// sessionUser asks the server whom a connection has logged in as.
func sessionUser(t *testing.T, q querier) (user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, q.QueryRow(ctx, "SELECT session_user").Scan(&user))
	return user
}

// rowName makes names that no other test uses, for rows of shared tables.
func rowName(t *testing.T, n int) string { t.Helper(); return fmt.Sprintf("%s %d", t.Name(), n) }
