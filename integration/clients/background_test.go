package clients_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// background is work that goes on beside what a test does itself.
type background struct {
	done    atomic.Int64
	stopped atomic.Bool
	workers sync.WaitGroup
}

// start has workers do something again and again, each with a number of its own and of the round, until stop or
// the end of the test, which fails if that fails.
func start(t *testing.T, workers int, work func(ctx context.Context, worker, n int) error) *background {
	t.Helper()
	b := &background{}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*kit.Patience)
	for worker := range workers {
		b.workers.Go(func() {
			for n := 0; !b.stopped.Load(); n++ {
				if err := work(ctx, worker, n); err != nil {
					t.Errorf("worker %d, round %d: %v", worker, n, err)
					return
				}
				b.done.Add(1)
				time.Sleep(time.Millisecond) // leaves something of the machine to the other tests
			}
		})
	}
	t.Cleanup(func() { b.stop(); cancel() })
	return b
}

// count returns how often it was done.
func (b *background) count() int64 { return b.done.Load() }

// stop returns when nothing is done any more. Idempotent.
func (b *background) stop() {
	b.stopped.Store(true)
	b.workers.Wait()
}
