// Package fleet simulates 10,000 instances of a service that start together and live on one
// Vault: the real engine, in a synctest bubble, for days of virtual time, and a naive schedule
// beside it. `go test` runs a small fleet; `make fleet` the large one, and draws it.
package fleet

import (
	"flag"
	"testing"
	"time"
)

var (
	instances = flag.Int("instances", 250, "how many start together")
	days      = flag.Float64("days", 0, "virtual days, with the outage in the middle; 0 is just enough to see everything once")
	out       = flag.String("out", "", "folder to write fleet.md and its plots to; also shows progress")
)

const (
	ours   = "vaultpool"
	theirs = "naive"

	outageLength = 30 * time.Minute
	settled      = time.Hour // from the start: everybody has renewed

	// Just enough: the first ceiling, and an outage and what follows from it.
	shortest      = 25 * time.Hour
	shortestUntil = 12 * time.Hour
	shortestAfter = 4 * time.Hour
)

// fleets are the runs that the flags ask for.
func fleets() (runs []*run) {
	calm := settings{instances: *instances, length: shortest}
	rough := settings{instances: *instances, length: shortestUntil + shortestAfter}
	rough.outage = span{shortestUntil, shortestUntil + outageLength}
	if *days > 0 {
		calm.length = time.Duration(*days * 24 * float64(time.Hour)).Truncate(time.Minute)
		rough.length = calm.length
		rough.outage = span{calm.length / 2, calm.length/2 + outageLength}
	}
	for _, s := range []settings{calm, rough} {
		runs = append(runs, &run{settings: s, name: ours, keep: engine})
	}
	for _, s := range []settings{calm, rough} {
		runs = append(runs, &run{settings: s, name: theirs, keep: naive})
	}
	return runs
}

// hazard 42
func TestFleet(t *testing.T) {
	if *instances < 1 || *days != 0 && *days < 1 {
		t.Fatal("-instances must be at least 1, and -days 0 or at least 1")
	}
	runs := fleets()
	t.Run("run", func(t *testing.T) {
		for _, r := range runs {
			t.Run(r.String(), func(t *testing.T) {
				t.Parallel()
				r.simulate(t)
				t.Log(r.summary())
				if r.name == ours {
					r.check(t)
				} else {
					r.checkIsSeen(t)
				}
			})
		}
	})
	if *out == "" {
		return
	}
	if err := writeReport(*out, runs); err != nil {
		t.Fatal(err)
	}
}
