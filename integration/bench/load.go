package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	warmUp      = time.Second
	transaction = time.Second
)

// load is what callers do with a pool of n connections: short queries by four fifths as many workers, each with a
// pause in between, and one worker in twelve in transactions of a second.
type load struct {
	s     subject
	think time.Duration
	from  time.Time // what starts earlier is warming up
	until time.Time

	mu     sync.Mutex // guards what follows
	failed int
	err    error // the first
}

// runLoad returns all queries, as their callers saw them, and what failed.
func runLoad(ctx context.Context, s subject, o options, from time.Time) ([]sample, *load) {
	l := &load{s: s, think: o.pause(), from: from, until: from.Add(o.run)}
	queries, transactions := max(1, o.conns*4/5), max(1, o.conns*4/50)
	samples := make([][]sample, queries)
	ctx = as(ctx, caller)
	var wg sync.WaitGroup
	for i := range queries {
		samples[i] = make([]sample, 0, 4*int(o.run/l.think)+64)
		wg.Go(func() { samples[i] = l.query(ctx, uint64(i), samples[i]) })
	}
	for i := range transactions {
		wg.Go(func() { l.transact(ctx, i) })
	}
	wg.Wait()
	return slices.Concat(samples...), l
}

// query is one worker of short queries. It records into its own slice, so that recording waits for nobody.
func (l *load) query(ctx context.Context, seed uint64, samples []sample) []sample {
	random := rand.New(rand.NewPCG(seed, 1))
	for {
		time.Sleep(l.think/2 + rand.N(l.think))
		start := time.Now()
		if start.After(l.until) || ctx.Err() != nil {
			return samples
		}
		err := l.s.query(ctx, 1+random.IntN(items))
		took := time.Since(start)
		if start.After(l.from) {
			samples = append(samples, sample{at: start.Sub(l.from), took: took})
		}
		l.note(ctx, err)
	}
}

// transact is one worker of transactions. They start apart, so that they do not end together.
func (l *load) transact(ctx context.Context, i int) {
	time.Sleep(time.Duration(i) * transaction / 4)
	for time.Now().Before(l.until) && ctx.Err() == nil {
		err := l.transactOnce(ctx)
		if l.note(ctx, err); err != nil {
			time.Sleep(l.think)
		}
	}
}

// transactOnce reads at both ends: the second read needs the rights that the user had at the first.
func (l *load) transactOnce(ctx context.Context) (err error) {
	tx, err := l.s.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.rollback(ctx)
		}
	}()
	for range 2 {
		if err := tx.read(ctx); err != nil {
			return err
		}
		time.Sleep(transaction / 2)
	}
	return tx.commit(ctx)
}

func (l *load) note(ctx context.Context, err error) {
	if err == nil || errors.Is(err, ctx.Err()) {
		return // none, or we are being stopped
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed++; l.err == nil {
		l.err = err
	}
}
