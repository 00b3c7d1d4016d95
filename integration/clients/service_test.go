package clients_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// leased is what all kinds of pools have in common here.
type leased struct {
	kind    string // "mysql" or "postgres"
	role    *testbed.Role
	rotator *rotation.Rotator
	events  *kit.Recorder
}

// service is a DB of one kind, opened by sql.Open as a program would.
type service struct {
	*sql.DB
	leased
}

// pool is a pgvault.Pool. What wants a *pgxpool.Pool gets p.Pool.Pool.
type pool struct {
	*pgvault.Pool
	leased
}

// size is how many connections each pool may have.
const size = 8

// eachDatabase runs a test on both.
func eachDatabase(t *testing.T, test func(t *testing.T, s *service)) {
	t.Helper()
	for _, kind := range []string{"mysql", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, kind, ""))
		})
	}
}

// open opens a DB; more are parameters of its connection string.
func open(t *testing.T, kind, more string) *service {
	t.Helper()
	s := &service{leased: leased{kind: kind, events: kit.NewRecorder()}}
	var dsn string
	s.role, dsn = newRole(t, kind)
	driver := map[string]string{"mysql": mysqlvault.DriverName, "postgres": stdlib.DriverName}[kind]
	var err error
	s.DB, err = sql.Open(driver, dsn+more)
	kit.Check(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		s.checkNothingLeft(t)
	})
	s.SetMaxOpenConns(size)
	s.SetMaxIdleConns(size)
	kit.Check(t, s.PingContext(t.Context()))
	if s.rotator = mysqlvault.RotatorOf(s.DB); kind == "postgres" {
		s.rotator = stdlib.RotatorOf(s.DB)
	}
	s.rotator.Subscribe(s.events.Add)
	return s
}

// openPool opens a pool; configure, if not nil, changes what pgvault.ParseConfig made.
func openPool(t *testing.T, configure func(*pgvault.Config)) *pool {
	t.Helper()
	p := &pool{leased: leased{kind: "postgres", events: kit.NewRecorder()}}
	var connString string
	p.role, connString = newRole(t, "postgres")
	config, err := pgvault.ParseConfig(connString)
	kit.Check(t, err)
	config.MaxConns = size
	if configure != nil {
		configure(config)
	}
	p.Pool, err = pgvault.NewWithConfig(t.Context(), config)
	kit.Check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("closing: %v", err)
		}
		p.checkNothingLeft(t)
	})
	p.rotator = p.Rotator()
	p.rotator.Subscribe(p.events.Add)
	return p
}

// drainTimeout sets how long the connections of a replaced credential may go on.
func drainTimeout(d time.Duration) func(*pgvault.Config) {
	return func(c *pgvault.Config) { c.Rotation.DrainTimeout = d }
}

// rotate replaces the credential and returns the number of the generation it had and the new user.
func (l *leased) rotate(t *testing.T) (old uint64, user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	before := l.rotator.Status()
	kit.Check(t, l.rotator.Rotate(ctx))
	after := l.rotator.Status()
	if after.Generation <= before.Generation || after.User == before.User {
		t.Fatalf("after the rotation generation %d has user %s; before, %d had %s",
			after.Generation, after.User, before.Generation, before.User)
	}
	return before.Generation, after.User
}

// rotations is how often the credential is replaced while something works.
const rotations = 3

// while replaces the credential some times during work of which progress counts what is done, and returns when
// the old leases are revoked and work has been done since, which can only have been on the last credential.
func (l *leased) while(t *testing.T, progress func() int64) {
	t.Helper()
	var olds []uint64
	for range rotations {
		goesOn(t, progress)
		old, _ := l.rotate(t)
		olds = append(olds, old)
	}
	for _, old := range olds {
		l.events.Wait(t, rotation.Revoked, old)
	}
	goesOn(t, progress)
	l.checkMoved(t)
}

// goesOn waits until some more is done.
func goesOn(t *testing.T, progress func() int64) {
	t.Helper()
	before := progress()
	kit.Eventually(t, "work goes on", func(context.Context) bool { return progress() >= before+2*size || t.Failed() })
}

// checkMoved fails the test unless the current user is the only one left, in the database, in Vault and in the
// engine's count, and has sessions.
func (l *leased) checkMoved(t *testing.T) {
	t.Helper()
	status := l.rotator.Status()
	users, err := l.role.Users(t.Context())
	if err != nil || !slices.Equal(users, []string{status.User}) {
		t.Errorf("the database has the users %v (error %v), where only %s is current", users, err, status.User)
	}
	if leases, err := l.role.Leases(t.Context()); err != nil || len(leases) != 1 {
		t.Errorf("Vault has the leases %v (error %v)", leases, err)
	}
	if len(status.Generations) != 1 || status.Generations[0].Connections == 0 {
		t.Errorf("of the generations are left: %+v", status.Generations)
	}
	if n := l.sessions(t, status.User); n == 0 {
		t.Errorf("%s, which is current, has no session", status.User)
	}
}

// sessions counts what a user has open at the server.
func (l *leased) sessions(t *testing.T, user string) int {
	t.Helper()
	list := shared.Postgres.Sessions
	if l.kind == "mysql" {
		list = shared.MariaDB.Sessions
	}
	sessions, err := list(t.Context(), user)
	kit.Check(t, err)
	return len(sessions)
}

// undisturbed fails the test if a connection was cut or a revocation refused: see newRole.
func (l *leased) undisturbed(t *testing.T) {
	t.Helper()
	l.events.None(t, rotation.DrainDeadline, rotation.LoginRefused, rotation.RevokeFailed, rotation.CredentialLost)
}

func (l *leased) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if leases, err := l.role.Leases(ctx); err != nil || len(leases) > 0 {
		t.Errorf("left in Vault: leases %v (error %v)", leases, err)
	}
	if users, err := l.role.Users(ctx); err != nil || len(users) > 0 {
		t.Errorf("left in the database: users %v (error %v)", users, err)
	}
}

// through has as many workers as the pool has connections do something again and again while the credential is
// replaced, and drained and revoked each time.
func (l *leased) through(t *testing.T, work func(ctx context.Context, worker, n int) error) {
	t.Helper()
	b := start(t, size, work)
	l.while(t, b.count)
	b.stop()
	l.undisturbed(t)
}

var errWrong = errors.New("what was read is not what was written")
