package pgvault_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

func tlsFor(t *testing.T, name string) *tls.Config {
	t.Helper()
	return &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
}

// hazard 35: a role that was dropped goes unnoticed by those who are logged in, whatever Ping says; the
// first refused login rotates, and its caller does not see it.
func TestHazard35_RoleDropped(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=4"})
	old := s.Rotator().Status().User
	held := s.acquire(t)
	s.dropRole(t, old)
	check(t, held.Ping(t.Context())) // proves nothing
	if id := s.Rotator().Status().Generation; id != 1 {
		t.Fatalf("generation %d without a refused login", id)
	}
	fresh := s.acquire(t)
	if user := sessionUser(t, fresh); user == old {
		t.Errorf("logged in as %s", user)
	}
	fresh.Release()
	held.Release()
	s.events.Wait(t, rotation.Revoked, 1)
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
		t.Errorf("%d refused logins were reported, not 1", n)
	}
	for range 10 { // the connection of the dead generation is gone
		check(t, s.Ping(t.Context()))
		if user := sessionUser(t, s); user == old {
			t.Fatalf("handed out a connection of %s", user)
		}
	}
}

// hazard 36: a statement that lacks a grant is the caller's affair.
func TestHazard36_OrdinaryInsufficientPrivilege(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	for range 20 {
		_, err := s.Exec(t.Context(), "SELECT * FROM pg_authid")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Fatalf("reading what is not granted returned %v, not SQLSTATE 42501", err)
		}
	}
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
	if id, n := s.Rotator().Status().Generation, s.issues(); id != 1 || n != 1 {
		t.Errorf("generation %d after %d issues: it rotated", id, n)
	}
	check(t, s.Ping(t.Context()))
}

// hazard 37: a full server and a broken network say nothing about the credential.
func TestHazard37_NotTheCredential(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	s := open(t, setup{params: "pool_max_conns=4", configure: func(c *pgvault.Config) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if broken.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the test broke the network")}
			}
			return dial(ctx, network, addr)
		}
	}})
	s.acquire(t)
	user := pgx.Identifier{s.Rotator().Status().User}.Sanitize()
	check(t, s.bed.Postgres.Exec(t.Context(), "ALTER ROLE "+user+" CONNECTION LIMIT 1"))
	for range 5 {
		_, err := s.Acquire(t.Context())
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "53300" {
			t.Fatalf("one connection too many returned %v, not SQLSTATE 53300", err)
		}
	}
	broken.Store(true)
	for range 5 {
		if _, err := s.Acquire(t.Context()); err == nil {
			t.Fatal("a connection without a network")
		}
	}
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
	if id, n := s.Rotator().Status().Generation, s.issues(); id != 1 || n != 1 {
		t.Errorf("generation %d after %d issues: it rotated", id, n)
	}
	broken.Store(false)
	check(t, s.bed.Postgres.Exec(t.Context(), "ALTER ROLE "+user+" CONNECTION LIMIT -1"))
	s.acquire(t)
}

// hazard 43: however many connections meet the refusal at once, there is one rotation.
func TestHazard43_ManyRefusedAtOnce(t *testing.T) {
	t.Parallel()
	const many = 50
	var g gate
	s := open(t, setup{params: "pool_max_conns=60", configure: func(c *pgvault.Config) {
		c.ConnConfig.AfterNetConnect = func(ctx context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
			return conn, g.Pass(ctx)
		}
	}})
	old := s.Rotator().Status().User
	g.ShutFor(many)
	var workers sync.WaitGroup
	for range many {
		workers.Go(func() {
			conn, err := s.Acquire(t.Context())
			if err != nil {
				t.Errorf("Acquire: %v", err)
				return
			}
			defer conn.Release()
			if user := conn.Conn().Config().User; user == old {
				t.Errorf("logged in as %s, which is dropped", user)
			}
		})
	}
	g.Queue(t, many) // each is about to log in with the old credential
	s.dropRole(t, old)
	g.Open()
	workers.Wait()
	s.events.Wait(t, rotation.Revoked, 1)
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
		t.Errorf("%d refusals were reported, not 1", n)
	}
	if id, n := s.Rotator().Status().Generation, s.issues(); id != 2 || n != 2 {
		t.Errorf("generation %d after %d issues, not 2 after 2", id, n)
	}
}
