package pgvault_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 29: a new credential that cannot log in is given back, the old one stays, and it is tried
// again.
func TestHazard29_NewCredentialCannotLogIn(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: drainTimeout(time.Second)}) // which also bounds how long it is tried
	old := sessionUser(t, s)
	s.updateRole(t, testbed.RoleOptions{Create: createUser(s.bed, "NOLOGIN")})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := s.Rotate(ctx)
	if !errors.Is(err, rotation.ErrRefused) || !strings.Contains(err.Error(), "28000") {
		t.Errorf("Rotate returned %v, which does not say that the new login was refused", err)
	}
	s.events.Wait(t, rotation.Rejected, 2)
	s.events.Wait(t, rotation.Revoked, 2)
	if user := sessionUser(t, s); user != old {
		t.Errorf("logged in as %s", user)
	}
	eventually(t, "the old lease only", func(ctx context.Context) bool {
		leases, err := s.role.Leases(ctx)
		check(t, err)
		return len(leases) == 1
	})
	s.events.None(t, rotation.Published, rotation.CredentialLost)

	s.updateRole(t, testbed.RoleOptions{})
	s.rotate(t)
	s.waitRevoked(t, 1, old)
}

// hazard 29: the same where the lease demands a rotation: it goes on trying, at a bounded rate, and
// rotates as soon as it can.
func TestHazard29_TriesAgainByItself(t *testing.T) {
	t.Parallel()
	options := leaseOf(16*time.Second, 16*time.Second)
	s := open(t, setup{role: options, configure: drainTimeout(3 * time.Second)})
	check(t, s.Ping(t.Context()))
	options.Create = createUser(s.bed, "NOLOGIN")
	s.updateRole(t, options)
	s.events.Wait(t, rotation.ProbeFailed, 2)
	options.Create = nil
	s.updateRole(t, options)
	e := s.events.Wait(t, rotation.Published, 0)
	check(t, s.Ping(t.Context()))
	if e.Generation > 6 {
		t.Errorf("generation %d was the first that could log in: too many were issued", e.Generation)
	}
	for _, rejected := range s.events.Of(rotation.Rejected, 0) {
		s.events.Wait(t, rotation.Revoked, rejected.Generation)
	}
}

// hazard 52: a server that is full when the new credential is tried says nothing about it: it is tried
// again until there is room.
func TestHazard52_ServerFullForAWhile(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: drainTimeout(time.Second)}) // which also bounds how long a refusal is tried
	old := sessionUser(t, s)
	s.updateRole(t, testbed.RoleOptions{Create: createUser(s.bed, "LOGIN CONNECTION LIMIT 0")})
	rotated := make(chan error, 1)
	go func() { rotated <- s.Rotate(t.Context()) }()
	for _, e := range s.events.WaitN(t, rotation.ProbeFailed, 2, 6) { // over 1.5 s
		if !strings.Contains(e.Err.Error(), "53300") {
			t.Errorf("the probe failed with %v", e.Err)
		}
	}
	if user := sessionUser(t, s); user != old {
		t.Errorf("logged in as %s", user)
	}
	g, ok := s.generation(2)
	if !ok || g.State != rotation.StateIssued {
		t.Fatalf("the new credential is given up: %+v", g)
	}
	check(t, s.bed.Postgres.Exec(t.Context(), "ALTER ROLE "+pgx.Identifier{g.User}.Sanitize()+" CONNECTION LIMIT -1"))
	check(t, receive(t, "Rotate", rotated))
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.Rejected)
}

// hazard 52: if there never is, it is put in place before the old one ends. What is open stays open as
// long as it may, since nothing new can be had.
func TestHazard52_ServerFullToTheEnd(t *testing.T) {
	t.Parallel()
	s := open(t, setup{role: leaseOf(16*time.Second, 16*time.Second)})
	held := s.acquire(t)
	options := leaseOf(16*time.Second, 16*time.Second)
	options.Create = createUser(s.bed, "LOGIN CONNECTION LIMIT 0")
	s.updateRole(t, options)
	s.events.Wait(t, rotation.ProbeFailed, 2)
	check(t, held.Ping(t.Context()))
	held.Release()
	s.events.Wait(t, rotation.Published, 2)
	s.events.None(t, rotation.Rejected, rotation.CredentialLost)
	if n := s.issues(); n != 2 {
		t.Errorf("%d credentials were issued, not 2", n)
	}
	options.Create = nil
	s.updateRole(t, options)
	s.events.Wait(t, rotation.Published, 3)
	check(t, s.Ping(t.Context()))
	s.events.None(t, rotation.LoginRefused)
}

// hazard 53: as with pgxpool, it is no failure of New that the database cannot be reached.
func TestHazard53_DatabaseUnreachableAtNew(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	s := open(t, setup{params: "pool_min_conns=2&pool_health_check_period=50ms", configure: func(c *pgvault.Config) {
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !up.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the test keeps the network down")}
			}
			return dial(ctx, network, addr)
		}
	}})
	if err := s.Ping(t.Context()); err == nil {
		t.Fatal("Ping succeeded without a network")
	}
	up.Store(true)
	check(t, s.Ping(t.Context()))
	eventually(t, "MinConns connections", func(context.Context) bool { return s.Stat().TotalConns() >= 2 })
	if n := s.issues(); n != 1 {
		t.Errorf("%d credentials were issued, not 1", n)
	}
}

// hazard 53: a refused login fails New, and the lease is given back.
func TestHazard53_RefusedAtNew(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	s.updateRole(t, testbed.RoleOptions{Create: createUser(s.bed, "NOLOGIN")})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := pgvault.NewWithConfig(ctx, s.config)
	if !errors.Is(err, rotation.ErrRefused) || !strings.Contains(err.Error(), "28000") {
		t.Errorf("New returned %v, which does not say that the login was refused", err)
	}
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations, not 1", n)
	}
	s.checkNothingLeft(t)
}
