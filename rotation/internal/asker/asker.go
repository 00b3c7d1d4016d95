// Package asker asks a rotator for its status within a bound: for those who answer others, who
// must not hang because the rotator does.
package asker

import (
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// Asker asks. Rotator.Status waits for the rotator's loop, for ever if that hangs: so one
// goroutine at a time waits, whoever asks meanwhile gets the same answer, and no more
// than that one is ever left behind.
type Asker struct {
	status  func() rotation.Status
	timeout time.Duration

	mu     sync.Mutex    // guards what follows
	answer chan struct{} // closed when the answer is there; nil if nobody waits for one
	since  time.Time     // when that was asked for
	last   Snapshot
}

// Snapshot is a status, when it was taken, and whether no newer one could be had.
type Snapshot struct {
	Status  rotation.Status
	At      time.Time // zero: there was none
	Stalled bool
	Since   time.Time // if stalled: since when there is no answer
}

// New returns an Asker that calls status and waits for it for timeout at most.
func New(status func() rotation.Status, timeout time.Duration) *Asker {
	return &Asker{status: status, timeout: timeout}
}

// Ask returns a new snapshot, or the last one there was, marked as stalled.
func (a *Asker) Ask() Snapshot {
	a.mu.Lock()
	answer := a.answer
	if answer == nil {
		answer = make(chan struct{})
		a.answer, a.since = answer, time.Now()
		go a.wait(answer)
	}
	since := a.since
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
	if stalled {
		snap.Stalled, snap.Since = true, since
	}
	return snap
}

func (a *Asker) wait(answer chan struct{}) {
	status := a.status()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = Snapshot{Status: status, At: time.Now()}
	a.answer = nil
	close(answer)
}
