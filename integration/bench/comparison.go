package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// result is one run of one contender.
type result struct {
	queries, failed     int
	p50, p99, p999, max time.Duration
	logins              loginCount
	orphans             int   // sessions of revoked logins at the end
	err                 error // the first failure, of a query or of a rotation
}

// compare runs all contenders under the same load, one after the other, round after round, each round beginning with
// another one.
func (e *env) compare(ctx context.Context) error {
	chosen := slices.DeleteFunc(contenders(e.db), func(c contender) bool { return !e.only.MatchString(c.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("-only=%s matches no contender", e.only)
	}
	e.progressf("%d contenders, %d rounds of %v: about %v in all", len(chosen), e.rounds, e.run,
		(time.Duration(len(chosen)*e.rounds) * (e.run + 3*time.Second)).Round(time.Minute))
	results := make(map[string][]result)
	var problems []error
	loads := []string{machineLoad()}
	for round := range e.rounds {
		for i := range chosen {
			c := chosen[(i+round)%len(chosen)]
			r, err := e.runOnce(ctx, c)
			if ctx.Err() != nil {
				return errors.Join(append(problems, err)...)
			}
			e.progressf("round %d of %d, load %s: %s: %s", round+1, e.rounds, machineLoad(), c.name, r.line())
			results[c.name] = append(results[c.name], r)
			if err == nil && c.name == e.db.ours() {
				err = r.broken()
			}
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", c.name, err))
			}
		}
		loads = append(loads, machineLoad())
	}
	e.printComparison(chosen, results, loads)
	return errors.Join(problems...)
}

// runOnce opens a contender, runs the load, rotates meanwhile, closes it and looks for what it left.
func (e *env) runOnce(ctx context.Context, c contender) (r result, err error) {
	ctx = as(ctx, upkeep)
	var l logins
	s, err := c.open(ctx, e, &l)
	if err != nil {
		return r, fmt.Errorf("open: %w", err)
	}
	if err := s.fill(ctx, e.conns); err != nil {
		return r, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	runtime.GC()
	from := time.Now().Add(warmUp)
	var rotating sync.WaitGroup
	var rotateErr error
	rotating.Go(func() { rotateErr = e.rotateRepeatedly(ctx, s, &l, from) })
	samples, done := runLoad(ctx, s, e.options, from)
	r.logins = l.take()
	rotating.Wait()
	r.measure(samples, done)
	if r.err == nil {
		r.err = rotateErr
	}
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	r.orphans, err = e.db.orphans(closeCtx, e)
	err = errors.Join(err, s.close(closeCtx), e.left(closeCtx, 1))
	if c.name == e.db.ours() {
		err = errors.Join(rotateErr, err)
	}
	return r, err
}

// rotateRepeatedly rotates every interval, first when a third of it has passed, and counts logins from the end of the
// warm-up.
func (e *env) rotateRepeatedly(ctx context.Context, s subject, l *logins, from time.Time) error {
	time.Sleep(time.Until(from))
	l.take()
	for at := from.Add(e.interval / 3); at.Before(from.Add(e.run)); at = at.Add(e.interval) {
		select {
		case <-time.After(time.Until(at)):
		case <-ctx.Done():
			return nil
		}
		if err := s.rotate(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("rotate: %w", err)
		}
	}
	return nil
}

// broken returns an error if the run has shown what ours must not.
func (r *result) broken() error {
	switch {
	case r.failed > 0:
		return fmt.Errorf("%d queries failed, the first by: %w", r.failed, r.err)
	case r.orphans > 0:
		return fmt.Errorf("%d sessions of revoked logins were open at the end", r.orphans)
	}
	return nil
}

func (r *result) measure(samples []time.Duration, l *load) {
	slices.Sort(samples)
	r.queries, r.failed, r.err = len(samples), l.failed, l.err
	r.p50, r.p99, r.p999 = quantile(samples, 0.5), quantile(samples, 0.99), quantile(samples, 0.999)
	r.max = quantile(samples, 1)
}

// quantile returns the smallest sample that a part q of all does not exceed; 0 when there are none.
func quantile[T any](sorted []T, q float64) (none T) {
	if len(sorted) == 0 {
		return none
	}
	rank := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}
