package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// event is a rotation.Event as the service's log has it.
type event struct {
	Kind        string        `json:"event"`
	Generation  uint64        `json:"generation"`
	Reason      string        `json:"reason"`
	TTL         time.Duration `json:"ttl"`
	Connections int           `json:"connections"`
	Took        time.Duration `json:"took"`
	Attempt     int           `json:"attempt"`
	RetryAt     time.Time     `json:"retry_at"`
	Error       string        `json:"error"`
}

// newEvent is an event of a rotator in this process.
func newEvent(e rotation.Event) event {
	made := event{
		Kind: string(e.Kind), Generation: e.Generation, Reason: e.Reason, TTL: e.TTL,
		Connections: e.Connections, Took: e.Took, Attempt: e.Attempt, RetryAt: e.RetryAt,
	}
	if e.Err != nil {
		made.Error = e.Err.Error()
	}
	return made
}

// String is the event in one line.
func (e event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s", e.Kind)
	if e.Generation != 0 {
		fmt.Fprintf(&b, " generation %d", e.Generation)
	}
	if e.TTL != 0 {
		fmt.Fprintf(&b, ", lease %v", e.TTL.Round(time.Millisecond))
	}
	if e.Connections != 0 {
		fmt.Fprintf(&b, ", %d connections", e.Connections)
	}
	if e.Took != 0 {
		fmt.Fprintf(&b, ", took %v", e.Took.Round(time.Millisecond))
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, " (%s)", e.Reason)
	}
	if e.Attempt != 0 {
		fmt.Fprintf(&b, ", attempt %d", e.Attempt)
	}
	if !e.RetryAt.IsZero() {
		fmt.Fprintf(&b, ", next %s", e.RetryAt.Format(time.TimeOnly))
	}
	if e.Error != "" {
		fmt.Fprintf(&b, ": %s", e.Error)
	}
	return strings.TrimRight(b.String(), " ")
}

// events counts what is in the summary, and has every revocation looked at.
type events struct {
	revocations *revocations

	mu      sync.Mutex // guards what follows
	renewed int
	newest  uint64 // the newest generation that was published
	last    uint64 // the newest that there was
}

func (c *events) add(e event) {
	if e.Kind == "revoked" {
		c.revocations.check()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, e.Generation)
	switch e.Kind {
	case "renewed":
		c.renewed++
	case "published":
		c.newest = max(c.newest, e.Generation)
	}
}

// credentials is how many there were in all, unused ones included.
func (c *events) credentials() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.last)
}

func (c *events) renewals() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

// rotations does not count the first credential, which replaced none.
func (c *events) rotations() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(int(c.newest)-1, 0)
}
