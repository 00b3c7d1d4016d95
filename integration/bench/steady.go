package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/pgvault"
)

// pool is what is used of a pool in the steady state.
type pool interface {
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// operation is something that callers do all the time.
type operation struct {
	name       string
	goroutines int
	do         func(ctx context.Context, p pool) error
}

func acquireRelease(ctx context.Context, p pool) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	c.Release()
	return nil
}

func queryRow(ctx context.Context, p pool) error {
	var one int
	return p.QueryRow(ctx, "select 1").Scan(&one)
}

// connect takes the connection away from the pool, so that the next one has to be built as well.
func connect(ctx context.Context, p pool) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	return c.Hijack().Close(ctx)
}

// The pools that alternate: raw pgxpool, another one like it, whose ratio to the first shows what the machine does to
// equals, and pgvault.
var poolNames = [...]string{"raw", "raw-again", "pgvault"}

type pools [len(poolNames)]pool

// blocks is how often all pools are opened anew: where they happen to lie in memory makes up to two per cent.
const blocks = 5

// steady measures what pgvault costs while nothing happens.
func (e *env) steady(ctx context.Context) error {
	before := machineLoad()
	rows := newRows()
	for block := range blocks {
		e.progressf("steady state, block %d of %d, load %s", block+1, blocks, machineLoad())
		if err := e.measureCalls(ctx, rows[:len(rows)-1]); err != nil {
			return err
		}
		if err := e.measureConnect(ctx, rows[len(rows)-1]); err != nil {
			return err
		}
	}
	e.printSteady(rows, before, machineLoad())
	return e.writeBenchstat(rows)
}

// newRows returns what is measured: calls before and after a rotation, as many of each, and a connect.
func newRows() []*steadyResult {
	var rows []*steadyResult
	for _, when := range []string{"before any rotation", "after a rotation"} {
		for _, op := range []operation{
			{"Acquire and Release", 1, acquireRelease},
			{"Acquire and Release", 8, acquireRelease},
			{"QueryRow", 1, queryRow},
			{"QueryRow", 8, queryRow},
		} {
			rows = append(rows, &steadyResult{op: op, when: when})
		}
	}
	return append(rows, &steadyResult{op: operation{"Acquire that logs in", 1, connect}})
}

// measureCalls uses pools that have all their connections.
func (e *env) measureCalls(ctx context.Context, rows []*steadyResult) (err error) {
	ps, vault, closeAll, err := e.openPools(ctx, e.conns, e.conns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	for i, r := range rows {
		if i == len(rows)/2 {
			if err := rotateOnce(ctx, vault); err != nil {
				return err
			}
		}
		if err := e.alternate(ctx, ps, r); err != nil {
			return err
		}
	}
	return nil
}

// measureConnect uses pools that have nothing idle, so that every Acquire logs in.
func (e *env) measureConnect(ctx context.Context, r *steadyResult) (err error) {
	ps, _, closeAll, err := e.openPools(ctx, 0, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	return e.alternate(ctx, ps, r)
}

func (e *env) openPools(ctx context.Context, minConns, maxConns int) (ps pools, vault *pgvault.Pool, closeAll func() error, err error) {
	limit := func(c *pgxpool.Config) { c.MinConns, c.MaxConns = int32(minConns), int32(maxConns) }
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
	for i := range 2 {
		c, err := e.poolConfig(e.static.User, e.static.Password)
		if err != nil {
			return ps, nil, nil, err
		}
		limit(c)
		p, err := pgxpool.NewWithConfig(ctx, c)
		if err != nil {
			return ps, nil, nil, err
		}
		opened = append(opened, func() error { p.Close(); return nil })
		ps[i] = p
	}
	c, err := e.vaultConfig(ctx)
	if err != nil {
		return ps, nil, nil, err
	}
	limit(c.Config)
	if vault, err = pgvault.NewWithConfig(ctx, c); err != nil {
		return ps, nil, nil, err
	}
	opened = append(opened, func() error { return vault.Shutdown(context.WithoutCancel(ctx)) })
	ps[2] = vault
	return ps, vault, closeAll, e.fill(ctx, minConns, func() int { return int(vault.Stat().IdleConns()) })
}

// rotateOnce returns when the old credential is gone, and a little later, since pgvault looks at connections more
// closely for a second more.
func rotateOnce(ctx context.Context, vault *pgvault.Pool) error {
	if err := vault.Rotate(ctx); err != nil {
		return err
	}
	for len(vault.Rotator().Status().Generations) > 1 {
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
	e.printf("%d connections; ratios to raw pgxpool are medians, with quartiles, of %d alternating slices of %v each, on pools opened %d times; load average before %s, after %s.\n",
		e.conns, len(rows[0].rounds), e.slice, blocks, before, after)
	e.printf("| | goroutines | raw ns/op | raw again / raw | pgvault / raw | allocs/op raw | allocs/op pgvault |")
	e.printf("| --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range rows {
		e.printf("| %s | %d | %.0f | %s | %s | %.2f | %.2f |", r.title(), r.op.goroutines, r.nanoseconds(0),
			r.ratio(1), r.ratio(2), r.allocations(0), r.allocations(2))
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
					r.key(), poolNames[i], s.n, s.nanoseconds(), s.allocations())
			}
		}
	}
	return f.Close()
}
