package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"
)

// growthSizes are how many sockets the engine tracks.
var growthSizes = []int{10, 1000, 10000}

const (
	growthPools = 10 // they share the sockets
	growthRuns  = 5  // memory is measured this often
)

// growthResult is what a number of sockets costs.
type growthResult struct {
	sockets          int
	current, rotated time.Duration // from the source's answer until Current returns the new generation, and until Rotate returns
	bytes            float64       // of heap, for each socket
	goroutines       goroutines
}

// growth measures the engine alone, whose sockets lead nowhere: neither a server nor a network is part of the figures.
func growth(ctx context.Context, o options, out io.Writer) error {
	rotations := 101
	if o.quick {
		rotations = 11
	}
	var rows []growthResult
	for _, n := range growthSizes {
		r, err := grow(ctx, n, rotations)
		if err != nil {
			return fmt.Errorf("%d sockets: %w", n, err)
		}
		rows = append(rows, r)
	}
	printGrowth(out, rows, rotations)
	return nil
}

func grow(ctx context.Context, n, rotations int) (r growthResult, err error) {
	r.sockets = n
	if r.goroutines, err = countGoroutines(ctx, n); err != nil {
		return r, err
	}
	if r.bytes, err = bytesPerSocket(ctx, n); err != nil {
		return r, err
	}
	r.current, r.rotated, err = timeToPublish(ctx, n, rotations)
	return r, err
}

func printGrowth(out io.Writer, rows []growthResult, rotations int) {
	printf := func(format string, values ...any) {
		_, _ = fmt.Fprintf(out, format+"\n", values...) // who does not listen misses it
	}
	printf("\n## With more sockets\n")
	printf("The engine alone, with sockets that lead nowhere. Times are medians of %d rotations, from the moment the source has "+
		"answered: until `Current` returns the new generation, which new connections log in with from then on, and until `Rotate` returns. "+
		"Bytes are the heap's growth by `Track`, `Bind` and `SetSession`, without the sockets themselves, the median of %d; "+
		"goroutines are those of a `Rotator`, of each of %d pools attached to it, and for all sockets together.\n", rotations, growthRuns, growthPools)
	printf("| sockets | until Current (µs) | until Rotate returns (µs) | bytes per socket | goroutines: rotator | each pool | all sockets |")
	printf("| --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range rows {
		printf("| %d | %.0f | %.0f | %.0f | %d | %d | %d |", r.sockets, microseconds(r.current), microseconds(r.rotated), r.bytes,
			r.goroutines.rotator, r.goroutines.pool, r.goroutines.sockets)
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// timeToPublish rotates, and has all sockets replaced before it does so again.
func timeToPublish(ctx context.Context, n, rotations int) (current, rotated time.Duration, err error) {
	g, err := newGrowing(ctx, 1)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.open(n); err != nil {
		return 0, 0, err
	}
	type times struct{ current, rotated time.Duration }
	var all []times
	for range rotations {
		var t times
		if t.current, t.rotated, err = g.rotate(ctx); err != nil {
			return 0, 0, err
		}
		all = append(all, t)
	}
	return median(all, func(t times) time.Duration { return t.current }), median(all, func(t times) time.Duration { return t.rotated }), nil
}

// bytesPerSocket is what tracking adds to the heap, sockets themselves not counted.
func bytesPerSocket(ctx context.Context, n int) (float64, error) {
	var runs []float64
	for range growthRuns {
		g, err := newGrowing(ctx, 1)
		if err != nil {
			return 0, err
		}
		sockets := make([]net.Conn, n)
		for i := range sockets {
			sockets[i] = new(deadEnd)
		}
		g.pools[0].conns = make([]net.Conn, 0, n)
		before := heap()
		err = g.pools[0].track(sockets)
		grown := heap() - before
		runtime.KeepAlive(sockets)
		if err = errors.Join(err, g.close()); err != nil {
			return 0, err
		}
		runs = append(runs, float64(grown)/float64(n))
	}
	return median(runs, func(bytes float64) float64 { return bytes }), nil
}

// heap is what is alive on it.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one has found dead is swept for sure
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// goroutines are how many there are for what.
type goroutines struct{ rotator, pool, sockets int }

func countGoroutines(ctx context.Context, n int) (c goroutines, err error) {
	before := settledGoroutines()
	g, err := newGrowing(ctx, 0)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	alone := settledGoroutines()
	for range growthPools {
		if err := g.attach(); err != nil {
			return c, err
		}
	}
	attached := settledGoroutines()
	if err := g.open(n / growthPools); err != nil {
		return c, err
	}
	full := settledGoroutines()
	return goroutines{rotator: alone - before, pool: (attached - alone) / growthPools, sockets: full - attached}, nil
}

// settledGoroutines is how many stay: those that are about to end do so meanwhile.
func settledGoroutines() int {
	least := runtime.NumGoroutine()
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		least = min(least, runtime.NumGoroutine())
	}
	return least
}
