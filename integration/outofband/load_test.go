package outofband_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// load is what goes on in a service: short reads and writes, and connections that are opened.
type load struct {
	s    *service
	stop chan struct{}
	all  sync.WaitGroup
	once sync.Once

	mu      sync.Mutex // guards what follows
	calls   int
	denials []denial
	failed  []error
	longest time.Duration
}

// denial is a call that a live session was refused.
type denial struct{ began, ended time.Time }

// startLoad lets three callers work, until the end of the test at the latest. One of them has connections opened all the
// time, unless the pool is a warm one.
func startLoad(t *testing.T, s *service) *load {
	t.Helper()
	l := &load{s: s, stop: make(chan struct{})}
	third := s.reconnect
	if s.set.warm {
		third = s.read
	}
	for _, call := range []func(context.Context) error{s.read, s.write, third} {
		l.all.Go(func() {
			for l.call(call) {
				time.Sleep(3 * time.Millisecond) // there are other tests
			}
		})
	}
	t.Cleanup(func() { l.end(t) })
	return l
}

// call calls once, and reports whether to go on.
func (l *load) call(call func(context.Context) error) bool {
	select {
	case <-l.stop:
		return false
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	began := time.Now()
	err := call(ctx)
	ended := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	l.longest = max(l.longest, ended.Sub(began))
	switch {
	case err == nil:
	case l.s.db.isDenied(err):
		l.denials = append(l.denials, denial{began, ended})
	default:
		l.failed = append(l.failed, err)
	}
	return true
}

// goesOn waits until n more calls are done.
func (l *load) goesOn(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.calls
	}
	from := count()
	kit.Eventually(t, "the load goes on", func(context.Context) bool { return count() >= from+n })
}

// takeDenials returns what was denied since the last time.
func (l *load) takeDenials() []denial {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.denials
	l.denials = nil
	return taken
}

// end ends the load. Nothing but a denial may have failed, and those must have been taken.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.once.Do(func() {
		close(l.stop)
		l.all.Wait()
		for i, err := range l.failed {
			if i == 5 {
				t.Errorf("and %d more", len(l.failed)-5)
				break
			}
			t.Errorf("a call failed: %v", err)
		}
		if n := len(l.denials); n > 0 {
			t.Errorf("%d calls were denied when all was in order", n)
		}
		t.Logf("%d calls, the longest took %v", l.calls, l.longest.Round(time.Millisecond))
	})
}

// median and the greatest of some durations, for a log.
func median(all []time.Duration) (middle, greatest time.Duration) {
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2].Round(100 * time.Microsecond), all[len(all)-1].Round(100 * time.Microsecond)
}
