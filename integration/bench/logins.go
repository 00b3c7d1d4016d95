package main

import (
	"context"
	"sync"
	"time"
)

// logins counts the logins of one run, and on whose behalf they are made: what a pool does for a caller sees the values
// of the caller's context.
type logins struct {
	mu        sync.Mutex // guards what follows
	at        []time.Time
	paid      int // a caller waited for it
	whileIdle int // and a connection was idle
}

type contextKey struct{}

// actor is on whose behalf something is done.
type actor int

const (
	nobody actor = iota // a pool, in the background
	upkeep              // we ourselves: opening, rotating
	caller
	queue // callers who wait until a connection is given back, or database/sql has opened one
)

func as(ctx context.Context, who actor) context.Context {
	return context.WithValue(ctx, contextKey{}, who)
}

func actorOf(ctx context.Context) actor {
	who, _ := ctx.Value(contextKey{}).(actor)
	return who
}

// count counts a login that is about to be made. idle tells how many connections of the pool are idle; it is only called
// on behalf of callers, when the pool is there. While one is idle nobody waits in the queue.
func (l *logins) count(ctx context.Context, idle func() int) {
	paid, whileIdle := false, false
	switch actorOf(ctx) {
	case caller:
		paid, whileIdle = true, idle() > 0
	case queue:
		paid = idle() == 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = append(l.at, time.Now())
	if paid {
		l.paid++
	}
	if whileIdle {
		l.whileIdle++
	}
}

// take returns what was counted since the last take.
func (l *logins) take() loginCount {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := loginCount{
		total: len(l.at), peak: most(l.at, peakWindow), second: most(l.at, time.Second),
		paid: l.paid, whileIdle: l.whileIdle,
	}
	l.at, l.paid, l.whileIdle = nil, 0, 0
	return c
}

// loginCount is what a run's logins came to.
type loginCount struct {
	total           int
	peak, second    int // the most in any peakWindow, and in any second
	paid, whileIdle int
}

// peakWindow is short enough to show a stampede.
const peakWindow = 100 * time.Millisecond

// most returns how many of the times, which are in order but for the odd microsecond, lie within one window.
func most(at []time.Time, window time.Duration) (n int) {
	first := 0
	for last := range at {
		for at[last].Sub(at[first]) > window {
			first++
		}
		n = max(n, last-first+1)
	}
	return n
}
