package pgvault_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// steady runs statements that need no grant on as many connections as it is given workers, until stopped.
type steady struct {
	stop    chan struct{}
	workers sync.WaitGroup
	done    atomic.Int64
}

func (s *service) steady(t *testing.T, workers int) *steady {
	t.Helper()
	load := &steady{stop: make(chan struct{})}
	t.Cleanup(load.end)
	for range workers {
		load.workers.Go(func() {
			for {
				select {
				case <-load.stop:
					return
				case <-time.After(time.Millisecond):
				}
				if _, err := s.Exec(context.Background(), "SELECT pg_sleep($1)", 0.001); err != nil {
					t.Errorf("an open connection failed: %v", err)
					return
				}
				load.done.Add(1)
			}
		})
	}
	return load
}

func (l *steady) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.workers.Wait()
}

// progress waits until the load has done some more.
func (l *steady) progress(t *testing.T) {
	t.Helper()
	from := l.done.Load()
	eventually(t, "the open connections go on", func(context.Context) bool { return l.done.Load() > from+20 })
}

// fill opens every connection that the pool may have.
func (s *service) fill(t *testing.T) {
	t.Helper()
	for range s.Config().MaxConns {
		defer s.acquire(t).Release()
	}
}

// outages are the ways in which Vault can be away.
var outages = []struct {
	name     string
	down, up func(context.Context, *testbed.Vault) error
}{
	{
		"sealed",
		func(ctx context.Context, v *testbed.Vault) error { return v.Seal(ctx) },
		func(ctx context.Context, v *testbed.Vault) error { return v.Unseal(ctx) },
	},
	{
		"killed",
		func(_ context.Context, v *testbed.Vault) error { return v.Kill() },
		func(ctx context.Context, v *testbed.Vault) error { return v.Restart(ctx) },
	},
	{
		"paused",
		func(_ context.Context, v *testbed.Vault) error { return v.Pause() },
		func(_ context.Context, v *testbed.Vault) error { return v.Resume() },
	},
}

// takeDown takes Vault down and returns what brings it up again, which the end of the test does at the
// latest.
func takeDown(t *testing.T, outage int, v *testbed.Vault) (up func()) {
	t.Helper()
	check(t, outages[outage].down(t.Context(), v))
	var once sync.Once
	up = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			check(t, outages[outage].up(ctx, v))
		})
	}
	t.Cleanup(up)
	return up
}

// hazard 25: while Vault is away for less than the lease lasts, everything goes on, Vault is asked at a
// bounded rate, and afterwards the lease is renewed or replaced.
func TestHazard25_VaultAwayForAWhile(t *testing.T) {
	t.Parallel()
	for i, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			s := open(t, setup{
				bed: faulty.use(t), role: leaseOf(10*time.Second, time.Hour),
				params: "pool_max_conns=3", configure: drainTimeout(2 * time.Second),
			})
			s.fill(t)
			load := s.steady(t, 3)
			up := takeDown(t, i, s.bed.Vault)
			before := len(s.vault.Asked(""))
			// The renewal is due after 6 to 7 s, and goes wrong until there are 2 s left.
			eventually(t, "Vault is asked in vain", func(context.Context) bool {
				return outage.name == "paused" || len(s.events.Of(rotation.RenewFailed, 1)) >= 2
			})
			load.progress(t)
			up()
			eventually(t, "a lease again", func(context.Context) bool {
				return len(s.events.Of(rotation.Renewed, 0))+len(s.events.Of(rotation.Published, 0)) > 0
			})
			load.progress(t)
			if n := len(s.vault.Asked("")) - before; n > 20 {
				t.Errorf("Vault was asked %d times in some seconds", n)
			}
			s.events.None(t, rotation.CredentialLost, rotation.LoginRefused)
			load.end()
		})
	}
}

// hazard 26: when it is away for longer than that, open connections go on, new ones fail at once with an
// error that says since when and why, and Vault is asked at a bounded rate. It recovers by itself.
func TestHazard26_VaultAwayPastTheEnd(t *testing.T) {
	t.Parallel()
	const lifetime = 6 * time.Second
	for i, outage := range outages {
		t.Run(outage.name, func(t *testing.T) {
			var dials atomic.Int64
			s := open(t, setup{
				bed: faulty.use(t), role: leaseOf(lifetime, lifetime), params: "pool_max_conns=3",
				configure: func(c *pgvault.Config) {
					dial := c.ConnConfig.DialFunc
					c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
						dials.Add(1)
						return dial(ctx, network, addr)
					}
				},
			})
			open := []*pgxpool.Conn{s.acquire(t), s.acquire(t)} // the third cannot be had
			for _, conn := range open {
				conn.Release()
			}
			load := s.steady(t, 2)
			up := takeDown(t, i, s.bed.Vault)
			start, before := time.Now(), len(s.vault.Asked(""))
			lost := s.events.Wait(t, rotation.CredentialLost, 1)
			load.progress(t)
			load.end()
			dialled := dials.Load()
			none := s.noCredential(t)
			if n := dials.Load() - dialled; n > 0 {
				t.Errorf("the database was dialled %d times without a credential", n)
			}
			if none.Since.Before(start) || none.Since.After(time.Now()) || none.Reason != lost.Reason || none.Unwrap() == nil {
				t.Errorf("the error says since %v, because %q: %v", none.Since, none.Reason, none.Unwrap())
			}
			load = s.steady(t, 2)
			load.progress(t)
			for i == 0 && time.Since(start) < 3*lifetime { // three lifetimes of the lease
				load.progress(t)
				time.Sleep(100 * time.Millisecond)
			}
			asked, away := len(s.vault.Asked(""))-before, time.Since(start)
			steps := len(s.events.Of(rotation.IssueFailed, 0)) + len(s.events.Of(rotation.RenewFailed, 0))
			if limit := min(10+int(away/time.Second), steps+2); asked > limit { // one is under way, another's event
				t.Errorf("Vault was asked %d times in %v and %d steps", asked, away, steps)
			}
			t.Logf("Vault was asked %d times in %v", asked, away.Round(time.Second))
			up()
			s.events.Wait(t, rotation.CredentialBack, 0)
			load.progress(t)
			load.end()
			s.fill(t)
			if user := sessionUser(t, s); user != s.Rotator().Status().User {
				t.Errorf("served by %s", user)
			}
			_, err := s.Exec(t.Context(), insertItem, t.Name())
			check(t, err)
			s.events.None(t, rotation.LoginRefused)
			s.Close()
			s.waitNothingLeft(t) // also what the outage has left, whose end Vault sees to
		})
	}
}

// noCredential returns the error of one who needs a new connection, the two that are open being in use,
// once it comes without waiting.
func (s *service) noCredential(t *testing.T) (none *rotation.NoCredentialError) {
	t.Helper()
	defer s.acquire(t).Release()
	defer s.acquire(t).Release()
	eventually(t, "an error at once", func(context.Context) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := s.Acquire(ctx)
		if err == nil {
			t.Fatal("a connection without a credential")
		}
		return ctx.Err() == nil && errors.As(err, &none)
	})
	return none
}

// hazard 10: with Vault hanging and the lease at its end, a caller is back by its deadline and holds no
// slot, and Close keeps its bound. What Vault does after that is undone.
func TestHazard10_VaultHangs(t *testing.T) {
	t.Parallel()
	s := open(t, setup{bed: faulty.use(t), role: leaseOf(6*time.Second, 6*time.Second), params: "pool_max_conns=2"})
	held := s.acquire(t)
	up := takeDown(t, 2, s.bed.Vault)
	s.events.Wait(t, rotation.CredentialLost, 1)
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		var err error
		within(t, 300*time.Millisecond, "Acquire", func() { _, err = s.Acquire(ctx) })
		cancel()
		var none *rotation.NoCredentialError
		if !errors.As(err, &none) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Acquire returned %v", err)
		}
		if n := s.Stat().TotalConns(); n != 1 {
			t.Errorf("%d slots are taken, where one connection is in use", n)
		}
	}
	check(t, held.Ping(t.Context()))
	held.Release()
	within(t, 2*time.Second, "Shutdown", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err := s.Shutdown(ctx)
		if err == nil || !strings.Contains(err.Error(), "in flight") || !strings.Contains(err.Error(), "not revoked") {
			t.Errorf("Shutdown returned %v, which does not say what is left to be done", err)
		}
	})
	up()
	eventually(t, "Vault answers what it was asked for", func(context.Context) bool { return s.issues() == 2 })
	s.waitNothingLeft(t)
}

// hazard 27: answers of issues are lost. Each may have made a user that we know nothing of: there is one
// more attempt per step of the backoff, and Vault ends what is left.
func TestHazard27_IssueAnswersLost(t *testing.T) {
	t.Parallel()
	const lost = 3
	s := open(t, setup{role: leaseOf(5*time.Second, 5*time.Second)})
	check(t, s.Ping(t.Context()))
	s.vault.Lose(s.role.CredsPath, lost)
	s.events.Wait(t, rotation.Published, 2)
	if n := s.issues(); n != 1+lost+1 {
		t.Errorf("%d credentials were asked for, where %d answers were lost", n, lost)
	}
	failed := s.events.Of(rotation.IssueFailed, 0)
	if len(failed) != lost {
		t.Errorf("%d failed issues were reported, not %d", len(failed), lost)
	}
	for i, e := range failed {
		if e.Attempt != i+1 || !e.RetryAt.After(e.Time) {
			t.Errorf("attempt %d is to be followed at once", e.Attempt)
		}
	}
	check(t, s.Ping(t.Context()))
	s.Close()
	s.waitNothingLeft(t)
}

// hazard 48: whoever asked for a rotation goes away while Vault is at it. It goes on, and is used.
func TestHazard48_RotateAbandoned(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	old := sessionUser(t, s)
	answers := s.vault.Hold(s.role.CredsPath)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var err error
	within(t, 200*time.Millisecond, "Rotate", func() { err = s.Rotate(ctx) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Rotate returned %v", err)
	}
	answers.Open()
	s.events.Wait(t, rotation.Published, 2)
	s.waitRevoked(t, 1, old)
	if n := s.issues(); n != 2 {
		t.Errorf("%d credentials were asked for, not 2", n)
	}
}

// hazard 48: New's context ends while Vault is at it. New is back at once, and what comes later is
// given back.
func TestHazard48_NewAbandoned(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	answers := s.vault.Hold(s.role.CredsPath)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var err error
	within(t, 300*time.Millisecond, "New", func() { _, err = pgvault.NewWithConfig(ctx, s.config) })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no credential was issued in time") {
		t.Errorf("New returned %v", err)
	}
	answers.Queue(t, 1)
	leases, err := s.role.Leases(t.Context())
	check(t, err)
	users, err := s.role.Users(t.Context())
	check(t, err)
	if len(leases) != 1 || len(users) != 1 {
		t.Errorf("Vault has made %d leases and %d users, where one was asked for", len(leases), len(users))
	}
	answers.Open()
	s.waitNothingLeft(t)
	// Vault may have done it before its answer has passed the proxy, which counts then.
	eventually(t, "it was revoked, once", func(context.Context) bool { return s.revocations() == 1 })
}
