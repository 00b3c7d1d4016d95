package pgvault_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 44: wherever a rotation is when the pool is closed, nothing is left of either lease.
func TestHazard44_CloseInMidRotation(t *testing.T) {
	t.Parallel()
	for _, point := range []struct {
		name string
		// waits says that Close has to wait there.
		waits bool
		// reach begins a rotation and returns once it is at the point, with what lets it go on.
		reach func(t *testing.T, s *service, hook *gate) (goOn func())
	}{
		{"issue in flight", true, func(t *testing.T, s *service, _ *gate) func() {
			t.Helper()
			answers := s.vault.Hold(s.role.CredsPath)
			go func() { _ = s.Rotate(context.Background()) }() // ends with the close
			answers.Queue(t, 1)
			return answers.Open
		}},
		{"probe", false, func(t *testing.T, s *service, hook *gate) func() {
			t.Helper()
			hook.ShutFor(1)
			go func() { _ = s.Rotate(context.Background()) }()
			hook.Queue(t, 1)
			return hook.Open
		}},
		{"replacement", false, func(t *testing.T, s *service, hook *gate) func() {
			t.Helper()
			hook.ShutAfter(1, 1) // the first is the probe
			s.rotate(t)
			hook.Queue(t, 1)
			return hook.Open
		}},
		{"draining", true, func(t *testing.T, s *service, _ *gate) func() {
			t.Helper()
			held := s.acquire(t)
			s.rotate(t)
			return held.Release
		}},
		{"revocation", true, func(t *testing.T, s *service, _ *gate) func() {
			t.Helper()
			answers := s.vault.Hold("sys/leases/revoke")
			s.rotate(t)
			answers.Queue(t, 1)
			return answers.Open
		}},
	} {
		t.Run(point.name, func(t *testing.T) {
			t.Parallel()
			var hook gate
			s := open(t, setup{params: "pool_max_conns=4", configure: func(c *pgvault.Config) {
				c.ConnConfig.AfterNetConnect = func(ctx context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
					return conn, hook.Pass(ctx)
				}
			}})
			s.fill(t)
			goOn := point.reach(t, s, &hook)
			closed := make(chan error, 1)
			go func() { closed <- s.Shutdown(context.Background()) }()
			eventually(t, "the pool is closed", func(ctx context.Context) bool {
				return s.AcquireFunc(ctx, func(*pgxpool.Conn) error { return nil }) != nil
			})
			if point.waits {
				select {
				case err := <-closed:
					t.Fatalf("Shutdown did not wait: %v", err)
				case <-time.After(300 * time.Millisecond): // in which it could have returned
				}
			}
			goOn()
			check(t, receive(t, "Shutdown", closed))
			s.checkNothingLeft(t)
			if err := s.Rotate(t.Context()); !errors.Is(err, rotation.ErrClosed) {
				t.Errorf("Rotate on a closed pool returned %v", err)
			}
		})
	}
}

// hazard 44: closing twice, and at the same time, is closing once.
func TestHazard44_CloseIsIdempotent(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	check(t, s.Ping(t.Context()))
	var closers sync.WaitGroup
	for range 5 {
		closers.Go(s.Close)
	}
	closers.Wait()
	check(t, s.Shutdown(t.Context()))
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations, not 1", n)
	}
	s.checkNothingLeft(t)
	if !s.Rotator().Status().Closed {
		t.Error("the rotator is not closed")
	}
}

// hazard 46: an operator revokes all leases of the role under load. No connect fails, there is one
// rotation, and statements that the live sessions are denied are over with it.
func TestHazard46_RevokePrefixUnderLoad(t *testing.T) {
	t.Parallel()
	const workers = 20
	s := open(t, setup{params: "pool_max_conns=20"})
	check(t, s.Ping(t.Context()))
	var denied, done atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	begin := func(n int) {
		for range n {
			load.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					switch err := s.useBriefly(t.Context()); {
					case isDenied(err):
						denied.Add(1)
					case err != nil:
						t.Errorf("under load: %v", err)
						return
					default:
						done.Add(1)
					}
				}
			})
		}
	}
	t.Cleanup(load.Wait)
	begin(2)
	check(t, s.bed.Vault.Client.Sys().RevokePrefixWithContext(t.Context(), s.role.CredsPath))
	begin(workers - 2) // who need more connections than there are
	s.events.Wait(t, rotation.Revoked, 1)
	from, before := done.Load(), denied.Load()
	eventually(t, "the load goes on", func(context.Context) bool { return done.Load() > from+100 })
	close(stop)
	load.Wait()
	if n := denied.Load() - before; n > 0 {
		t.Errorf("%d statements were denied after the old credential was gone", n)
	}
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
		t.Errorf("%d refused logins were reported, not 1", n)
	}
	if id, n := s.Rotator().Status().Generation, s.issues(); id != 2 || n != 2 {
		t.Errorf("generation %d after %d issues, not 2 after 2", id, n)
	}
	t.Logf("%d statements, %d of them denied to sessions whose user was dropped", done.Load(), denied.Load())
}

// useBriefly takes a connection, reads from a table and keeps the connection for a moment.
func (s *service) useBriefly(ctx context.Context) error {
	conn, err := s.Acquire(ctx)
	if err != nil {
		return errors.Join(errors.New("a connect failed"), err)
	}
	defer conn.Release()
	var n int
	err = conn.QueryRow(ctx, "SELECT count(*) FROM accounts WHERE owner = $1", "nobody").Scan(&n)
	time.Sleep(2 * time.Millisecond) // in use
	return err
}

// isDenied tells what PostgreSQL says to a live session whose user is dropped.
func isDenied(err error) bool {
	var connect *pgconn.ConnectError
	var pgErr *pgconn.PgError
	return !errors.As(err, &connect) && errors.As(err, &pgErr) && (pgErr.Code == "42501" || pgErr.Code == "42704")
}

// While the pool is being closed nothing is logged in in place of connections that are gone.
func TestClose_LogsInNowhereDuringADrain(t *testing.T) {
	t.Parallel()
	const window = 4 * time.Second
	var logins atomic.Int64
	s := open(t, setup{params: "pool_max_conns=6", configure: func(c *pgvault.Config) {
		c.Rotation.DrainTimeout = window
		c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			logins.Add(1)
			return nil
		}
	}})
	held := s.take(t, 6)
	s.rotate(t)
	s.events.Wait(t, rotation.Draining, 1)
	release(held[1:])
	before := logins.Load()
	time.AfterFunc(window/2, held[0].Release) // many looks of the replacer later
	s.Close()
	if n := logins.Load() - before; n > 1 { // one may have been under way
		t.Errorf("%d logins while the pool was being closed", n)
	}
}
