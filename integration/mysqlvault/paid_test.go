package mysqlvault_test

import (
	"context"
	"database/sql"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// byCaller is in the context of callers, and so in that of the logins that are made for them.
type byCaller struct{}

func onBehalf(ctx context.Context) context.Context { return context.WithValue(ctx, byCaller{}, true) }

// countingLogins counts those made for callers in a dialer of the user's, which is not what the connector counts by. Background
// ones wait at a gate that the first of a caller's opens.
func countingLogins(n *atomic.Int64, background *kit.Gate) func(*mysqlvault.Config) {
	return func(c *mysqlvault.Config) {
		c.Rotation.DrainTimeout = 4 * time.Second
		c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if ctx.Value(byCaller{}) != nil {
				n.Add(1)
				background.Open()
			} else if err := background.Pass(ctx); err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	}
}

func (s *service) grow(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	s.SetMaxOpenConns(n)
	s.SetMaxIdleConns(n)
	var conns []*sql.Conn
	for range n {
		c, err := s.Conn(ctx)
		kit.Check(t, err)
		kit.Check(t, c.PingContext(ctx))
		conns = append(conns, c)
	}
	for _, c := range conns {
		kit.Check(t, c.Close())
	}
}

func (s *service) rotateAway(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	id := s.connector.Rotator().Status().Generation
	kit.Check(t, s.connector.Rotate(ctx))
	s.events.Wait(t, rotation.Revoked, id)
}

// In a saturated pool the logins that callers pay for are counted, each once.
func TestPaidLoginsOfASaturatedPool(t *testing.T) {
	t.Parallel()
	const size, workers = 3, 6
	var logins atomic.Int64
	var background kit.Gate
	s := open(t, setup{role: testbed.RoleOptions{DefaultTTL: time.Hour}, configure: countingLogins(&logins, &background)})
	s.grow(t.Context(), t, size)
	var stopped atomic.Bool // not a context: a statement that is cancelled costs its connection
	var running sync.WaitGroup
	t.Cleanup(func() { stopped.Store(true); running.Wait() })
	for range workers {
		running.Go(func() {
			for !stopped.Load() {
				if _, err := s.ExecContext(onBehalf(context.Background()), "DO SLEEP(0.01)"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	kit.Check(t, s.connector.Rotate(t.Context()))
	background.Shut() // what it can have ready in time callers do not have to pay for
	s.events.Wait(t, rotation.Revoked, 1)
	stopped.Store(true)
	running.Wait()
	paid := s.connector.Rotator().Status().PaidLogins
	if n := logins.Load(); n == 0 || paid != uint64(n) {
		t.Errorf("%d logins were paid for, the rotator counts %d", n, paid)
	}
}

// Nobody pays in a pool that is idle, and a pool that grows is no rotation.
func TestPaidLoginsOfAnIdlePool(t *testing.T) {
	t.Parallel()
	var logins atomic.Int64
	s := open(t, setup{role: testbed.RoleOptions{DefaultTTL: time.Hour}, configure: countingLogins(&logins, &kit.Gate{})})
	s.grow(t.Context(), t, 3)
	for range 2 {
		s.rotateAway(t)
	}
	s.grow(onBehalf(t.Context()), t, 6)
	if n, paid := logins.Load(), s.connector.Rotator().Status().PaidLogins; n != 3 || paid != 0 {
		t.Errorf("the pool has grown by %d logins, want 3; the rotator counts %d paid, want 0", n, paid)
	}
}
