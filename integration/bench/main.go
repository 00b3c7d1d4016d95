// Command bench shows what pgvault costs, or mysqlvault, on a real Vault and a real PostgreSQL or MariaDB that it starts
// itself:
//
//   - while credentials rotate, beside the raw pool and the usual ways of rotating by hand (comparison.go)
//   - while nothing happens, beside the raw pool (steady.go)
//   - with more and more connections, without any server (growth.go)
//   - at Vault, beside the least that the schedule allows (vault.go)
//
// Every figure is the median of runs that were interleaved with those it is compared to, since no machine is equally
// fast for minutes. Progress goes to standard error and the tables, in Markdown, to standard output.
//
//	make bench
//	make bench DB=mysql ARGS='-tls -conns=10,50,200'
//	make bench ARGS='-part=growth -docs=docs/benchmarks'
//	make bench ARGS='-part=vault -docs=docs/benchmarks'
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
	"syscall"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

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

// databases are what -db may be.
var databases = map[string]database{"postgres": postgres{}, "mysql": mariadb{}}

// bench runs what was asked for, and writes the document where one was asked for too, also when something failed: the
// report says what. It does not if it was stopped.
func bench(ctx context.Context, o options, out, progress io.Writer) error {
	doc := newDocument(o, os.Args[1:])
	err := run(ctx, o, io.MultiWriter(out, &doc.text), progress, doc)
	if ctx.Err() != nil {
		return errors.Join(err, errors.New("stopped before it was done"))
	}
	return errors.Join(err, doc.write())
}

func run(ctx context.Context, o options, out, progress io.Writer, doc *document) error {
	if o.part == "growth" {
		return growth(ctx, o, out)
	}
	servers := o.db.servers(o)
	servers.Progress = progress
	bed, err := testbed.Start(ctx, servers)
	if err != nil {
		return err
	}
	e, err := newEnv(ctx, bed, o, out, progress)
	if err == nil {
		e.doc = doc
		err = e.bench(ctx)
	}
	return errors.Join(err, bed.Close())
}

func (e *env) bench(ctx context.Context) error {
	errs := []error{e.describe(ctx)}
	if e.part == "rotation" || e.part == "all" {
		for _, n := range e.sizes {
			if ctx.Err() == nil {
				errs = append(errs, e.at(n).compare(ctx))
			}
		}
	}
	if (e.part == "steady" || e.part == "all") && ctx.Err() == nil {
		errs = append(errs, e.steady(ctx))
	}
	if e.part == "vault" {
		errs = append(errs, e.vaultCost(ctx))
	}
	return errors.Join(append(errs, e.finish())...)
}
