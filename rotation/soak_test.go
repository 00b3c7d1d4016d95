package rotation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSoak lets everything fail at random for many leases, many times over: the
// source, the database, the hooks, the clock, the callers, and Close in the middle
// of it. What must hold is checked by the world: no revocation before the last
// socket is closed, none of what is current, never two issues at once, the cap, no
// busy loop, nothing left behind. And a credential is there soon after the faults
// are over.
func TestSoak(t *testing.T) {
	for seed := range uint64(soakSeeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { soak(t, seed) })
		})
	}
}

const soakSeeds = 12

// dice is a random source that goroutines may share.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64()
}

func (d *dice) chance(p float64) bool { return d.float() < p }
func (d *dice) upTo(most time.Duration) time.Duration {
	return time.Duration(d.float() * float64(most))
}

func soak(t *testing.T, seed uint64) {
	t.Helper()
	d := &dice{r: rand.New(rand.NewPCG(seed, 7))}
	leases := []Lease{
		{TTL: 8 * time.Second, Renewable: true, Revocable: true},
		{TTL: time.Minute, Revocable: true},
		{TTL: 10 * time.Minute, Renewable: true, Revocable: true},
		hourLease,
	}
	g := newRig(t, leases[seed%uint64(len(leases))])
	g.w.expire = true
	faulty := false // guarded by the source's mutex
	fails := func(p float64) bool {
		g.source.mu.Lock()
		defer g.source.mu.Unlock()
		return faulty && d.chance(p)
	}
	faults := []error{errSealed, ErrDenied, retryLaterError{d.upTo(time.Minute)}, errors.New("fault")}
	fault := func() error { return faults[int(d.float()*float64(len(faults)))] }
	g.source.onIssue = func(int) error {
		if time.Sleep(d.upTo(time.Second)); fails(0.1) {
			time.Sleep(d.upTo(30 * time.Second))
		}
		if fails(0.3) {
			return fault()
		}
		return nil
	}
	born := make(map[string]time.Time) // guarded by the world's mutex
	g.source.onRenew = func(_ int, l Lease, inc time.Duration) (Lease, error) {
		switch time.Sleep(d.upTo(time.Second)); {
		case fails(0.3):
			return Lease{}, fault()
		case fails(0.05):
			return Lease{}, ErrLeaseGone
		}
		l.TTL = inc
		g.w.set(func(w *world) {
			r := w.find(l.ID)
			if born[r.user].IsZero() {
				born[r.user] = time.Now()
			}
			l.TTL = min(inc, max(time.Second, time.Until(born[r.user].Add(2*g.source.lease.TTL)))) // a ceiling
			r.end = time.Now().Add(l.TTL)
		})
		return l, nil
	}
	g.source.onRevoke = func(context.Context, int, Lease) error {
		if time.Sleep(d.upTo(2 * time.Second)); fails(0.3) {
			return fault()
		}
		return nil
	}
	g.start(Config{DrainTimeout: 20 * time.Second})
	g.r.random = d.float
	g.source.set(func(*fakeSource) { faulty = true })
	pools := []*fakePool{g.pool("db"), g.pool("replica")}
	for _, p := range pools {
		p.set(func(p *fakePool) {
			p.onProbe = func(ctx context.Context, gen *Generation) ProbeResult {
				switch {
				case fails(0.1):
					return ProbeResult{Refused: 1, Err: ErrRefused}
				case fails(0.2):
					return ProbeResult{Unknown: 1, Err: errUnreachable}
				case fails(0.05):
					<-ctx.Done()
				case fails(0.05):
					panic("in Probe")
				}
				return p.login(gen)
			}
			p.onEnd = func(context.Context, *Generation, []*Conn) error {
				time.Sleep(d.upTo(500 * time.Millisecond))
				return nil
			}
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	var users sync.WaitGroup
	for i := range 6 {
		users.Go(func() { soakUser(ctx, d, pools[i%2], fails) })
	}
	span := min(2*time.Hour, 50*g.source.lease.TTL)
	users.Go(func() {
		for end := time.Now().Add(span); time.Now().Before(end); {
			time.Sleep(d.upTo(span / 10))
			switch {
			case d.chance(0.2):
				resume := g.r.Pause()
				time.Sleep(d.upTo(time.Minute))
				resume()
			case d.chance(0.2):
				g.jump(d.upTo(2*time.Minute) - time.Minute)
			default:
				within, cancel := context.WithTimeout(ctx, d.upTo(time.Minute))
				_ = g.r.Rotate(within)
				cancel()
			}
		}
	})
	g.pass(span + span/10 + time.Minute)
	g.source.set(func(*fakeSource) { faulty = false })
	g.pass(3 * time.Minute)
	if g.current() == 0 {
		t.Errorf("no credential 3 minutes after the faults are over: %v", g.noCredential())
	}
	g.pass(d.upTo(time.Minute)) // Close comes at any point of a rotation
	stop()
	if err := g.r.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
	users.Wait()
}

// soakUser connects, works, and closes; or is refused, waits, and tries again.
func soakUser(ctx context.Context, d *dice, p *fakePool, fails func(float64) bool) {
	for ctx.Err() == nil {
		c, err := p.connect(true, d.chance(0.2))
		switch {
		case err == nil:
			if time.Sleep(d.upTo(10 * time.Second)); d.chance(0.03) {
				time.Sleep(d.upTo(time.Minute)) // past the drain deadline
			}
			gen := c.Generation()
			if fails(0.003) {
				p.a.Refused(gen, ErrRefused)
			}
			if s := c.NetConn().(*socket); !s.isClosed() {
				s.endSession()
			}
			_ = c.Close()
			p.set(func(p *fakePool) { p.conns = nil })
		case errors.Is(err, ErrClosed):
			return
		default:
			within, cancel := context.WithTimeout(ctx, 5*time.Second)
			_ = p.a.Await(within)
			cancel()
			time.Sleep(d.upTo(time.Second))
		}
	}
}
