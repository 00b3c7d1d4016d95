package sharing_test

import (
	"context"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazards 29 and 56: a replica that never learns the new user holds it back until near the old one's end; then it is
// enough that the primary accepts. The primary's pool notices nothing, and the logins that the replica goes on refusing
// cost no further credential.
func TestHazard56_ReplicaNeverLearns(t *testing.T) {
	t.Parallel()
	const ttl = 30 * time.Second
	s := openPostgres(t, ttl, rotation.Config{})
	replica := newReplica(t)
	primary, reading := s.primary(t), s.pool(t, replica.URL())
	old := s.user()
	if user := sessionUser(t, reading); user != old {
		t.Errorf("logged in as %s", user)
	}
	expires := s.Status().Expires
	writing := startLoad(t, 1, "primary, each time by a new login", func(ctx context.Context) error { primary.Reset(); return write(ctx, primary, t.Name()) })
	lag(t, replica)
	e := s.events.Wait(t, rotation.Published, 2)
	// Connections are replaced from a fifth of the lease before its end on; half of that is near.
	if left := expires.Sub(e.Time); left <= 0 || left > ttl/10+time.Second {
		t.Errorf("published %v before the end of the old credential, which is not near it", left)
	}
	s.events.Wait(t, rotation.ProbeFailed, 2)
	writing.more(t)
	s.waitRevoked(t, 1, old)

	for range 4 {
		if err := read(t.Context(), reading, t.Name()); !isState(err, "28P01") {
			t.Errorf("the replica's pool, whose server does not know the user, returned %v", err)
		}
		writing.more(t)
	}
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
	kit.Check(t, replica.CatchUp(t.Context()))
	kit.Eventually(t, "the replica's pool serves", func(ctx context.Context) bool { return read(ctx, reading, t.Name()) == nil })
	writing.end()
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n > 1 {
		t.Errorf("%d rotations because the replica refused a login", n)
	}
}

// hazard 56: a replica that is down does not hold up a rotation, alone or in one connection string with the primary.
// When it is back it serves with the current credential, and as long as it has not caught up its refusals cost
// neither the primary's pool a failure nor Vault a credential each.
func TestHazard56_DeadReplica(t *testing.T) {
	t.Parallel()
	s := openPostgres(t, 0, rotation.Config{DrainTimeout: 2 * time.Second}) // idle connections to a dead replica are there until then
	replica := newReplica(t)
	primary, both := s.primary(t), s.both(t, replica.Addr, shared.Postgres.Addr, "any")
	reading := s.pool(t, replica.URL())
	kit.Check(t, reading.Ping(t.Context()))
	writing := startLoad(t, 1, "primary, each time by a new login", func(ctx context.Context) error { primary.Reset(); return write(ctx, primary, t.Name()) })

	lag(t, replica)
	kit.Check(t, replica.Stop(t.Context()))
	usingBoth := startLoad(t, 2, "both", func(ctx context.Context) error { return write(ctx, both, t.Name()) })
	for id := uint64(1); id <= 3; id++ {
		old := s.user()
		s.rotate(t)
		writing.more(t)
		usingBoth.more(t)
		s.waitRevoked(t, id, old)
	}
	usingBoth.end() // at its first server it would find the replica again, which can only be read
	s.events.None(t, rotation.Rejected, rotation.LoginRefused, rotation.CredentialLost)
	if n := len(s.events.Of(rotation.ProbeFailed, 0)); n > 0 {
		t.Errorf("the dead replica held up rotations %d times", n)
	}

	kit.Check(t, replica.Restart(t.Context())) // as it was three users ago
	for range 5 {
		if err := read(t.Context(), reading, t.Name()); !isState(err, "28P01") {
			t.Errorf("the replica's pool, whose server does not know the user yet, returned %v", err)
		}
		if n := len(s.events.Of(rotation.CredentialLost, 0)); n > 1 {
			t.Fatalf("the primary's pool went without a credential %d times because of the replica", n)
		}
		writing.more(t)
	}
	if n := len(s.events.Of(rotation.Published, 0)); n > 5 {
		t.Errorf("%d rotations because the replica refused logins", n-4)
	}
	kit.Check(t, replica.CatchUp(t.Context()))
	kit.Eventually(t, "the replica's pool serves", func(ctx context.Context) bool { return read(ctx, reading, t.Name()) == nil })
	if user := freshUser(t, reading); user != s.user() {
		t.Errorf("the replica's pool logs in as %s", user)
	}
	s.rotate(t)
	if user := freshUser(t, reading); user != s.user() {
		t.Errorf("the replica's pool logs in as %s", user)
	}
	writing.more(t)
	writing.end()
}
