package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// revocations looks at the database from outside after each revocation. A session may outlive its user: neither
// MariaDB nor PostgreSQL ends it then, and MariaDB lets it go on reading and writing.
type revocations struct {
	setting *setting
	screen  *screen
	looking sync.WaitGroup

	mu      sync.Mutex // guards what follows
	checked int
	alive   map[string]bool // sessions of users who do not exist any more
	errs    []error
}

// revocationsResult is what was seen.
type revocationsResult struct {
	checked int
	alive   []string
	err     error // why that is not all
}

const (
	checkTimeout = 15 * time.Second // of one look, in case the server does not answer

	// goodbyeTimeout is how long a server on a busy machine may take to notice that a socket was closed. It is less
	// than a session lasts that was forgotten: half of the jobs' transactions have more than this to go.
	goodbyeTimeout = 400 * time.Millisecond
)

func newRevocations(setting *setting, screen *screen) *revocations {
	return &revocations{setting: setting, screen: screen, alive: make(map[string]bool)}
}

// check is called when a lease has been revoked, and with that its user dropped. It does not wait.
func (r *revocations) check() {
	r.looking.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		defer cancel()
		r.record(r.setting.settled(ctx, goodbyeTimeout, r.setting.database.orphans))
	})
}

func (r *revocations) record(alive []string, err error) {
	var first []string // seen for the first time
	r.mu.Lock()
	r.checked++
	for _, session := range alive {
		if !r.alive[session] {
			r.alive[session] = true
			first = append(first, session)
		}
	}
	if err != nil {
		r.errs = append(r.errs, err)
	}
	r.mu.Unlock()
	for _, session := range first {
		r.screen.printf("ALIVE after the revocation: %s", session)
	}
}

// result waits for the looks that are under way.
func (r *revocations) result() revocationsResult {
	r.looking.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return revocationsResult{
		checked: r.checked, alive: slices.Sorted(maps.Keys(r.alive)), err: errors.Join(r.errs...),
	}
}
