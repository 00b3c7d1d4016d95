package rotationhttp

import (
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// asker asks the rotator for its status, within a bound. Status waits for the
// rotator's loop, for ever if that hangs: so one goroutine at a time waits, whoever
// asks meanwhile gets the same answer, and no more than that one is ever left behind.
type asker struct {
	status  func() rotation.Status
	timeout time.Duration

	mu     sync.Mutex    // guards what follows
	answer chan struct{} // closed when the answer is there; nil if nobody waits for one
	last   snapshot
}

// snapshot is a status, when it was taken, and whether no newer one could be had.
type snapshot struct {
	status  rotation.Status
	at      time.Time // zero: there was none
	stalled bool
}

// ask returns a new snapshot, or the last one there was, marked as stalled.
func (a *asker) ask() snapshot {
	a.mu.Lock()
	answer := a.answer
	if answer == nil {
		answer = make(chan struct{})
		a.answer = answer
		go a.wait(answer)
	}
	a.mu.Unlock()

	timer := time.NewTimer(a.timeout)
	defer timer.Stop()
	stalled := false
	select {
	case <-answer:
	case <-timer.C:
		stalled = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	snap := a.last
	snap.stalled = stalled
	return snap
}

func (a *asker) wait(answer chan struct{}) {
	status := a.status()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = snapshot{status: status, at: time.Now()}
	a.answer = nil
	close(answer)
}
