// Command chaos is the fault suite: pgvault and mysqlvault under steady load on a real Vault, PostgreSQL and MariaDB,
// while everything between them fails, at random moments, alone and in pairs. Beside each runs a control, the same
// driver with a static login, with the same load, on the same server, through the same network: what fails there is
// the fault's, any excess is ours.
//
//	go run ./chaos                     five minutes
//	go run ./chaos -duration=8h        a soak
//	go run ./chaos -seed=7             the schedule of another run again
//	go run ./chaos -html=timeline.html draws it
//	go run ./chaos -only='full|token'  only some of the faults
//	go run ./chaos -v                  shows what the pools report
//
// After each fault it waits until all is well again, measures how long that took, and looks at Vault and the databases
// from outside. It exits with 0 only if nothing failed in excess of the controls (excess.go says what that means), every
// invariant held, and nothing was left behind: no lease, user, session, socket or goroutine. The first Ctrl-C or
// SIGTERM ends it in good order, with the summary; the second at once.
//
// # The clock
//
// One process cannot be given a wall clock of its own: a time namespace has its own monotonic clock but not its own
// time of day, a preloaded library is not asked by Go programs, and setting the machine's clock would hit everybody. So
// what jumps is the wall clock as the engine in the load process sees it, which this program is linked to move: an hour
// forward and back, and right again. And the whole load process is stopped and continued, for seconds and for longer than
// a lease: what happens to a program in a suspended machine, but for the monotonic clock, which goes on.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(loadVariable) != "" {
		os.Exit(loadMain(os.Stdin, os.Stdout))
	}
	os.Exit(run())
}

// options is what the suite is told.
type options struct {
	duration time.Duration
	seed     uint64
	html     string // where to draw the timeline; "" for nowhere
	events   bool   // show what the pools report

	faults []*fault      // what to inject
	settle time.Duration // how long the servers get until all is in order; 0: what they need at most
}

func parseOptions(args []string) (options, error) {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	o := options{}
	flags.DurationVar(&o.duration, "duration", 5*time.Minute, "how long the load runs")
	flags.Uint64Var(&o.seed, "seed", 0, "of the schedule; 0 takes one at random")
	flags.StringVar(&o.html, "html", "", "`file` to draw the timeline in, a page of its own")
	flags.BoolVar(&o.events, "v", false, "show every event that the pools report")
	only := flags.String("only", "", "a regular `expression`: inject only faults whose names it matches")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.duration <= 0 || flags.NArg() > 0 {
		return o, fmt.Errorf("-duration is %v, and there are %d arguments: give a time above 0, and flags only", o.duration, flags.NArg())
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32()) + 1
	}
	var err error
	o.faults, err = matching(*only)
	return o, err
}

// matching returns the faults of the catalogue whose names match.
func matching(only string) ([]*fault, error) {
	expression, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	found := slices.DeleteFunc(catalogue(), func(f *fault) bool { return !expression.MatchString(f.name) })
	if len(found) == 0 {
		return nil, fmt.Errorf("-only=%s matches no fault", only)
	}
	return found, nil
}

// run returns the exit code.
func run() int {
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 2
	}
	screen := newScreen(os.Stdout)
	ctx, stop := stopOnSignals(screen)
	defer stop()
	report, err := runSuite(ctx, o, screen)
	screen.clear()
	if report != nil {
		screen.printf("%s", report.text())
		if o.html != "" {
			err = errors.Join(err, report.draw(o.html))
		}
	}
	if err != nil {
		screen.printf("chaos: %v", err)
	}
	if err != nil || report == nil || len(report.problems()) > 0 {
		return 1
	}
	return 0
}

// stopOnSignals returns a context that ends with the first signal. The second ends the process: the servers and the
// load end with it.
func stopOnSignals(screen *screen) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		first := <-signals
		screen.printf("%v: stopping in good order; once more stops at once", first)
		cancel(fmt.Errorf("stopped by a signal, %v", first))
		second := <-signals
		screen.printf("%v again: stopped at once, nothing was checked or given back", second)
		os.Exit(130)
	}()
	return ctx, func() { cancel(nil) }
}

// runSuite starts everything, runs the faults, stops everything in good order, and reports. The error is for what kept
// it from doing so.
func runSuite(ctx context.Context, o options, screen *screen) (_ *report, err error) {
	screen.printf("the schedule is that of -seed=%d; starting Vault, PostgreSQL and MariaDB", o.seed)
	site, err := newSite(ctx, screen)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.close()) }()
	told, err := site.settings()
	if err != nil {
		return nil, err
	}
	ledger := newLedger()
	site.currentUser = ledger.currentUser
	record := newRecord()
	complain := func(line string) { screen.printf("load process: %s", line) }
	receive := func(m message) {
		if site.vault.shows(m.said()) {
			record.broken("an error or an event of " + string(m.of()) + " shows a password or a token")
		}
		if ledger.receive(m); o.events && m.Event != nil {
			screen.printf("%s %s: %s", m.Time.Format(timeFormat), m.Event.Lane, m.Event.Text)
		}
	}
	if site.process, err = startProcess(told, receive, complain); err != nil {
		return nil, err
	}
	defer site.process.kill()
	if err := ready(ctx, ledger, site.process); err != nil {
		return nil, err
	}
	screen.printf("the load runs, for %v: leases of %v, %d connections in each of %v", o.duration, leaseTTL, poolSize, lanes)

	r := &runner{
		site: site, ledger: ledger, screen: screen, schedule: newSchedule(o.seed, o.faults), record: record, began: time.Now(), patience: healBound, settle: o.settle,
	}
	r.ends = r.began.Add(o.duration)
	return r.finish(ctx, o, r.run(ctx)), nil
}

// ready waits until the pools are open.
func ready(ctx context.Context, l *ledger, p *process) error {
	select {
	case <-l.ready:
		return nil
	case <-p.done:
		return errors.New("the load process has ended while starting")
	case <-time.After(readyTimeout):
		return fmt.Errorf("the load process has not opened its pools after %v", readyTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// finish ends the load, looks at what is left, and reports.
func (r *runner) finish(ctx context.Context, o options, err error) *report {
	rep := &report{seed: o.seed, ran: time.Since(r.began), reason: "the time is over", err: err, record: r.record}
	if err != nil {
		rep.reason = "the suite could not go on"
	}
	if ctx.Err() != nil {
		rep.reason = context.Cause(ctx).Error()
	}
	r.screen.printf("%s; closing the pools", rep.reason)
	rep.closing = r.site.process.stop()
	if err == nil {
		r.peace()
	}
	rep.snapshot, rep.requests = r.ledger.snapshot(), r.site.vault.counts()
	checking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	var wrote map[lane]sums
	rep.end, wrote = r.ledger.ending()
	rep.left = r.site.left(checking, wrote, r.ledger.knew, cmp.Or(r.settle, leaseTTL*5/3+settleBound))
	return rep
}
