package sharing_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 47: three pools, of a primary, of its replica and of both in one connection string, share one lease. Under
// load nothing fails through rotations, the replica's own lag included.
func TestHazard47_PrimaryReplicaAndBoth(t *testing.T) {
	t.Parallel()
	const rotations = 6
	s := openPostgres(t, 0, rotation.Config{DrainTimeout: 4 * time.Second})
	replica := newReplica(t)
	primary, reading := s.primary(t), s.pool(t, replica.URL())
	both := s.both(t, replica.Addr, shared.Postgres.Addr, "read-write")
	readingBoth := s.both(t, shared.Postgres.Addr, replica.Addr, "prefer-standby")
	if onReplica(t, primary) || !onReplica(t, reading) || onReplica(t, both) || !onReplica(t, readingBoth) {
		t.Fatal("a pool is on the wrong server")
	}
	loads := []*load{
		startLoad(t, 3, "primary", func(ctx context.Context) error { return write(ctx, primary, t.Name()) }),
		startLoad(t, 3, "replica", func(ctx context.Context) error { return read(ctx, reading, t.Name()) }),
		startLoad(t, 2, "both, to write", func(ctx context.Context) error { return write(ctx, both, t.Name()) }),
		startLoad(t, 2, "both, to read", func(ctx context.Context) error { return read(ctx, readingBoth, t.Name()) }),
	}
	for id := uint64(1); id <= rotations; id++ {
		for _, l := range loads {
			l.more(t)
		}
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id)
		s.checkLeases(t, 1)
	}
	var done []int64
	for _, l := range loads {
		l.more(t)
		l.end()
		done = append(done, l.done.Load())
	}
	s.events.None(t, rotation.DrainDeadline, rotation.LoginRefused, rotation.Rejected, rotation.ReplaceFailed, rotation.RevokeFailed)
	if issues, revocations := s.issues(), s.revocations(); issues != rotations+1 || revocations != rotations {
		t.Errorf("%d issues and %d revocations, not %d and %d", issues, revocations, rotations+1, rotations)
	}
	t.Logf("%d pieces of work over %d rotations; the replica was waited for %d times", done, rotations, len(s.events.Of(rotation.ProbeFailed, 0)))
}

// hazard 47: a connection that is in use on either server keeps the lease, which is revoked once.
func TestHazard47_BothDrainBeforeTheRevocation(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, 0, rotation.Config{})
	replica := newReplica(t)
	old := s.user()
	onPrimary, there := acquire(t, s.primary(t)), acquire(t, s.pool(t, replica.URL()))
	atBoth := acquire(t, s.both(t, shared.Postgres.Addr, replica.Addr, "standby"))
	s.rotate(t)
	onPrimary.release()
	s.waitConnections(t, 1, 2)
	there.release()
	s.waitConnections(t, 1, 1)
	if user := sessionUser(t, atBoth); user != old || !s.hasUser(t, old) || !onReplica(t, atBoth) {
		t.Errorf("the last connection is of %s", user)
	}
	s.checkLeases(t, 2)
	s.events.None(t, rotation.Revoked, rotation.Drained)
	atBoth.release()
	s.waitRevoked(t, 1, old)
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations for one lease", n)
	}
}

// hazard 29: while the replica does not know the new user the old one serves, for new connections to either server;
// then the new one does.
func TestHazard29_ReplicaLags(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, 0, rotation.Config{}) // a lease of an hour: a refusal is waited out for 30 s
	replica := newReplica(t)
	s.lagsBehind(t, replica, s.primary(t), s.pool(t, replica.URL()))
}

// hazard 29: so it is where both servers are in one connection string, of which the first accepts.
func TestHazard29_ReplicaLagsInOnePool(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, 0, rotation.Config{})
	replica := newReplica(t)
	s.lagsBehind(t, replica, s.both(t, shared.Postgres.Addr, replica.Addr, "any"))
}

func (s *site) lagsBehind(t *testing.T, replica *testbed.PostgresReplica, pools ...*pgvault.Pool) {
	t.Helper()
	old := s.user()
	lag(t, replica)
	rotated := make(chan error, 1)
	go func() { rotated <- s.Rotate(context.Background()) }()
	for _, e := range s.events.WaitN(t, rotation.ProbeFailed, 2, 4) {
		if !isState(e.Err, "28P01") {
			t.Errorf("the probe failed with %v", e.Err)
		}
	}
	for _, pool := range pools {
		if user := freshUser(t, pool); user != old {
			t.Errorf("logged in as %s, whom the replica does not know", user)
		}
	}
	s.events.None(t, rotation.Rejected)
	if len(s.events.Of(rotation.Published, 2)) > 0 {
		t.Error("published while the replica does not know the user")
	}
	kit.Check(t, replica.CatchUp(t.Context()))
	kit.Check(t, kit.Receive(t, "Rotate", rotated))
	for _, pool := range pools {
		if user := freshUser(t, pool); user != s.user() || user == old {
			t.Errorf("logged in as %s when the replica had caught up", user)
		}
	}
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.Rejected, rotation.LoginRefused, rotation.CredentialLost)
	if n := s.issues(); n != 2 {
		t.Errorf("%d credentials were issued, not 2", n)
	}
}

// hazards 37 and 52: a replica that has no connection left says nothing about a credential: the rotation goes on, and
// the replica's pool has the new one as soon as there is room.
func TestHazard52_ReplicaFull(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, 0, rotation.Config{})
	replica := newReplica(t)
	primary, reading := s.primary(t), s.pool(t, replica.URL())
	old := s.user()
	kept := acquire(t, reading)
	leave := fill(t, replica)
	s.rotate(t)
	if user := freshUser(t, primary); user == old || user != s.user() {
		t.Errorf("the primary's pool logs in as %s", user)
	}
	if user := sessionUser(t, kept); user != old {
		t.Errorf("the replica's pool has a connection of %s", user)
	}
	if other, err := reading.Acquire(t.Context()); !isState(err, "53300") {
		if err == nil {
			other.Release()
		}
		t.Errorf("the replica is full, and a login at it returned %v", err)
	}
	leave()
	kit.Eventually(t, "the replica's pool has the new credential", func(ctx context.Context) bool {
		conn, err := reading.Acquire(ctx)
		if err != nil {
			return false
		}
		defer conn.Release()
		return sessionUser(t, conn) == s.user()
	})
	kept.release()
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.Rejected, rotation.LoginRefused, rotation.CredentialLost)
	if n := s.issues(); n != 2 {
		t.Errorf("%d credentials were issued, not 2", n)
	}
}

// fill takes all connections that the replica has for users, until leave is called.
func fill(t *testing.T, replica *testbed.PostgresReplica) (leave func()) {
	t.Helper()
	role, err := shared.PostgresRole(t.Context(), testbed.RoleOptions{
		Create: []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}'`},
		Revoke: []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	kit.Check(t, err)
	credential, err := role.Issue(t.Context())
	kit.Check(t, err)
	var conns []*pgx.Conn
	leave = sync.OnceFunc(func() {
		for _, conn := range conns {
			_ = conn.Close(context.Background())
		}
	})
	t.Cleanup(leave)
	config, err := pgx.ParseConfig(replica.URL())
	kit.Check(t, err)
	config.User, config.Password = credential.User, credential.Password
	kit.Eventually(t, "the replica is full", func(ctx context.Context) bool {
		for {
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil { // it does not know the user yet, or it is full
				return isState(err, "53300")
			}
			conns = append(conns, conn)
		}
	})
	return leave
}

// hazard 57: closing the replica's pool ends its own leaked connection, at the replica, and nothing else; the other pool
// goes on, and rotates whatever the replica says.
func TestHazard57_CloseTheReplicasPool(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, 0, rotation.Config{})
	replica := newReplica(t)
	primary, reading := s.primary(t), s.pool(t, replica.URL())
	user := s.user()
	leaked := acquire(t, reading)
	tx, err := primary.Begin(t.Context())
	kit.Check(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", t.Name())
	kit.Check(t, err)
	if n := sessions(t.Context(), t, replica.Superuser, user); n == 0 {
		t.Fatal("the connection that is leaked is not at the replica")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := reading.Shutdown(ctx); err == nil || !strings.Contains(err.Error(), "1 connections were still in use") {
		t.Errorf("Shutdown returned %v, which does not say what was leaked", err)
	}
	if n := sessions(t.Context(), t, replica.Superuser, user); n != 0 {
		t.Errorf("%d sessions are left at the replica", n)
	}
	leaked.release()
	s.events.None(t, rotation.Revoked)
	lag(t, replica)
	s.rotate(t)
	if fresh := freshUser(t, primary); fresh != s.user() || fresh == user {
		t.Errorf("the other pool logs in as %s", fresh)
	}
	_, err = tx.Exec(t.Context(), "INSERT INTO items (name) VALUES ($1)", t.Name())
	kit.Check(t, err)
	kit.Check(t, tx.Commit(t.Context()))
	var n int
	kit.Check(t, primary.QueryRow(t.Context(), "SELECT count(*) FROM items WHERE name = $1", t.Name()).Scan(&n))
	if n != 2 {
		t.Errorf("the other pool's transaction committed %d rows, not 2", n)
	}
	s.waitRevoked(t, 1, user)
	s.events.None(t, rotation.ProbeFailed, rotation.DrainDeadline)
}
