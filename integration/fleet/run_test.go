package fleet

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
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
	took   time.Duration // in real time
	passed atomic.Int64  // virtual time in all bubbles, for whoever watches

	mu sync.Mutex // guards what follows
	outcome
}

// outcome is what the counts do not show.
type outcome struct {
	losses  []loss
	without int   // instances that have no credential a grace after the outage's end
	left    int   // leases that are left after the end
	err     error // of the end
}

// bubble is how many instances share one. All bubbles begin at the same moment and have one
// Vault, and instances know nothing of each other, so that it is the same to them. But a step
// of the clock takes a third of the time that it takes in one bubble of 10,000, which no cache
// holds, and the machine's other cores have something to do.
const bubble = 125

func (r *run) String() string {
	if r.outage == (span{}) {
		return r.name + ", no outage"
	}
	return r.name + ", outage"
}

// schedule starts to keep the credentials of a fleet, and returns what says how many
// instances have none, as far as it knows, and what ends it.
type schedule func(clients []*client) (without func() int, end func() error)

// simulate runs the fleet in its bubbles, as many at once as there are cores.
func (r *run) simulate(t *testing.T) {
	t.Helper()
	r.tally = newTally(r.length)
	began := time.Now()
	done := make(chan struct{})
	defer close(done)
	if *out != "" {
		go r.watch(done)
	}
	t.Run("instances", func(t *testing.T) {
		for first := 0; first < r.instances; first += bubble {
			t.Run(strconv.Itoa(first), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(*testing.T) { r.add(r.pass(min(bubble, r.instances-first))) })
			})
		}
	})
	r.took = time.Since(began)
}

// pass is what happens to n instances in a bubble.
func (r *run) pass(n int) (o outcome) {
	v := &vault{start: time.Now(), outage: r.outage, tally: r.tally}
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = &client{vault: v, name: "v-app-" + strconv.Itoa(i)}
	}
	without, end := r.keep(clients)
	if r.outage != (span{}) {
		r.sleepUntil(v, r.outage.to+grace)
		o.without = max(without(), idle(clients))
	}
	r.sleepUntil(v, r.length)
	for _, c := range clients {
		o.losses = append(o.losses, c.lost()...)
	}
	o.err = end()
	synctest.Wait()
	for _, c := range clients {
		o.left += c.left()
	}
	return o
}

// add sums up what came of the bubbles.
func (r *run) add(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses = append(r.losses, o.losses...)
	r.without += o.without
	r.left += o.left
	r.err = errors.Join(r.err, o.err)
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
		step := min(end-now, time.Minute)
		time.Sleep(step)
		r.passed.Add(int64(step))
	}
	synctest.Wait()
}

// watch says on standard error how far the run is, until done is closed.
func (r *run) watch(done <-chan struct{}) {
	began := time.Now()
	bubbles := (r.instances + bubble - 1) / bubble
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	for {
		select {
		case <-done:
			return
		case <-every.C:
			_, _ = fmt.Fprintf(os.Stderr, "%v: %.0f of %.0f virtual hours, in %d bubbles, after %v\n", r,
				time.Duration(r.passed.Load()).Hours(), r.length.Hours()*float64(bubbles), bubbles, time.Since(began).Round(time.Second))
		}
	}
}
