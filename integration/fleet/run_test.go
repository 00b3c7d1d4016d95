package fleet

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// settings is what is simulated.
type settings struct {
	instances int
	length    time.Duration
	outage    span // none if empty
}

// run is what came of one fleet.
type run struct {
	settings
	name string
	keep schedule

	*tally
	losses  []loss
	without int           // instances that have no credential a grace after the outage's end
	left    int           // leases that are left after the end
	err     error         // of the end
	took    time.Duration // in real time

	reached atomic.Int64 // virtual time, for whoever watches
}

func (r *run) String() string {
	if r.outage == (span{}) {
		return r.name + ", no outage"
	}
	return r.name + ", outage"
}

// schedule starts to keep the credentials of a fleet, and returns what says how many
// instances have none, as far as it knows, and what ends it.
type schedule func(clients []*client) (without func() int, end func() error)

// simulate runs the fleet in a bubble of its own.
func (r *run) simulate(t *testing.T) {
	t.Helper()
	began := time.Now()
	done := make(chan struct{})
	defer close(done)
	if *out != "" {
		go r.watch(done)
	}
	synctest.Test(t, func(*testing.T) { r.pass() })
	r.took = time.Since(began)
}

// pass is what happens in the bubble.
func (r *run) pass() {
	r.tally = newTally(r.length)
	v := &vault{start: time.Now(), outage: r.outage, tally: r.tally}
	clients := make([]*client, r.instances)
	for i := range clients {
		clients[i] = &client{vault: v, name: "v-app-" + strconv.Itoa(i)}
	}
	without, end := r.keep(clients)
	if r.outage != (span{}) {
		r.sleepUntil(v, r.outage.to+grace)
		r.without = max(without(), idle(clients))
	}
	r.sleepUntil(v, r.length)
	for _, c := range clients {
		r.losses = append(r.losses, c.lost()...)
	}
	r.err = end()
	synctest.Wait()
	for _, c := range clients {
		r.left += c.left()
	}
}

// idle is how many instances hold no lease that is good.
func idle(clients []*client) (n int) {
	for _, c := range clients {
		if !c.holds() {
			n++
		}
	}
	return n
}

// sleepUntil lets time pass, and what is due then happen.
func (r *run) sleepUntil(v *vault, end time.Duration) {
	for now := v.now(); now < end; now = v.now() {
		r.reached.Store(int64(now))
		time.Sleep(min(end-now, time.Minute))
	}
	synctest.Wait()
}

// watch says on standard error how far the run is, until done is closed.
func (r *run) watch(done <-chan struct{}) {
	began := time.Now()
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	for {
		select {
		case <-done:
			return
		case <-every.C:
			_, _ = fmt.Fprintf(os.Stderr, "%-18v hour %.1f of %.0f after %v\n", r,
				time.Duration(r.reached.Load()).Hours(), r.length.Hours(), time.Since(began).Round(time.Second))
		}
	}
}
