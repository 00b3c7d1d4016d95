package conformance

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// setup says what a case's service is like. The zero value is useful.
type setup struct {
	role      testbed.RoleOptions
	rotation  rotation.Config
	maxConns  int  // default 10
	wired     bool // the pool reaches the server by a wire of the case's
	mayReport bool // closing reports something, which the case looks at
}

// service is a role, a token that may use it and no more, and the pool of a program that has both.
type service struct {
	*Pool
	a      *Adapter
	role   *testbed.Role
	vault  *kit.VaultProxy // between the pool and faults
	faults *vaultFaults    // between that and Vault
	wire   *wire
	events *kit.Recorder
	logs   *kit.Logs

	options   Options
	mayReport bool
	closing   sync.Once
	closed    error
}

// prepare does all but open the pool.
func prepare(t *testing.T, a *Adapter, set setup) *service {
	t.Helper()
	s := &service{a: a, events: kit.NewRecorder(), logs: &kit.Logs{}, mayReport: set.mayReport}
	var err error
	s.role, err = a.Server.role(t.Context(), a.Server.complete(set.role))
	kit.Check(t, err)
	token, err := s.role.Token(t.Context(), time.Hour)
	kit.Check(t, err)
	s.faults = newVaultFaults(t, a.Server.client.Address())
	s.vault = kit.NewVaultProxy(t, s.faults.url)
	s.vault.AddSecret(token)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	s.options = Options{
		Addr:     a.Server.Addr,
		Vault:    vaultsource.Config{Path: s.role.CredsPath, Address: s.vault.URL, TokenFile: file},
		Rotation: set.rotation, MaxConns: max(set.maxConns, 10),
	}
	if set.maxConns > 0 {
		s.options.MaxConns = set.maxConns
	}
	if set.wired {
		s.wire = newWire(t, a.Server.Addr)
		s.options.Addr = s.wire.addr
	}
	if s.options.Rotation.IssueInterval == 0 {
		s.options.Rotation.IssueInterval = time.Millisecond // rotations follow each other without a pause
	}
	s.options.Rotation.Logger = slog.New(s.logs)
	return s
}

// start opens the pool. At the end of the case it is closed, and nothing may be left.
func (s *service) start(t *testing.T) *service {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	var err error
	s.Pool, err = s.a.Open(ctx, s.options)
	kit.Check(t, err)
	s.Rotator.Subscribe(s.events.Add)
	t.Cleanup(func() {
		if err := s.close(); err != nil && !s.mayReport {
			t.Errorf("closing: %v", err)
		}
		s.waitNothingLeft(t)
		if n := s.vault.SecretsIn(s.logs.String()); n > 0 {
			t.Errorf("%d secrets are in the log", n)
		}
	})
	return s
}

// open is prepare and start.
func open(t *testing.T, a *Adapter, set setup) *service {
	t.Helper()
	return prepare(t, a, set).start(t)
}

// close closes the pool, once.
func (s *service) close() error {
	s.closing.Do(func() { s.closed = s.Close() })
	return s.closed
}

// checkNothingLeft holds as soon as a pool is closed; a session that has said goodbye may take a moment.
func (s *service) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	leases, err := s.role.Leases(ctx)
	kit.Check(t, err)
	users, err := s.role.Users(ctx)
	kit.Check(t, err)
	if len(leases) > 0 || len(users) > 0 {
		t.Errorf("left: leases %v, users %v", leases, users)
	}
}

// waitNothingLeft is for what goes on after Close has given up on it.
func (s *service) waitNothingLeft(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "no lease, user or session left", func(ctx context.Context) bool {
		leases, err := s.role.Leases(ctx)
		kit.Check(t, err)
		users, err := s.role.Users(ctx)
		kit.Check(t, err)
		return len(leases) == 0 && len(users) == 0
	})
}

// updateRole changes what Vault does from now on.
func (s *service) updateRole(t *testing.T, o testbed.RoleOptions) {
	t.Helper()
	kit.Check(t, s.role.Update(t.Context(), s.a.Server.complete(o)))
}

// issues, renewals and revocations count what Vault was asked for.
func (s *service) issues() int      { return len(s.vault.Asked(s.role.CredsPath)) }
func (s *service) renewals() int    { return len(s.vault.Asked("sys/leases/renew")) }
func (s *service) revocations() int { return len(s.vault.Asked("sys/leases/revoke")) }

// rotate rotates and waits until the new credential serves.
func (s *service) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, s.Rotator.Rotate(ctx))
}

// user is whom new connections log in as.
func (s *service) user() string { return s.Rotator.Status().User }

// generation returns one generation's status, and whether it is not yet retired.
func (s *service) generation(id uint64) (rotation.GenerationStatus, bool) {
	all := s.Rotator.Status().Generations
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

// waitConnections waits until the first generation has n.
func (s *service) waitConnections(t *testing.T, n int) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("%d connections counted", n), func(context.Context) bool { return s.connections(1) == n })
}

func (s *service) hasUser(t *testing.T, user string) bool {
	t.Helper()
	users, err := s.role.Users(t.Context())
	kit.Check(t, err)
	return slices.Contains(users, user)
}

// waitRevoked waits until a generation's lease is revoked and its user gone, with all sessions.
func (s *service) waitRevoked(t *testing.T, id uint64, user string) {
	t.Helper()
	s.events.Wait(t, rotation.Revoked, id)
	if s.hasUser(t, user) {
		t.Errorf("generation %d is revoked, but %s is still there", id, user)
	}
	kit.Eventually(t, "no session of a revoked user", func(ctx context.Context) bool {
		sessions, err := s.a.Server.sessions(ctx, user)
		kit.Check(t, err)
		return len(sessions) == 0
	})
}

// dropUser removes a user behind Vault's back. Its sessions go on.
func (s *service) dropUser(t *testing.T, user string) {
	t.Helper()
	kit.Check(t, s.a.Server.admin(t.Context(), s.a.Server.dropUser, user))
}

// atRevocation counts, whenever Vault is asked for a revocation, how many of these sessions are still there. It
// is -1 until the first.
func (s *service) atRevocation(t *testing.T, user string, ids ...int) *atomic.Int64 {
	t.Helper()
	most := new(atomic.Int64)
	most.Store(-1)
	s.vault.Before("sys/leases/revoke", func() { most.Store(max(most.Load(), int64(s.alive(t, user, ids...)))) })
	return most
}

// alive counts these sessions of a user.
func (s *service) alive(t *testing.T, user string, ids ...int) (n int) {
	t.Helper()
	sessions, err := s.a.Server.sessions(context.Background(), user)
	if err != nil {
		t.Errorf("look for sessions: %v", err)
	}
	for _, session := range sessions {
		if slices.Contains(ids, session.PID) {
			n++
		}
	}
	return n
}

// querier is what DBs, connections and transactions have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// whoAmI asks the server for a session's user and id.
func (s *service) whoAmI(t *testing.T, q querier) (user string, id int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, q.QueryRowContext(ctx, s.a.Server.whoAmI).Scan(&user, &id))
	return user, id
}

// insert makes a row of that name.
func (s *service) insert(t *testing.T, q querier, name string) {
	t.Helper()
	_, err := q.ExecContext(t.Context(), s.a.Server.insert, name)
	kit.Check(t, err)
}

// items counts rows of a shared table.
func (s *service) items(t *testing.T, like string) (n int) {
	t.Helper()
	kit.Check(t, s.QueryRowContext(t.Context(), s.a.Server.count, like).Scan(&n))
	return n
}

// conn takes a connection, until the end of the case at the latest.
func (s *service) conn(t *testing.T) *sql.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	conn, err := s.Conn(ctx)
	kit.Check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// taken is the result of taking a connection in the background.
type taken struct {
	conn *sql.Conn
	err  error
}

func (s *service) takeAside(ctx context.Context) <-chan taken {
	done := make(chan taken, 1)
	go func() {
		conn, err := s.Conn(ctx)
		done <- taken{conn, err}
	}()
	return done
}

// fill opens n connections and leaves them idle.
func (s *service) fill(t *testing.T, n int) {
	t.Helper()
	for range n {
		c := s.conn(t)
		defer func() { kit.Check(t, c.Close()) }()
	}
}

// checkRotates: the pool serves, rotates, and gives the old lease back.
func (s *service) checkRotates(t *testing.T) {
	t.Helper()
	id := s.Rotator.Status().Generation
	old, _ := s.whoAmI(t, s)
	s.rotate(t)
	s.waitRevoked(t, id, old)
	if user, _ := s.whoAmI(t, s); user == old {
		t.Errorf("still logged in as %s", user)
	}
}

// load runs short statements on so many workers until stopped, each of which fails the test if one fails.
type load struct {
	stop    chan struct{}
	once    sync.Once
	workers sync.WaitGroup
	done    atomic.Int64
}

func (s *service) load(t *testing.T, workers int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	t.Cleanup(l.end)
	for range workers {
		l.workers.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(time.Millisecond):
				}
				if _, err := s.ExecContext(context.Background(), s.a.Server.sleep, 0.001); err != nil {
					t.Errorf("a call failed: %v", err)
					return
				}
				l.done.Add(1)
			}
		})
	}
	return l
}

func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	l.workers.Wait()
}

// progress waits until the load has done some more.
func (l *load) progress(t *testing.T) {
	t.Helper()
	from := l.done.Load()
	kit.Eventually(t, "the load goes on", func(context.Context) bool { return l.done.Load() > from+20 })
}
