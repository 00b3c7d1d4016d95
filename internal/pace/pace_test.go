package pace

import (
	"fmt"
	"testing"
	"time"
)

// simulate runs a pace over a drain window: each look takes one connection away, if takes says so. It
// returns how long it took until none was left, and the shortest pause; over the window if any is left.
func simulate(n int, window time.Duration, takes func(look int) bool) (took, shortest time.Duration) {
	start := time.Unix(0, 0)
	now, by := start, start.Add(window)
	p := New(start, by, n)
	shortest = window
	left := n
	for look := 0; left > 0 && now.Before(by.Add(window)); look++ {
		seen := left
		if takes(look) {
			left--
		}
		pause := p.Next(now, seen)
		if left > 0 {
			shortest = min(shortest, pause)
			now = now.Add(pause)
		}
	}
	return now.Sub(start), shortest
}

var (
	sizes   = []int{1, 2, 6, 50, 500}
	windows = []time.Duration{400 * time.Millisecond, 2 * time.Second, time.Minute, 5 * time.Minute, time.Hour}
)

// Where every look finds one to replace, or a caller gives one up, all are replaced well within the window,
// and never at more than twice the even rate, or eight in each half of it.
func TestPace_DoneInTime(t *testing.T) {
	for _, n := range sizes {
		for _, window := range windows {
			even := window / 2 / time.Duration(n)
			if even < 2*time.Millisecond {
				continue // no server logs so many in
			}
			t.Run(fmt.Sprintf("%d in %v", n, window), func(t *testing.T) {
				took, shortest := simulate(n, window, func(int) bool { return true })
				if took > window*3/4 {
					t.Errorf("it takes %v", took)
				}
				if least := min(even/2, window/16, time.Second); n > 1 && shortest < least {
					t.Errorf("the shortest pause is %v, where %v is even", shortest, even)
				}
			})
		}
	}
}

// Where it looks in vain it looks more and more rarely, but often enough to have a second chance.
func TestPace_InVain(t *testing.T) {
	for _, n := range sizes {
		for _, window := range windows {
			looks := 0
			simulate(n, window, func(int) bool { looks++; return false })
			least := min(8, n) // one may be in use for the first half
			if most := 4*n + int(2*window/time.Second) + 100; looks < least || looks > most {
				t.Errorf("%d connections in use for all of %v: looked for %d times", n, window, looks)
			}
		}
	}
}
