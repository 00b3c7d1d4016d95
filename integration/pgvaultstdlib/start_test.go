package pgvaultstdlib_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazards 10, 48: sql.Open sends nothing. The first callers wait for the credential within their own contexts
// and no longer, and however many give up, it is issued once.
func TestHazard48_LazyStart(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	db, err := sql.Open(stdlib.DriverName, s.connString)
	s.use(t, db, err, setup{})
	if n := len(s.vault.Asked("")); n != 0 {
		t.Errorf("sql.Open asked Vault %d times", n)
	}
	answers := s.vault.Hold(s.role.CredsPath)
	const callers, deadline = 60, 50 * time.Millisecond
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			time.Sleep(time.Duration(i) * deadline / 4) // one after the other, some at a time
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			err := s.PingContext(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("without a credential the ping returned: %v", err)
			}
		})
	}
	kit.Within(t, callers*deadline, "pings", running.Wait)
	answers.Queue(t, 1)
	answers.Open()
	kit.Check(t, s.PingContext(t.Context()))
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	if n := s.issues(); n != 1 || len(leases) != 1 {
		t.Errorf("Vault was asked for %d credentials and has %d leases", n, len(leases))
	}
}

// A token that may not read the path is an error at once, whatever the caller's patience, and not for ever.
func TestStart_Denied(t *testing.T) {
	t.Parallel()
	set := setup{policy: `path "nothing" { capabilities = ["read"] }`}
	s := prepare(t, set)
	db, err := sql.Open(stdlib.DriverName, s.connString)
	s.use(t, db, err, set)
	for range 3 {
		err := error(nil)
		kit.Within(t, 0, "the ping", func() { err = s.PingContext(context.Background()) })
		var none *rotation.NoCredentialError
		if !errors.As(err, &none) || !errors.Is(err, rotation.ErrDenied) {
			t.Errorf("the ping returned: %v", err)
		}
	}
	s.giveToken(t, s.role.Policy)
	kit.Eventually(t, "recovered", func(ctx context.Context) bool { return s.PingContext(ctx) == nil })
}

// A DB that is closed while its first credential is on its way leaves nothing, and the caller that waits for
// it is told.
func TestStart_ClosedMeanwhile(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	db, err := sql.Open(stdlib.DriverName, s.connString)
	s.use(t, db, err, setup{})
	answers := s.vault.Hold(s.role.CredsPath)
	pinged, closed := make(chan error, 1), make(chan error, 1)
	go func() { pinged <- s.PingContext(context.Background()) }()
	answers.Queue(t, 1)
	go func() { closed <- s.Close() }()
	if err := kit.Receive(t, "the ping's error", pinged); err == nil {
		t.Error("the ping succeeded on a DB that is closed")
	}
	answers.Open()
	kit.Check(t, kit.Receive(t, "the close", closed))
	s.checkNothingLeft(t)
}

// RotatorOf starts the pool, and is the rotator that the DB's connections follow.
func TestRotatorOf(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	db, err := sql.Open(stdlib.DriverName, s.connString)
	s.use(t, db, err, setup{})
	r := s.rotator()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, r.Await(ctx))
	if n := s.issues(); n != 1 {
		t.Errorf("Vault was asked %d times", n)
	}
	for range 2 {
		if user, _ := session(t, s); user != r.Status().User {
			t.Errorf("the session is of %s, the rotator's user is %s", user, r.Status().User)
		}
		kit.Check(t, r.Rotate(ctx))
		kit.Eventually(t, "the new credential in use", func(context.Context) bool {
			user, _ := session(t, s)
			return user == r.Status().User
		})
	}
}

// Two DBs of one driver have a pool and a lease each, and share a Rotator if that is what the config says.
func TestRegisterDriver_TwoDBs(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	own, err := sql.Open(s.register(t), "vault_drain_timeout=1m")
	kit.Check(t, err)
	t.Cleanup(func() { _ = own.Close() })
	if user, _ := session(t, own); user == s.user() {
		t.Error("two DBs share a user")
	}
	kit.Check(t, own.Close())

	s.config.Vault, s.config.Rotator = pgvault.Config{}.Vault, s.rotator()
	s.config.Rotation = rotation.Config{}
	sharing, err := sql.Open(s.register(t), "")
	kit.Check(t, err)
	t.Cleanup(func() { _ = sharing.Close() })
	if user, _ := session(t, sharing); user != s.user() || stdlib.RotatorOf(sharing) != s.rotator() {
		t.Errorf("the session is of %s, not of the shared rotator's %s", user, s.user())
	}
	kit.Check(t, sharing.Close())
	s.events.None(t, rotation.Revoked, rotation.Closed)
	kit.Check(t, s.PingContext(t.Context()))
}
