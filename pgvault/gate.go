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

// close returns what opens it again. While somebody else has it closed it does
// nothing.
func (g *gate) close() (open func()) {
	open, mine := g.tryClose()
	// Who has just passed gets what is idle, if left the time to look for it.
	for since := time.Now(); mine && time.Since(since) < inFlight; {
		runtime.Gosched()
	}
	return open
}

// tryClose reports whether it has closed the gate, and returns what opens it again.
func (g *gate) tryClose() (open func(), mine bool) {
	opened := make(chan struct{})
	if !g.shut.CompareAndSwap(nil, &opened) {
		return func() {}, false
	}
	return sync.OnceFunc(func() {
		g.shut.Store(nil)
		close(opened)
	}), true
}
