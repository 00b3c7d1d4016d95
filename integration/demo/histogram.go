package main

import (
	"math"
	"time"
)

// Buckets grow by 2^(1/32), so that a quantile is at most 2.2 % above the truth; they go up to 2^32 µs, over an hour.
const (
	bucketsPerDoubling = 32
	bucketCount        = 32 * bucketsPerDoubling
)

// histogram counts durations in a fixed space, however long the demo runs.
type histogram struct {
	counts [bucketCount]int
	total  int
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
	h.max = max(h.max, d)
}

func bucket(d time.Duration) int {
	microseconds := float64(d) / float64(time.Microsecond)
	if microseconds <= 1 {
		return 0
	}
	return min(int(math.Ceil(math.Log2(microseconds)*bucketsPerDoubling)), bucketCount-1)
}

// quantile returns the duration that the part q of all stayed within; 0 when there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int(math.Ceil(q * float64(h.total)))
	seen := 0
	for i, count := range h.counts {
		if seen += count; seen >= rank && seen > 0 {
			upper := math.Exp2(float64(i)/bucketsPerDoubling) * float64(time.Microsecond)
			return min(time.Duration(upper), h.max)
		}
	}
	return h.max
}
