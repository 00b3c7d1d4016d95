package pgvault_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// byCaller is in the context of callers, and so in that of the logins that the pool makes for them.
type byCaller struct{}

func onBehalf(ctx context.Context) context.Context { return context.WithValue(ctx, byCaller{}, true) }

// countingLogins counts those made for callers in a hook of the user's, which is not what the pool counts by.
func countingLogins(n *atomic.Int64) func(*pgvault.Config) {
	return func(c *pgvault.Config) {
		c.Rotation.DrainTimeout = 2 * time.Second
		c.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
			if ctx.Value(byCaller{}) != nil {
				n.Add(1)
			}
			return nil
		}
	}
}

func (s *service) grow(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	var conns []*pgxpool.Conn
	for range n {
		c, err := s.Acquire(ctx)
		check(t, err)
		conns = append(conns, c)
	}
	for _, c := range conns {
		c.Release()
	}
}

// In a saturated pool the logins that callers pay for are counted, each once.
func TestPaidLoginsOfASaturatedPool(t *testing.T) {
	t.Parallel()
	const size, workers = 3, 6
	var logins atomic.Int64
	s := open(t, setup{
		role: testbed.RoleOptions{DefaultTTL: time.Hour}, params: "pool_max_conns=3", configure: countingLogins(&logins),
	})
	s.grow(t.Context(), t, size)
	var stopped atomic.Bool // not a context: a statement that is cancelled costs its connection
	var running sync.WaitGroup
	t.Cleanup(func() { stopped.Store(true); running.Wait() })
	for range workers {
		running.Go(func() {
			for !stopped.Load() {
				if _, err := s.Exec(onBehalf(context.Background()), "SELECT pg_sleep(0.01)"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for deadline := time.Now().Add(patience); logins.Load() == 0 && time.Now().Before(deadline); {
		id := s.Rotator().Status().Generation
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id)
	}
	stopped.Store(true)
	running.Wait()
	paid := s.Rotator().Status().PaidLogins
	if n := logins.Load(); n == 0 || paid != uint64(n) {
		t.Errorf("%d logins were paid for, the rotator counts %d", n, paid)
	}
}

// Nobody pays in a pool that is idle, and a pool that grows is no rotation.
func TestPaidLoginsOfAnIdlePool(t *testing.T) {
	t.Parallel()
	var logins atomic.Int64
	s := open(t, setup{
		role: testbed.RoleOptions{DefaultTTL: time.Hour}, params: "pool_max_conns=6", configure: countingLogins(&logins),
	})
	s.grow(t.Context(), t, 3)
	for id := range uint64(2) {
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id+1)
	}
	s.grow(onBehalf(t.Context()), t, 6)
	if n, paid := logins.Load(), s.Rotator().Status().PaidLogins; n != 3 || paid != 0 {
		t.Errorf("the pool has grown by %d logins, want 3; the rotator counts %d paid, want 0", n, paid)
	}
}

// hazard 46: what died while it was idle is made anew in the background, before anybody needs it.
func TestHazard46_IdlePoolIsMadeAnew(t *testing.T) {
	t.Parallel()
	const size = 4
	var logins atomic.Int64
	s := open(t, setup{
		role: testbed.RoleOptions{DefaultTTL: time.Hour}, params: "pool_max_conns=6", configure: countingLogins(&logins),
	})
	s.grow(t.Context(), t, size)
	check(t, s.bed.Vault.Client.Sys().RevokePrefixWithContext(t.Context(), s.role.CredsPath))
	if _, err := s.Exec(t.Context(), "SELECT count(*) FROM items"); err == nil {
		t.Error("a session whose user is gone may read")
	}
	s.events.Wait(t, rotation.Published, 2)
	eventually(t, "all are there again", func(context.Context) bool {
		stat := s.Stat()
		return stat.IdleConns() == size && s.connections(2) == size
	})
	s.grow(onBehalf(t.Context()), t, size)
	if n, paid := logins.Load(), s.Rotator().Status().PaidLogins; n != 0 || paid != 0 {
		t.Errorf("callers made %d logins, the rotator counts %d", n, paid)
	}
}
