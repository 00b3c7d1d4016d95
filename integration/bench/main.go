// Command bench shows what pgvault costs, or mysqlvault, on a real Vault and a real PostgreSQL or MariaDB that it starts
// itself:
//
//   - while credentials rotate, beside the raw pool and the usual ways of rotating by hand (comparison.go)
//   - while nothing happens, beside the raw pool (steady.go)
//
// Every figure is the median of runs that were interleaved with those it is compared to, since no machine is equally
// fast for minutes. Progress goes to standard error and the tables, in Markdown, to standard output.
//
//	make bench
//	make bench DB=mysql
//	cd integration && go run ./bench -quick
//	cd integration && go run ./bench -part=rotation -only='raw|floor|pgvault' -rounds=9
//
// No figure makes it fail. It exits with 1 if a query of pgvault or mysqlvault failed, if anything was left in Vault or
// the database, or if it could not measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// options are the flags.
type options struct {
	db       database
	conns    int
	maxConns int
	run      time.Duration
	rounds   int
	interval time.Duration
	think    time.Duration
	only     *regexp.Regexp
	part     string

	alternations int
	blocks       int // where pools happen to lie in memory makes up to two per cent
	slice        time.Duration
	benchstat    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if err := bench(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "a short run that shows that all works and measures nothing well")
	db := flags.String("db", "postgres", "whose pools: postgres (pgvault beside pgxpool) or mysql (mysqlvault beside go-sql-driver/mysql)")
	flags.StringVar(&o.part, "part", "all", "what to run: rotation, steady or all")
	flags.IntVar(&o.conns, "conns", 50, "connections of every pool")
	flags.IntVar(&o.maxConns, "max", 0, "connections that a pool may open; 0 means -conns, so that it is full")
	flags.DurationVar(&o.run, "run", 15*time.Second, "length of one run of one contender")
	flags.IntVar(&o.rounds, "rounds", 5, "runs of each contender")
	flags.DurationVar(&o.interval, "interval", 3*time.Second, "time from one rotation to the next")
	flags.DurationVar(&o.think, "think", 10*time.Millisecond, "mean pause of a worker between two queries")
	only := flags.String("only", "", "run only the contenders whose name matches this `regexp`")
	flags.IntVar(&o.alternations, "alternations", 500, "slices of each pool in the steady state")
	flags.IntVar(&o.blocks, "blocks", 5, "how often the pools of the steady state are opened anew")
	flags.DurationVar(&o.slice, "slice", 4*time.Millisecond, "length of one slice in the steady state")
	flags.StringVar(&o.benchstat, "benchstat", "", "also write every slice of the steady state to this `file`, for benchstat -col /pool")
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
	if *quick {
		o.conns, o.run, o.rounds, o.interval, o.alternations = 20, 4*time.Second, 1, 2*time.Second, 10
	}
	if o.maxConns == 0 {
		o.maxConns = o.conns
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	return o, o.check()
}

func (o options) check() error {
	switch {
	case o.part != "all" && o.part != "rotation" && o.part != "steady":
		return fmt.Errorf("-part is %q: it must be rotation, steady or all", o.part)
	case o.conns < 1 || o.maxConns < o.conns:
		return fmt.Errorf("-conns is %d and -max %d: at least one connection, and not more than the most", o.conns, o.maxConns)
	case o.rounds < 1 || o.alternations < 1 || o.blocks < 1:
		return errors.New("-rounds, -alternations and -blocks must be at least 1")
	case o.run < o.interval || o.interval < 2*transaction || o.think <= 0 || o.slice <= 0:
		return fmt.Errorf("-run must be at least one -interval, that at least %v, and -think and -slice above 0", 2*transaction)
	}
	return nil
}

// databases are what -db may be.
var databases = map[string]database{"postgres": postgres{}, "mysql": mariadb{}}

func (o options) servers(progress io.Writer) testbed.Options {
	servers := o.db.servers()
	servers.Progress = progress
	return servers
}

// bench starts the servers, runs what was asked for, and looks for what was left.
func bench(ctx context.Context, o options, out, progress io.Writer) error {
	bed, err := testbed.Start(ctx, o.servers(progress))
	if err != nil {
		return err
	}
	e, err := newEnv(ctx, bed, o, out, progress)
	if err == nil {
		err = e.bench(ctx)
	}
	return errors.Join(err, bed.Close())
}

func (e *env) bench(ctx context.Context) error {
	var errs []error
	if e.part != "steady" {
		errs = append(errs, e.compare(ctx))
	}
	if e.part != "rotation" && ctx.Err() == nil {
		errs = append(errs, e.steady(ctx))
	}
	errs = append(errs, e.finish())
	if ctx.Err() != nil {
		errs = append(errs, errors.New("stopped before it was done"))
	}
	return errors.Join(errs...)
}
