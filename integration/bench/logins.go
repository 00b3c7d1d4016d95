package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// logins counts the logins of one run, and on whose behalf they are made: a connection that a pool builds for a caller
// sees the values of the caller's context.
type logins struct {
	mu        sync.Mutex // guards what follows
	at        []time.Time
	paid      int // a caller waited for it
	whileIdle int // and a connection was idle
}

type callerKey struct{}

// asCaller marks what workers do.
func asCaller(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, true)
}

// hook is a BeforeConnect. idle tells how many connections of the pool are idle; it is only called on behalf of a
// caller, when the pool is there.
func (l *logins) hook(idle func() int) func(context.Context, *pgx.ConnConfig) error {
	return func(ctx context.Context, _ *pgx.ConnConfig) error {
		paid := ctx.Value(callerKey{}) != nil
		l.count(paid, paid && idle() > 0)
		return nil
	}
}

func (l *logins) count(paid, whileIdle bool) {
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
	c := loginCount{total: len(l.at), peak: most(l.at, peakWindow), paid: l.paid, whileIdle: l.whileIdle}
	l.at, l.paid, l.whileIdle = nil, 0, 0
	return c
}

// loginCount is what a run's logins came to.
type loginCount struct{ total, peak, paid, whileIdle int }

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
