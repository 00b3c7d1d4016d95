package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
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

// events counts what is in the summary.
type events struct {
	mu      sync.Mutex // guards what follows
	renewed int
	newest  uint64 // the newest generation that was published
}

func (c *events) add(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case "renewed":
		c.renewed++
	case "published":
		c.newest = max(c.newest, e.Generation)
	}
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
