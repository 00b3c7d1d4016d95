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
	trace               *trace
}

// comparison is one under way.
type comparison struct {
	chosen  []contender
	results map[string][]result
	traces  map[string]*trace // of the first round
	loads   []string
}

// compare runs all contenders under the same load, one after the other, round after round, each round beginning with
// another one.
func (e *env) compare(ctx context.Context) error {
	chosen := slices.DeleteFunc(contenders(e.db), func(c contender) bool { return !e.only.MatchString(c.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("-only=%s matches no contender", e.only)
	}
	e.progressf("%d connections, %d contenders, %d rounds of %v: about %v in all", e.conns, len(chosen), e.rounds, e.run,
		(time.Duration(len(chosen)*e.rounds) * (e.run + 3*time.Second)).Round(time.Minute))
	c := &comparison{chosen: chosen, results: make(map[string][]result), traces: make(map[string]*trace), loads: []string{machineLoad()}}
	var problems []error
	for round := range e.rounds {
		problems = append(problems, e.compareOnce(ctx, c, round))
		if ctx.Err() != nil {
			return errors.Join(problems...)
		}
	}
	e.printComparison(c)
	return errors.Join(append(problems, e.plot(c))...)
}

// compareOnce is one round.
func (e *env) compareOnce(ctx context.Context, c *comparison, round int) error {
	var problems []error
	for i := range c.chosen {
		contender := c.chosen[(i+round)%len(c.chosen)]
		r, err := e.runOnce(ctx, contender)
		if ctx.Err() != nil {
			return errors.Join(append(problems, err)...)
		}
		e.progressf("round %d of %d, load %s: %s: %s", round+1, e.rounds, machineLoad(), contender.name, r.line())
		if round == 0 {
			c.traces[contender.name] = r.trace
		}
		r.trace = nil // it is large
		c.results[contender.name] = append(c.results[contender.name], r)
		if err == nil && contender.name == e.db.ours() {
			err = r.broken()
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s, %d connections: %w", contender.name, e.conns, err))
		}
	}
	c.loads = append(c.loads, machineLoad())
	return errors.Join(problems...)
}

// plot draws what the first round was like, where it is going to be looked at.
func (e *env) plot(c *comparison) error {
	if !e.doc.wanted() {
		return nil
	}
	var traces []*trace
	for _, name := range plotted(e.db) {
		if t := c.traces[name]; t != nil {
			traces = append(traces, t)
		}
	}
	if len(traces) == 0 {
		return nil
	}
	database, _ := e.db.name()
	title := fmt.Sprintf("Latency of queries while credentials rotate: %s%s, %d connections", database, e.over(), e.conns)
	image, err := drawLatency(title, e.run, traces)
	if err != nil {
		return err
	}
	e.printf("\nThe first round:\n\n%s", e.doc.add(fmt.Sprintf("%d", e.conns), title, image))
	return nil
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
	var rotations []time.Duration
	rotating.Go(func() { rotations, rotateErr = e.rotateRepeatedly(ctx, s, &l, from) })
	samples, done := runLoad(ctx, s, e.options, from)
	r.logins = l.take()
	rotating.Wait()
	r.measure(samples, done)
	if _, never := s.(*raw); never {
		rotations = nil
	}
	r.trace = &trace{c.name, samples, rotations}
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
// warm-up. It returns when each rotation began, from then.
func (e *env) rotateRepeatedly(ctx context.Context, s subject, l *logins, from time.Time) (began []time.Duration, err error) {
	time.Sleep(time.Until(from))
	l.take()
	for at := from.Add(e.interval / 3); at.Before(from.Add(e.run)); at = at.Add(e.interval) {
		select {
		case <-time.After(time.Until(at)):
		case <-ctx.Done():
			return began, nil
		}
		began = append(began, time.Since(from))
		if err := s.rotate(ctx); err != nil && ctx.Err() == nil {
			return began, fmt.Errorf("rotate: %w", err)
		}
	}
	return began, nil
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

func (r *result) measure(samples []sample, l *load) {
	took := make([]time.Duration, len(samples))
	for i, s := range samples {
		took[i] = s.took
	}
	slices.Sort(took)
	r.queries, r.failed, r.err = len(took), l.failed, l.err
	r.p50, r.p99, r.p999, r.max = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999), quantile(took, 1)
}

// quantile returns the smallest sample that a part q of all does not exceed; 0 when there are none.
func quantile[T any](sorted []T, q float64) (none T) {
	if len(sorted) == 0 {
		return none
	}
	rank := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}
