package fleet

import (
	"sync/atomic"
	"time"
)

// kind is what a request is for.
type kind int

const (
	issue        kind = iota // by an instance that holds a lease
	issueWithout             // by one that holds none: at the start, or since it lost it
	renew
	revoke
	kinds
)

func (k kind) String() string {
	return [...]string{"issue", "issue without a lease", "renew", "revoke"}[k]
}

// tally counts requests by the minute. What comes after the end of the run is not counted.
type tally struct {
	served, failed [kinds][]atomic.Uint32
}

func newTally(length time.Duration) *tally {
	c := &tally{}
	for k := range kinds {
		c.served[k] = make([]atomic.Uint32, length/time.Minute)
		c.failed[k] = make([]atomic.Uint32, length/time.Minute)
	}
	return c
}

func (c *tally) count(k kind, ok bool, at time.Duration) {
	minutes := c.served[k]
	if !ok {
		minutes = c.failed[k]
	}
	if i := int(at / time.Minute); i < len(minutes) {
		minutes[i].Add(1)
	}
}

// series is how many requests there were in each bin, from the start of a span on. An
// incomplete bin at its end is left out.
type series []float64

// servedIn is the requests of some kinds that Vault answered.
func (c *tally) servedIn(s span, bin time.Duration, of ...kind) series {
	return sum(s, bin, pick(c.served, of)...)
}

// failedIn is the requests of some kinds that failed.
func (c *tally) failedIn(s span, bin time.Duration, of ...kind) series {
	return sum(s, bin, pick(c.failed, of)...)
}

// all is every request, answered or not.
func (c *tally) all(s span, bin time.Duration) series {
	return sum(s, bin, append(c.served[:], c.failed[:]...)...)
}

func pick(from [kinds][]atomic.Uint32, of []kind) (picked [][]atomic.Uint32) {
	for _, k := range of {
		picked = append(picked, from[k])
	}
	return picked
}

func sum(s span, bin time.Duration, minutes ...[]atomic.Uint32) series {
	width := int(bin / time.Minute)
	bins := make(series, int((s.to-s.from)/time.Minute)/width)
	first := int(s.from / time.Minute)
	for _, counts := range minutes {
		for i := range len(bins) * width {
			bins[i/width] += float64(counts[first+i].Load())
		}
	}
	return bins
}

func (s series) total() (sum float64) {
	for _, n := range s {
		sum += n
	}
	return sum
}

func (s series) mean() float64 { return s.total() / float64(max(len(s), 1)) }

func (s series) peak() (most float64) {
	for _, n := range s {
		most = max(most, n)
	}
	return most
}
