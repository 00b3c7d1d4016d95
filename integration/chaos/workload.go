package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// The load of each lane. A pool has room for all workers and a little more, so that nobody has to wait for a
// connection while nothing is wrong.
const (
	shortWorkers  = 5
	longWorkers   = 2
	laneWorkers   = shortWorkers + longWorkers
	poolSize      = 10
	shortInterval = 125 * time.Millisecond // of one worker
	shortTimeout  = 3 * time.Second
	longTimeout   = 6 * time.Second
	longPause     = 300 * time.Millisecond
	tickInterval  = 250 * time.Millisecond

	// A long transaction takes from 1 s to longMost. Connections have half of the drain window to finish, and the
	// window is the fifth of the lease at which it is replaced, less a twentieth: 1.8 s of 24 s.
	longLeast = time.Second
	longMost  = 1600 * time.Millisecond
	leaseTTL  = 24 * time.Second

	// connLifetime makes every pool, the controls too, open connections all the time.
	connLifetime = 15 * time.Second
)

// work is the load of one lane.
type work struct {
	lane     lane
	store    store
	reporter *reporter
	working  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	tick  tick
	times []time.Duration // of the short queries of this tick
	sums  sums
}

// start runs the workers until ctx ends. Operations under way then are finished.
func (w *work) start(ctx context.Context) {
	for i := range shortWorkers {
		w.working.Go(func() { w.shorts(ctx, i) })
	}
	for i := range longWorkers {
		w.working.Go(func() { w.longs(ctx, shortWorkers+i) })
	}
}

func (w *work) shorts(ctx context.Context, worker int) {
	written := []int{}
	for n := 1; pause(ctx, shortInterval/2+rand.N(shortInterval)); n++ {
		if len(written) == 0 || rand.IntN(3) == 0 {
			if w.do(ctx, shortTimeout, false, func(ctx context.Context) error { return w.writeRow(ctx, key{w.lane, worker, n}) }) == nil {
				written = remember(written, n)
			}
			continue
		}
		k := key{w.lane, worker, written[rand.IntN(len(written))]}
		_ = w.do(ctx, shortTimeout, false, func(ctx context.Context) error { return w.readRow(ctx, k) }) // do has counted it
	}
}

func (w *work) longs(ctx context.Context, worker int) {
	for n := 1; pause(ctx, longPause); n++ {
		hold := longLeast + rand.N(longMost-longLeast)
		w.count(func(s *sums) { s.Transactions.Asked++ })
		err := w.do(ctx, longTimeout, true, func(ctx context.Context) error {
			return w.store.transaction(ctx, key{w.lane, worker, n}, hold)
		})
		if err == nil {
			w.count(func(s *sums) { s.Transactions.Confirmed++ })
		}
	}
}

// remember keeps the numbers of some rows, to be read again.
func remember(numbers []int, n int) []int {
	const most = 200
	if len(numbers) < most {
		return append(numbers, n)
	}
	numbers[n%most] = n
	return numbers
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *work) writeRow(ctx context.Context, k key) error {
	w.count(func(s *sums) { s.Rows.Asked++ })
	if err := w.store.write(ctx, k); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	w.count(func(s *sums) { s.Rows.Confirmed++ })
	return w.readRow(ctx, k)
}

func (w *work) readRow(ctx context.Context, k key) error {
	found, err := w.store.read(ctx, k)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if found != k.value() {
		return fmt.Errorf("read: %w: found %q, want %q", errWrong, found, k.value())
	}
	return nil
}

// do runs one operation, which the end of the load does not cut short, and counts it.
func (w *work) do(ctx context.Context, timeout time.Duration, long bool, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	began := time.Now()
	err := f(ctx)
	now := time.Now()
	w.mu.Lock()
	switch {
	case err != nil:
		w.tick.Failed++
	case long:
		w.tick.Long++
	default:
		w.tick.OK++
		w.times = append(w.times, now.Sub(began))
	}
	w.mu.Unlock()
	if err != nil {
		w.reporter.send(message{Failure: &failure{
			Lane: w.lane, Long: long, Began: began, Ended: now, Class: classify(err), Text: cut(err.Error(), 300),
		}})
	}
	return err
}

func (w *work) count(change func(*sums)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.sums)
}

// take returns what happened since it was last called.
func (w *work) take() *tick {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tick
	t.Lane, t.P99 = w.lane, quantile(w.times, 0.99)
	w.tick, w.times = tick{}, w.times[:0]
	return &t
}

func (w *work) total() sums {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sums
}

// quantile sorts times; 0 if there are none.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(int(q*float64(len(times))), len(times)-1)]
}

// cut keeps the beginning of a text.
func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
