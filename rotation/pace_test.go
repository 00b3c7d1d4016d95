package rotation

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// simulate runs a pace over a drain window: each look takes one connection away, if takes says so. It
// returns how long it took until none was left, and the shortest pause; over the window if any is left.
func simulate(n int, window time.Duration, takes func(look int) bool) (took, shortest time.Duration) {
	start := time.Unix(0, 0)
	now, by := start, start.Add(window)
	p := NewPace(start, by, n)
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
func TestPaceDoneInTime(t *testing.T) {
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
func TestPaceInVain(t *testing.T) {
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

// Rounds come until nothing is left, at once when there is nothing to spare, and not after ctx.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		p := g.pool("db")
		p.set(func(p *fakePool) { p.onReplace = func(context.Context, *Generation, time.Time) {} })
		for range 10 {
			p.idle(t)
		}
		old, err := p.a.Current()
		if err != nil {
			t.Fatal(err)
		}
		g.rotate()
		start, rounds := time.Now(), 0
		for left := range p.a.Rounds(context.Background(), old, start.Add(time.Minute)) {
			if rounds++; left != 11-rounds {
				t.Fatalf("round %d: %d are left", rounds, left)
			}
			taken := p.takeIdle(old)
			_ = taken[0].Close()
			p.set(func(p *fakePool) { p.conns = append(p.conns, taken[1:]...) })
		}
		if d := time.Since(start); rounds != 10 || d < 5*time.Second || d > 45*time.Second {
			t.Errorf("%d rounds in %v", rounds, d)
		}
		c := p.idle(t)
		second, err := p.a.Current()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		n := 0
		for range p.a.Rounds(ctx, second, time.Now().Add(time.Hour)) {
			n++
		}
		if ctx.Err() == nil || n == 0 {
			t.Errorf("%d rounds, and ctx is %v", n, ctx.Err())
		}
		p.a.Refused(second, ErrRefused) // dead, once it is replaced
		g.pass(time.Second)
		start, n = time.Now(), 0
		for range p.a.Rounds(context.Background(), second, start.Add(time.Hour)) {
			if n++; n == 100 {
				_ = c.Close()
			}
		}
		if d := time.Since(start); n != 100 || d > time.Second {
			t.Errorf("%d rounds of a dead generation in %v", n, d)
		}
	})
}
