package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// operation is something that callers do all the time.
type operation struct {
	name       string
	goroutines int
	bind       func(p pool) func(ctx context.Context) error
}

// setup is operations that are measured on the same pools.
type setup struct {
	form
	rotates    bool // measure before a rotation, and again after it
	operations []operation
}

func (s setup) results() (rows []*steadyResult) {
	times := []string{""}
	if s.rotates {
		times = []string{"before any rotation", "after a rotation"}
	}
	for _, when := range times {
		for _, op := range s.operations {
			rows = append(rows, &steadyResult{op: op, when: when})
		}
	}
	return rows
}

// steady measures what ours costs while nothing happens.
func (e *env) steady(ctx context.Context) error {
	before := machineLoad()
	setups := e.db.setups(e)
	rows := make([][]*steadyResult, len(setups))
	for i, s := range setups {
		rows[i] = s.results()
	}
	for block := range e.blocks {
		e.progressf("steady state, block %d of %d, load %s", block+1, e.blocks, machineLoad())
		for i, s := range setups {
			if err := e.measure(ctx, s, rows[i]); err != nil {
				return err
			}
		}
	}
	all := slices.Concat(rows...)
	e.printSteady(all, before, machineLoad())
	return e.writeBenchstat(all)
}

// measure opens pools and measures a setup's operations on them.
func (e *env) measure(ctx context.Context, s setup, rows []*steadyResult) (err error) {
	ctx = as(ctx, upkeep)
	ps, ours, closeAll, err := e.openPools(ctx, s.form)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	for i, r := range rows {
		if i > 0 && r.when != rows[i-1].when {
			if err := rotateOnce(ctx, ours); err != nil {
				return err
			}
		}
		if err := e.alternate(ctx, ps, r); err != nil {
			return err
		}
	}
	return nil
}

// openPools opens those that alternate. On failure it closes what it has opened.
func (e *env) openPools(ctx context.Context, f form) (ps [equals]pool, ours *vaultPool, closeAll func() error, err error) {
	var opened []func() error
	closeAll = func() error {
		var errs []error
		for _, f := range opened {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	for i := range equals - 1 {
		if ps[i], err = e.db.open(ctx, e, new(logins), f, e.staticLogin); err != nil {
			return ps, nil, nil, err
		}
		opened = append(opened, ps[i].shut)
	}
	if ours, err = e.db.openVault(ctx, e, new(logins), f); err != nil {
		return ps, nil, nil, err
	}
	opened = append(opened, func() error { return ours.close(context.WithoutCancel(ctx)) })
	ps[equals-1] = ours.pool
	for _, p := range ps {
		if err := p.fill(ctx, f.conns); err != nil {
			return ps, nil, nil, err
		}
	}
	return ps, ours, closeAll, nil
}

// rotateOnce returns when the old credential is gone, and a little later, since pgvault looks at connections more
// closely for a second more.
func rotateOnce(ctx context.Context, ours *vaultPool) error {
	if err := ours.rotate(ctx); err != nil {
		return err
	}
	for len(ours.rotator.Status().Generations) > 1 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	time.Sleep(1500 * time.Millisecond)
	return nil
}

func (e *env) printSteady(rows []*steadyResult, before, after string) {
	e.printf("\n## While nothing happens\n")
	e.printf("%d connections%s; ratios to %s (ours: to the mean of the two) are medians, with quartiles, of %d alternating slices of %v each, on pools opened %d times; load average before %s, after %s.\n",
		e.conns, e.over(), e.db.raw(), len(rows[0].rounds), e.slice, e.blocks, before, after)
	e.printf("| | goroutines | raw ns/op | raw again / raw | %[1]s / raw | allocs/op raw | allocs/op %[1]s |", e.db.ours())
	e.printf("| --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range rows {
		e.printf("| %s | %d | %.0f | %s | %s | %.2f | %.2f |", r.title(), r.op.goroutines, r.nanoseconds(0),
			r.ratio(equal), r.ratio(cost), r.allocations(0), r.allocations(2))
	}
}

// writeBenchstat writes all slices in the format of Go's benchmarks.
func (e *env) writeBenchstat(rows []*steadyResult) error {
	if e.benchstat == "" {
		return nil
	}
	f, err := os.Create(e.benchstat)
	if err != nil {
		return err
	}
	for _, r := range rows {
		for _, round := range r.rounds {
			for i, s := range round {
				_, _ = fmt.Fprintf(f, "Benchmark%s/pool=%s %d %.1f ns/op %.3f allocs/op\n", // Close reports what failed
					r.key(), e.poolNames()[i], s.n, s.nanoseconds(), s.allocations())
			}
		}
	}
	return f.Close()
}
