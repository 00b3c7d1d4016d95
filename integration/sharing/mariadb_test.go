package sharing_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// openMariaDB is open for MariaDB.
func openMariaDB(t *testing.T, config rotation.Config) *site {
	t.Helper()
	role, err := shared.MariaDBRole(t.Context(), testbed.RoleOptions{})
	kit.Check(t, err)
	return open(t, role, config)
}

// db opens a DB on the Rotator. The end of the test closes it.
func (s *site) db(t *testing.T, addr string) *sql.DB {
	t.Helper()
	config, err := mysqlvault.ParseConfig(strings.Replace(shared.MariaDB.DSN("app"), shared.MariaDB.Addr, addr, 1))
	kit.Check(t, err)
	config.Rotator = s.Rotator
	connector, err := mysqlvault.NewConnector(t.Context(), config)
	kit.Check(t, err)
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	t.Cleanup(func() { _ = db.Close() }) // what it says is the test's to look at
	return db
}

// newProxy starts one before MariaDB. While it is stopped connections are cut and refused.
func newProxy(t *testing.T) *toxiproxy.Proxy {
	t.Helper()
	silent := zerolog.Nop()
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), silent), "replica", "127.0.0.1:0", shared.MariaDB.Addr)
	kit.Check(t, proxy.Start())
	t.Cleanup(proxy.Stop)
	return proxy
}

func insert(ctx context.Context, db *sql.DB, name string) error {
	_, err := db.ExecContext(ctx, "INSERT INTO items (name) VALUES (?)", name)
	return err
}

// inUse takes a connection and tells whom it has logged in as.
func inUse(t *testing.T, db *sql.DB) (conn *sql.Conn, user string) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	kit.Check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	kit.Check(t, conn.QueryRowContext(t.Context(), "SELECT substring_index(user(), '@', 1)").Scan(&user))
	return conn, user
}

// hazard 47: two DBs on one Rotator, under load: nothing fails, and each lease is revoked once, when both have drained.
func TestHazard47_TwoDBs(t *testing.T) {
	t.Parallel()
	const rotations = 5
	s := openMariaDB(t, rotation.Config{DrainTimeout: 10 * time.Second})
	a, b := s.db(t, shared.MariaDB.Addr), s.db(t, newProxy(t).Listen)
	loads := []*load{
		startLoad(t, 3, "one", func(ctx context.Context) error { return insert(ctx, a, t.Name()) }),
		startLoad(t, 3, "the other", func(ctx context.Context) error { return insert(ctx, b, t.Name()) }),
	}
	for id := uint64(1); id <= rotations; id++ {
		inA, userA := inUse(t, a)
		inB, userB := inUse(t, b)
		if userA != s.user() || userB != s.user() {
			t.Errorf("logged in as %s and %s, not both as %s", userA, userB, s.user())
		}
		s.rotate(t)
		for _, l := range loads {
			l.more(t)
		}
		kit.Check(t, inA.Close())
		s.waitConnections(t, id, 1)
		if !s.hasUser(t, userB) {
			t.Error("the lease was revoked while the other DB uses it")
		}
		kit.Check(t, inB.Close())
		s.waitRevoked(t, id, userB)
		s.checkLeases(t, 1)
	}
	for _, l := range loads {
		l.end()
	}
	s.events.None(t, rotation.DrainDeadline, rotation.LoginRefused, rotation.Rejected, rotation.RevokeFailed)
	if issues, revocations := s.issues(), s.revocations(); issues != rotations+1 || revocations != rotations {
		t.Errorf("%d issues and %d revocations, not %d and %d", issues, revocations, rotations+1, rotations)
	}
}

// hazard 56: one that cannot be reached does not hold up a rotation, and is served with the current credential when it
// can be reached again.
func TestHazard56_OneOfTwoDBsUnreachable(t *testing.T) {
	t.Parallel()
	s := openMariaDB(t, rotation.Config{DrainTimeout: time.Second})
	proxy := newProxy(t)
	a, b := s.db(t, shared.MariaDB.Addr), s.db(t, proxy.Listen)
	kit.Check(t, b.PingContext(t.Context()))
	writing := startLoad(t, 3, "the one that can be reached", func(ctx context.Context) error { return insert(ctx, a, t.Name()) })
	proxy.Stop()
	for id := uint64(1); id <= 3; id++ {
		old := s.user()
		s.rotate(t)
		writing.more(t)
		s.waitRevoked(t, id, old)
	}
	if err := insert(t.Context(), b, t.Name()); err == nil {
		t.Error("the one that cannot be reached can be")
	}
	s.events.None(t, rotation.Rejected, rotation.ProbeFailed, rotation.LoginRefused, rotation.CredentialLost)
	kit.Check(t, proxy.Start())
	if _, user := inUse(t, b); user != s.user() {
		t.Errorf("logged in as %s, not %s", user, s.user())
	}
	writing.more(t)
	writing.end()
}

// hazard 57: closing one ends its own leaked connection, at the server too, and leaves the other's.
func TestHazard57_CloseOneOfTwoDBs(t *testing.T) {
	t.Parallel()
	s := openMariaDB(t, rotation.Config{CloseTimeout: 3 * time.Second})
	a, b := s.db(t, shared.MariaDB.Addr), s.db(t, newProxy(t).Listen)
	inA, user := inUse(t, a)
	leaked, _ := inUse(t, b)
	var id int
	kit.Check(t, leaked.QueryRowContext(t.Context(), "SELECT connection_id()").Scan(&id))
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "1 connections were still in use") {
		t.Errorf("Close returned %v, which does not say what was leaked", err)
	}
	if err := leaked.PingContext(t.Context()); err == nil {
		t.Error("the leaked connection serves")
	}
	left := func(ctx context.Context) []testbed.Session {
		found, err := shared.MariaDB.Sessions(ctx, user)
		kit.Check(t, err)
		return found
	}
	if slices.ContainsFunc(left(t.Context()), func(one testbed.Session) bool { return one.PID == id }) {
		t.Error("the leaked connection's session is still there")
	}
	kit.Eventually(t, "the other DB's session alone", func(ctx context.Context) bool { return len(left(ctx)) == 1 }) // who ended it has said goodbye
	kit.Check(t, inA.PingContext(t.Context()))
	s.events.None(t, rotation.Revoked)
	s.rotate(t)
	kit.Check(t, inA.Close())
	s.waitRevoked(t, 1, user)
	kit.Check(t, insert(t.Context(), a, t.Name()))
}
