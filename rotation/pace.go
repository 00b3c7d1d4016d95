package rotation

import (
	"context"
	"iter"
	"time"
)

// Pace spreads replacements over the first half of the drain window. The second
// half is for what was in use meanwhile. It is for [Target.Replace].
type Pace struct {
	end     time.Time
	last    time.Time     // a quarter of the window is left
	least   time.Duration // half the even interval: never more than twice the rate
	longest time.Duration
	left    int // at the last look
	misses  int
}

// NewPace returns the pace for n connections that are to be replaced by the given time.
func NewPace(start, by time.Time, n int) *Pace {
	half := max(0, by.Sub(start)/2)
	return &Pace{
		end:     start.Add(half),
		last:    start.Add(half + half/2),
		least:   max(half/time.Duration(2*max(n, 1)), time.Millisecond),
		longest: min(max(half/8, time.Millisecond), time.Second),
		left:    n + 1,
	}
}

// End is when the first half is over.
func (p *Pace) End() time.Time { return p.end }

// Least is the shortest time between two replacements: twice the even rate.
func (p *Pace) Least() time.Duration { return p.least }

// Next is the time from the start of one replacement to that of the next, where left are to be replaced. While
// they do not get fewer, neither replaced nor given up by a caller, it gets longer,
// since each look disturbs the pool; but not when there is no time for that any more.
func (p *Pace) Next(now time.Time, left int) time.Duration {
	if p.misses++; left < p.left {
		p.misses = 0
	} else if now.After(p.last) {
		p.misses = min(p.misses, 1)
	}
	p.left = left
	even := p.end.Sub(now) / time.Duration(max(left, 1))
	return min(max(even, p.least<<min(p.misses, 8)), p.longest)
}

// Rounds yields, paced, how many connections of old the attachment has left, until
// there are none or ctx is done: a [Target.Replace] in which each round replaces one,
// if one is idle. Once old is dead it yields every millisecond.
func (a *Attachment) Rounds(ctx context.Context, old *Generation, by time.Time) iter.Seq[int] {
	return func(yield func(int) bool) {
		pace := NewPace(time.Now(), by, a.Connections(old))
		began := time.Now()
		for left := a.Connections(old); left > 0 && yield(left); left = a.Connections(old) {
			wait := pace.Next(began, left) - time.Since(began)
			if old.Dead() {
				wait = time.Millisecond
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			began = time.Now()
		}
	}
}
