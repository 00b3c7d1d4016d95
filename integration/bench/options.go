package main

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the flags.
type options struct {
	db       database
	tls      bool
	sizes    []int // connections of every pool, one comparison after the other
	most     int   // connections that a pool may open; 0 means as many as it has
	run      time.Duration
	rounds   int
	interval time.Duration
	think    time.Duration // at 50 connections
	only     *regexp.Regexp
	part     string
	quick    bool

	alternations int
	blocks       int // where pools happen to lie in memory makes up to two per cent
	slice        time.Duration
	benchstat    string
	docs         string
	name         string

	conns, maxConns int // of the pools at hand; see at
}

// parts are what -part may be.
var parts = []string{"rotation", "steady", "all", "growth", "vault"}

func parseOptions(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.quick, "quick", false, "a short run that shows that all works and measures nothing well")
	db := flags.String("db", "postgres", "whose pools: postgres (pgvault beside pgxpool) or mysql (mysqlvault beside go-sql-driver/mysql)")
	flags.BoolVar(&o.tls, "tls", false, "every connection to the database is encrypted, and the server's certificate verified")
	flags.StringVar(&o.part, "part", "all", "what to run: rotation, steady, all (both), growth, vault")
	sizes := flags.String("conns", "50", "connections of every pool: a number, or several `n,n,n`, each compared in turn; the steady state is measured at 50 if that is one of them, else at the first")
	flags.IntVar(&o.most, "max", 0, "connections that a pool may open; 0 means -conns, so that it is full")
	flags.DurationVar(&o.run, "run", 15*time.Second, "length of one run of one contender")
	flags.IntVar(&o.rounds, "rounds", 5, "runs of each contender")
	flags.DurationVar(&o.interval, "interval", 3*time.Second, "time from one rotation to the next")
	flags.DurationVar(&o.think, "think", 10*time.Millisecond, "mean pause of a worker between two queries at 50 connections; at other sizes in proportion, so that the server gets as many queries")
	only := flags.String("only", "", "run only the contenders whose name matches this `regexp`")
	flags.IntVar(&o.alternations, "alternations", 500, "slices of each pool in the steady state")
	flags.IntVar(&o.blocks, "blocks", 5, "how often the pools of the steady state are opened anew")
	flags.DurationVar(&o.slice, "slice", 4*time.Millisecond, "length of one slice in the steady state")
	flags.StringVar(&o.benchstat, "benchstat", "", "also write every slice of the steady state to this `file`, for benchstat -col /pool")
	flags.StringVar(&o.docs, "docs", "", "also write the report, with the machine described and latencies plotted, to this `directory`")
	flags.StringVar(&o.name, "name", "", "what the document's name ends in, so that it does not take the place of another")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q: all arguments are flags", flags.Arg(0))
	}
	var ok bool
	if o.db, ok = databases[*db]; !ok {
		return o, fmt.Errorf("-db is %q: it must be postgres or mysql", *db)
	}
	if o.sizes, err = parseSizes(*sizes); err != nil {
		return o, err
	}
	if o.quick {
		o.sizes, o.run, o.rounds, o.interval, o.alternations = []int{20}, 4*time.Second, 1, 2*time.Second, 10
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	return o.at(o.steadySize()), o.check()
}

func parseSizes(list string) (sizes []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || slices.Contains(sizes, n) {
			return nil, fmt.Errorf("-conns is %q: it must be numbers of connections, each at least 1 and given once, with commas in between", list)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// steadySize is how many connections pools have in the steady state.
func (o options) steadySize() int {
	const usual = 50
	if slices.Contains(o.sizes, usual) {
		return usual
	}
	return o.sizes[0]
}

// at is the options for pools of that many connections.
func (o options) at(conns int) options {
	o.conns, o.maxConns = conns, conns
	if o.most > 0 {
		o.maxConns = o.most
	}
	return o
}

func (o options) check() error {
	largest := slices.Max(o.sizes)
	switch {
	case !slices.Contains(parts, o.part):
		return fmt.Errorf("-part is %q: it must be one of %s", o.part, strings.Join(parts, ", "))
	case o.most < 0 || o.most > 0 && o.most < largest:
		return fmt.Errorf("-conns is up to %d and -max %d: not more than the most", largest, o.most)
	case o.rounds < 1 || o.alternations < 1 || o.blocks < 1:
		return errors.New("-rounds, -alternations and -blocks must be at least 1")
	case o.run < o.interval || o.interval < 2*transaction || o.think <= 0 || o.slice <= 0:
		return fmt.Errorf("-run must be at least one -interval, that at least %v, and -think and -slice above 0", 2*transaction)
	}
	return nil
}

// pause is the mean pause of a worker between two queries. With twice the workers it is twice as long.
func (o options) pause() time.Duration {
	return max(o.think*time.Duration(o.conns)/50, 100*time.Microsecond)
}

// sessions is how many connections the server must allow. Those who swap pools have two, for moments three; in the
// steady state three are open side by side.
func (o options) sessions() int {
	const others = 50 // Vault's, the superuser's, and proofs
	return 3*max(slices.Max(o.sizes), o.most) + others
}

// over is what reports say of the connections.
func (o options) over() string {
	if o.tls {
		return ", over TLS"
	}
	return ""
}
