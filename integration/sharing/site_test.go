package sharing_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// site is one Rotator for several pools, on a role of its own.
type site struct {
	*rotation.Rotator
	role   *testbed.Role
	vault  *kit.VaultProxy // between the Rotator and Vault
	events *kit.Recorder
}

// open makes a Rotator. The end of the test closes it, after the pools that were opened later; nothing may be left then.
func open(t *testing.T, role *testbed.Role, config rotation.Config) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	s := &site{role: role, vault: kit.NewVaultProxy(t, shared.Vault.Addr), events: kit.NewRecorder()}
	token, err := role.Token(ctx, time.Hour)
	kit.Check(t, err)
	s.vault.AddSecret(token)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	source, err := vaultsource.New(ctx, vaultsource.Config{Path: role.CredsPath, Address: s.vault.URL, TokenFile: file})
	kit.Check(t, err)
	logs := &kit.Logs{}
	config.Logger = slog.New(logs)
	if config.IssueInterval == 0 {
		config.IssueInterval = time.Millisecond // rotations may follow each other
	}
	s.Rotator, err = rotation.New(ctx, source, config)
	kit.Check(t, err)
	s.Subscribe(s.events.Add)
	t.Cleanup(func() {
		if t.Failed() {
			events, _ := s.events.All()
			t.Logf("the events were\n%s", kit.List(events))
		}
		if err := s.Close(context.Background()); err != nil {
			t.Errorf("closing the Rotator: %v", err)
		}
		s.checkNothingLeft(t)
		if n := s.vault.SecretsIn(logs.String()); n > 0 {
			t.Errorf("%d secrets are in the log", n)
		}
	})
	return s
}

// openPostgres is open for PostgreSQL, with leases that end after ttl, whatever is done; 0: not in a test's time.
func openPostgres(t *testing.T, ttl time.Duration, config rotation.Config) *site {
	t.Helper()
	role, err := shared.PostgresRole(t.Context(), testbed.RoleOptions{
		DefaultTTL: ttl, MaxTTL: ttl,
		Create: []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + group()},
		Revoke: []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	kit.Check(t, err)
	return open(t, role, config)
}

func (s *site) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if leases, err := s.role.Leases(ctx); err != nil || len(leases) > 0 {
		t.Errorf("left in Vault: leases %v (error %v)", leases, err)
	}
	users, err := s.role.Users(ctx)
	if err != nil || len(users) > 0 {
		t.Errorf("left in the database: users %v (error %v)", users, err)
	}
}

// issues and revocations count what Vault was asked for.
func (s *site) issues() int      { return len(s.vault.Asked(s.role.CredsPath)) }
func (s *site) revocations() int { return len(s.vault.Asked("sys/leases/revoke")) }

// user is whom new connections log in as.
func (s *site) user() string { return s.Status().User }

// rotate rotates and waits until the new credential serves.
func (s *site) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, s.Rotate(ctx))
}

// generation returns one generation's status, and whether it is not yet retired.
func (s *site) generation(id uint64) (rotation.GenerationStatus, bool) {
	all := s.Status().Generations
	i := slices.IndexFunc(all, func(g rotation.GenerationStatus) bool { return g.Generation == id })
	if i < 0 {
		return rotation.GenerationStatus{}, false
	}
	return all[i], true
}

// waitConnections waits until the engine counts n connections of a generation.
func (s *site) waitConnections(t *testing.T, id uint64, n int) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("%d connections of generation %d", n, id), func(context.Context) bool {
		g, _ := s.generation(id)
		return g.Connections == n
	})
}

// hasUser tells whether the database still has one.
func (s *site) hasUser(t *testing.T, user string) bool {
	t.Helper()
	users, err := s.role.Users(t.Context())
	kit.Check(t, err)
	return slices.Contains(users, user)
}

// waitRevoked waits until a generation's lease is revoked and its user gone.
func (s *site) waitRevoked(t *testing.T, id uint64, user string) {
	t.Helper()
	s.events.Wait(t, rotation.Revoked, id)
	if s.hasUser(t, user) {
		t.Errorf("generation %d is revoked, but %s is still there", id, user)
	}
}

// checkLeases fails unless Vault has just so many of this role.
func (s *site) checkLeases(t *testing.T, want int) {
	t.Helper()
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	if len(leases) != want {
		t.Errorf("Vault has %d leases, not %d", len(leases), want)
	}
}

// pool opens a pool on the Rotator, which the end of the test closes.
func (s *site) pool(t *testing.T, connString string, params ...string) *pgvault.Pool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	config, err := pgvault.ParseConfig(connString + "&pool_max_conns=4&" + strings.Join(params, "&"))
	kit.Check(t, err)
	config.Rotator = s.Rotator
	pool, err := pgvault.NewWithConfig(ctx, config)
	kit.Check(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func (s *site) primary(t *testing.T, params ...string) *pgvault.Pool {
	t.Helper()
	return s.pool(t, shared.Postgres.URL("app"), params...)
}

// both opens a pool that has two servers in its connection string.
func (s *site) both(t *testing.T, first, second, sessions string) *pgvault.Pool {
	t.Helper()
	u := url.URL{
		Scheme: "postgres", Host: first + "," + second, Path: "/" + shared.Postgres.Database,
		RawQuery: "sslmode=disable&target_session_attrs=" + sessions,
	}
	return s.pool(t, u.String())
}

// newReplica makes one that ends with the test.
func newReplica(t *testing.T) *testbed.PostgresReplica {
	t.Helper()
	replica, err := shared.PostgresReplica(t.Context())
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, replica.Close(context.Background())) })
	return replica
}

// lag keeps a replica where it is.
func lag(t *testing.T, replica *testbed.PostgresReplica) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, replica.Lag(ctx))
}

// querier is what pools, connections and transactions have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// sessionUser asks the server whom a connection has logged in as.
func sessionUser(t *testing.T, q querier) (user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, q.QueryRow(ctx, "SELECT session_user").Scan(&user))
	return user
}

// freshUser is whom a connection logs in as that is opened now.
func freshUser(t *testing.T, pool *pgvault.Pool) string {
	t.Helper()
	pool.Reset()
	return sessionUser(t, pool)
}

// onReplica tells which of the two a connection is on.
func onReplica(t *testing.T, q querier) (is bool) {
	t.Helper()
	kit.Check(t, q.QueryRow(t.Context(), "SELECT pg_is_in_recovery()").Scan(&is))
	return is
}

// sessions counts those of a user, or of all that are LIKE it, at one server.
func sessions(ctx context.Context, t *testing.T, server querier, like string) (n int) {
	t.Helper()
	kit.Check(t, server.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename LIKE $1`, like).Scan(&n))
	return n
}

// acquire takes a connection that the end of the test gives back.
func acquire(t *testing.T, pool *pgvault.Pool) *held {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	conn, err := pool.Acquire(ctx)
	kit.Check(t, err)
	h := &held{querier: conn, release: sync.OnceFunc(conn.Release)}
	t.Cleanup(h.release)
	return h
}

type held struct {
	querier
	release func()
}

// write is a unit of work for a primary, read for a replica. What the one writes the other may not see yet.
func write(ctx context.Context, pool *pgvault.Pool, name string) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO items (name) VALUES ($1)", name); err != nil {
			return err
		}
		var n int
		return tx.QueryRow(ctx, "SELECT count(*) FROM items WHERE name = $1", name).Scan(&n)
	})
}

func read(ctx context.Context, pool *pgvault.Pool, name string) error {
	var n int
	return pool.QueryRow(ctx, "SELECT count(*) FROM items WHERE name = $1", name).Scan(&n)
}

// load is work that goes on until it is stopped.
type load struct {
	done    atomic.Int64
	stop    chan struct{}
	once    sync.Once
	workers sync.WaitGroup
}

// startLoad has workers do something again and again. No failure is forgiven. The end of the test stops it.
func startLoad(t *testing.T, workers int, what string, work func(context.Context) error) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	t.Cleanup(l.end)
	for range workers {
		l.workers.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(5 * time.Millisecond): // two cores, and other tests beside this one
				}
				ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
				err := work(ctx)
				cancel()
				if err != nil {
					t.Errorf("%s, after %d times: %v", what, l.done.Load(), err)
					return
				}
				l.done.Add(1)
			}
		})
	}
	return l
}

// more waits until it was done some more times.
func (l *load) more(t *testing.T) {
	t.Helper()
	target := l.done.Load() + 10
	kit.Eventually(t, "the load goes on", func(context.Context) bool { return l.done.Load() >= target || t.Failed() })
}

func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	l.workers.Wait()
}

// isState reports whether a server answered with that SQLSTATE.
func isState(err error, state string) bool {
	var refusal *pgconn.PgError
	return errors.As(err, &refusal) && refusal.Code == state
}
