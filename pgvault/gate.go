package pgvault

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// inFlight is how long a caller may take from passing the gate to puddle's list of
// idle connections: a microsecond, or some where there is a queue for its mutex.
const inFlight = 20 * time.Microsecond

// gate keeps callers of the outer Pool waiting for the microseconds in which we
// hold the idle connections: whoever looked for one then would find none, and log
// in. Callers of the embedded pool do not pass it.
type gate struct{ shut atomic.Pointer[chan struct{}] }

// pass costs one atomic load while the gate is open.
func (g *gate) pass(ctx context.Context) {
	if g.shut.Load() != nil {
		g.wait(ctx)
	}
}

func (g *gate) wait(ctx context.Context) {
	if opened := g.shut.Load(); opened != nil {
		select {
		case <-*opened:
		case <-ctx.Done(): // which Acquire reports
		}
	}
}

// close returns what opens it again. While another replacement has it closed it
// does nothing.
func (g *gate) close() (open func()) {
	opened := make(chan struct{})
	if !g.shut.CompareAndSwap(nil, &opened) {
		return func() {}
	}
	// Who has just passed gets what is idle, if left the time to look for it.
	for since := time.Now(); time.Since(since) < inFlight; {
		runtime.Gosched()
	}
	return sync.OnceFunc(func() {
		g.shut.Store(nil)
		close(opened)
	})
}
