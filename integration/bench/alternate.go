package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// slice is what n operations cost one pool.
type slice struct {
	n      int
	took   time.Duration
	allocs uint64
}

func (s slice) nanoseconds() float64 { return float64(s.took) / float64(s.n) }
func (s slice) allocations() float64 { return float64(s.allocs) / float64(s.n) }

// equals is how many pools alternate: a raw one, another one like it, whose ratio to the first shows what the machine
// does to equals, and ours.
const equals = 3

func (e *env) poolNames() [equals]string { return [...]string{"raw", "raw-again", e.db.ours()} }

// steadyResult is all slices of one operation.
type steadyResult struct {
	op     operation
	when   string
	rounds [][equals]slice
}

// alternate gives the pools equal slices, in turn, so that whatever else the machine does hits all of them. Each round
// has an order of its own: the same one all the time would have each pool follow the same other, which shows.
func (e *env) alternate(ctx context.Context, ps [equals]pool, r *steadyResult) error {
	n, err := e.calibrate(ctx, ps, r.op)
	if err != nil {
		return fmt.Errorf("%s: %w", r.title(), err)
	}
	for range max(1, e.alternations/e.blocks) {
		var slices [equals]slice
		for _, i := range rand.Perm(len(ps)) {
			if slices[i], err = runSlice(ctx, ps[i], r.op, n); err != nil {
				return fmt.Errorf("%s of %s: %w", r.title(), e.poolNames()[i], err)
			}
		}
		r.rounds = append(r.rounds, slices)
	}
	return nil
}

// calibrate warms all pools up and returns how many operations make a slice.
func (e *env) calibrate(ctx context.Context, ps [equals]pool, op operation) (int, error) {
	if _, err := fastest(ctx, ps, op, op.goroutines); err != nil { // it may ping connections, or open them
		return 0, err
	}
	for n := op.goroutines; ; n *= 2 {
		took, err := fastest(ctx, ps, op, n)
		if err != nil {
			return 0, err
		}
		if took > e.slice/2 {
			return max(op.goroutines, int(float64(n)*float64(e.slice)/float64(took))), nil
		}
	}
}

// fastest returns how long n operations take where nothing else comes in between.
func fastest(ctx context.Context, ps [equals]pool, op operation, n int) (time.Duration, error) {
	var all []time.Duration
	for _, p := range ps {
		s, err := runSlice(ctx, p, op, n)
		if err != nil {
			return 0, err
		}
		all = append(all, s.took)
	}
	return slices.Min(all), nil
}

// runSlice does an operation n times, by all goroutines together.
func runSlice(ctx context.Context, p pool, op operation, n int) (slice, error) {
	if err := ctx.Err(); err != nil {
		return slice{}, err
	}
	errs := make([]error, op.goroutines)
	do := op.bind(p)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range op.goroutines {
		wg.Go(func() {
			for range n / op.goroutines {
				if errs[i] = do(ctx); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	return slice{n / op.goroutines * op.goroutines, took, after.Mallocs - before.Mallocs}, errors.Join(errs...)
}

func (r *steadyResult) title() string {
	if r.when == "" {
		return r.op.name
	}
	return r.op.name + ", " + r.when
}

// key is the title as the name of a benchmark.
func (r *steadyResult) key() string {
	var name strings.Builder
	for word := range strings.FieldsSeq(strings.ReplaceAll(r.title(), ",", "")) {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return fmt.Sprintf("%s/goroutines=%d", name.String(), r.op.goroutines)
}

// equal is the ratio of the second raw pool to the first.
func equal(round [equals]slice) float64 { return float64(round[1].took) / float64(round[0].took) }

// cost is the ratio of our pool to the mean of the raw ones.
func cost(round [equals]slice) float64 {
	return 2 * float64(round[2].took) / float64(round[0].took+round[1].took)
}

// ratio is the median of what of gives round by round, and the quartiles.
func (r *steadyResult) ratio(of func([equals]slice) float64) string {
	ratios := make([]float64, len(r.rounds))
	for n, round := range r.rounds {
		ratios[n] = of(round)
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.3f (%.3f to %.3f)", quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75))
}

func (r *steadyResult) nanoseconds(i int) float64 {
	return median(r.rounds, func(round [equals]slice) float64 { return round[i].nanoseconds() })
}

func (r *steadyResult) allocations(i int) float64 {
	return median(r.rounds, func(round [equals]slice) float64 { return round[i].allocations() })
}
