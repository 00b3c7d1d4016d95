package rotation

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Only a refused login speaks against a credential.
func TestJudge(t *testing.T) {
	const patience = 30 * time.Second
	for _, c := range []struct {
		name                       string
		accepted, refused, unknown int
		short                      bool
		waited                     time.Duration
		want                       verdict
	}{
		{"no pool is attached", 0, 0, 0, false, 0, publish},
		{"all accept", 3, 0, 0, false, 0, publish},
		{"one dead replica", 2, 0, 1, false, 0, publish},                      // hazards 37, 56
		{"all unknown", 0, 0, 2, false, 0, probeAgain},                        // hazard 52
		{"all unknown, for ever", 0, 0, 2, false, time.Hour, probeAgain},      // hazard 52
		{"all unknown, near the end", 0, 0, 2, true, 0, publish},              // hazard 52
		{"one refuses", 2, 1, 0, false, patience - 1, probeAgain},             // hazards 29, 56
		{"one refuses, for long", 2, 1, 0, false, patience, reject},           // hazards 29, 56
		{"one refuses, near the end", 2, 1, 0, true, 0, publish},              // hazard 56
		{"one refuses, near the end, late", 2, 1, 0, true, patience, publish}, // hazard 56
		{"all refuse", 0, 2, 0, false, 0, probeAgain},                         // replica lag
		{"all refuse, for long", 0, 2, 0, false, patience, reject},            // hazard 29
		{"all refuse, near the end", 0, 2, 0, true, 0, probeAgain},
		{"all refuse, near the end, for long", 0, 2, 0, true, patience, reject},
		{"one refuses, one unknown, near the end", 0, 1, 1, true, 0, probeAgain},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := ProbeResult{Accepted: c.accepted, Refused: c.refused, Unknown: c.unknown}
			if got := judge(p, c.short, c.waited, patience); got != c.want {
				t.Errorf("judge = %v, want %v", got, c.want)
			}
		})
	}
}

// hazard 25
func TestBackoff(t *testing.T) {
	const base, limit = 250 * time.Millisecond, 30 * time.Second
	for _, c := range []struct {
		n      int
		asked  time.Duration
		jitter float64
		want   time.Duration
	}{
		{0, 0, 0, base},
		{1, 0, 0, base},
		{2, 0, 0, 2 * base},
		{7, 0, 0, 16 * time.Second},
		{8, 0, 0, limit},
		{31, 0, 0, limit},
		{32, 0, 0, limit},
		{math.MaxInt, 0, 0, limit},
		{1, 0, 0.5, base * 3 / 4},
		{8, 0, 0.5, limit * 3 / 4},
		{1, base, 0, base},
		{1, time.Minute, 0, time.Minute}, // Retry-After may exceed our own limit
		{1, time.Minute, 0.5, 63 * time.Second},
		{8, time.Second, 0, limit},
		{1, -time.Minute, 0, base},
	} {
		if got := backoff(c.n, base, limit, c.asked, c.jitter); got != c.want {
			t.Errorf("backoff(%d, asked %v, jitter %v) = %v, want %v", c.n, c.asked, c.jitter, got, c.want)
		}
	}
	for n := range 100 {
		got := backoff(n, base, limit, 0, rand.Float64())
		if got < base/2 || got > limit {
			t.Fatalf("backoff(%d) = %v, outside [%v, %v]", n, got, base/2, limit)
		}
		if got := backoff(n, math.MaxInt64/2, math.MaxInt64, 0, 0); got <= 0 {
			t.Fatalf("backoff(%d) of a very long base = %v", n, got)
		}
	}
}

// hazards 27, 28
func TestFloor(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		interval time.Duration
		early    int
		full     time.Duration
		want     time.Duration
	}{
		{s, 0, time.Hour, s},
		{s, 1, time.Hour, 2 * s},
		{s, 5, time.Hour, 32 * s},
		{s, 6, time.Hour, time.Minute},
		{s, 1000, time.Hour, time.Minute},
		{s, 0, 0, s},
		{s, 6, 0, time.Minute},
		{s, 0, 4 * s, s},
		{s, 0, 2 * s, s / 2},
		{s, 6, 8 * s, 2 * s},
		{10 * time.Minute, 0, 8 * s, 2 * s},
		{time.Millisecond, 0, time.Millisecond, time.Millisecond},
		{10 * time.Minute, 0, 10 * time.Hour, 10 * time.Minute}, // the user's own, longer than a minute
		{10 * time.Minute, 3, 10 * time.Hour, 10 * time.Minute},
	} {
		if got := floor(c.interval, c.early, c.full); got != c.want {
			t.Errorf("floor(%v, %d, %v) = %v, want %v", c.interval, c.early, c.full, got, c.want)
		}
	}
	// However short the lease, there is an end to how often one is asked for.
	for _, full := range []time.Duration{1, time.Millisecond, 100 * time.Millisecond} {
		if got := floor(s, 0, full); got < s/10 {
			t.Errorf("floor(1s, 0, %v) = %v: %v issues per second", full, got, s/max(got, 1))
		}
	}
}
