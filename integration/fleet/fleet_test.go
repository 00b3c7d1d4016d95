// Package fleet simulates 10,000 instances of a service that start together and live on one
// Vault: the real engine, in synctest bubbles, for days of virtual time, and a naive schedule
// beside it. `go test` runs small fleets; `make fleet` the large ones, and draws them.
package fleet

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

var (
	instances = flag.Int("instances", 0, "how many start together; 0 is enough for chance not to show")
	days      = flag.Float64("days", 0, "virtual days, with the outage in the middle; 0 is just enough to see everything once")
	out       = flag.String("out", "", "folder to write fleet.md and its plots to; also shows progress")
)

const (
	ours   = "vaultpool"
	theirs = "naive"

	outageLength = 30 * time.Minute
	settled      = time.Hour // from the start: everybody has renewed
)

// fleets are the runs that the flags ask for. Unless they do, one is long enough for the first
// ceiling and the other large enough for one outage, and both small enough for every day.
func fleets() (runs []*run) {
	calm := settings{instances: 400, length: 25 * time.Hour}
	rough := settings{instances: 600, length: 7 * time.Hour, outage: span{4 * time.Hour, 4*time.Hour + outageLength}}
	if *instances > 0 {
		calm.instances, rough.instances = *instances, *instances
	}
	if *days > 0 {
		calm.length = time.Duration(*days * 24 * float64(time.Hour)).Truncate(time.Minute)
		rough.length = calm.length
		rough.outage = span{calm.length / 2, calm.length/2 + outageLength}
	}
	for _, s := range []settings{calm, rough} {
		runs = append(runs, &run{settings: s, name: ours, keep: engine}, &run{settings: s, name: theirs, keep: naive})
	}
	return runs
}

// hazard 42
func TestFleet(t *testing.T) {
	if *instances < 0 || *days != 0 && *days < 1 {
		t.Fatal("-instances must not be negative, and -days 0 or at least 1")
	}
	runs := fleets()
	for _, r := range runs {
		t.Run(r.String(), func(t *testing.T) {
			r.simulate(t)
			t.Log(r.summary())
			if *out != "" {
				_, _ = fmt.Fprintf(os.Stderr, "%v: %s\n", r, r.summary())
			}
			if r.name == ours {
				r.check(t)
			} else {
				r.checkIsSeen(t)
			}
		})
	}
	if *out == "" {
		return
	}
	if slices.ContainsFunc(runs, func(r *run) bool { return r.took == 0 }) {
		t.Fatal("-out needs all runs: leave out -test.run")
	}
	if err := writeReport(*out, runs); err != nil {
		t.Fatal(err)
	}
}
