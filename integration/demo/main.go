// Command demo runs examples/webservice, a small service on pgvault or mysqlvault, under steady load on a real Vault and
// a real PostgreSQL or MariaDB, with credentials so short-lived that each is renewed and replaced within seconds. It
// shows what happens to them, checks every answer, looks at the database from outside after every revocation, and says
// in the end what failed and what was left behind.
//
//	make demo                 on PostgreSQL, until Ctrl-C
//	make demo DB=mysql        on MariaDB
//	make demo DURATION=90s    ends by itself
//	make demo OUTAGE=0        Vault is never sealed
//
// In the first minute it shows, once each, Vault sealed for a second just when a renewal is due, a rush of requests over a
// rotation, and, on PostgreSQL, Vault sealed for longer than the lease lasts.
//
// It exits with 0 only if no request failed, no session of a revoked user was alive, the service stopped in good order,
// and nothing was left in Vault or in the database. The first Ctrl-C, SIGTERM or SIGHUP ends it in good order, with the
// summary; the second at once.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	// The kernel ends the service when the thread that started it does (see service.go): make that the main thread.
	runtime.LockOSThread()
	os.Exit(run())
}

// run returns the exit code.
func run() int {
	options, err := parseOptions(os.Args[1:], os.Getenv)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 2
	}
	giveBack := takeTerminal()
	defer giveBack()
	screen := newScreen(os.Stdout)
	defer screen.close()
	ctx, stop := stopOnSignals(screen, giveBack)
	defer stop()

	report, err := runDemo(ctx, options, screen)
	screen.clear()
	if err != nil && report == nil && ctx.Err() != nil {
		screen.printf("demo: %v before the load began: nothing was shown", context.Cause(ctx))
		return 1
	}
	if err != nil {
		screen.printf("demo: %v", err)
		return 1
	}
	screen.printf("%s", report.text())
	if len(report.problems()) > 0 {
		return 1
	}
	return 0
}

// options is what the demo is told.
type options struct {
	database string        // postgresName or mysqlName
	duration time.Duration // 0: until it is stopped
	outage   time.Duration // how long Vault is sealed the first time; 0: never
	audit    bool          // collect every secret, for a test to look for
}

func parseOptions(args []string, getenv func(string) string) (options, error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	database := flags.String("db", getenv("DB"), "which `database`: postgres, the default, or mysql, which is MariaDB (DB)")
	text := flags.String("duration", getenv("DURATION"), "how long to run, such as `90s`; empty means until Ctrl-C (DURATION)")
	outage := flags.String("outage", cmp.Or(getenv("OUTAGE"), "1s"), "how long Vault is sealed 20 s after the start, when the lease has 2 to 3 s left; 0 means not at all, and not for longer than the lease lasts later either (OUTAGE)")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	o := options{database: *database}
	var err error
	if o.outage, err = time.ParseDuration(*outage); err != nil || o.outage < 0 {
		return options{}, fmt.Errorf("OUTAGE is %q: give a time with its unit, such as 1s, or 0", *outage)
	}
	switch o.database {
	case "":
		o.database = postgresName
	case postgresName, mysqlName:
	default:
		return options{}, fmt.Errorf("DB is %q: it must be %s or %s", o.database, postgresName, mysqlName)
	}
	if *text == "" {
		return o, nil
	}
	if o.duration, err = time.ParseDuration(*text); err != nil || o.duration <= 0 {
		return options{}, fmt.Errorf("DURATION is %q: give a time above 0 with its unit, such as 90s or 5m", *text)
	}
	return o, nil
}

// stopOnSignals returns a context that ends with the first signal. The second ends the process: the servers and the
// service end with it (Pdeathsig), and what they had is lost with them.
func stopOnSignals(screen *screen, giveBack func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		first := <-signals
		screen.printf("%s: stopping in good order; once more stops at once", name(first))
		cancel(fmt.Errorf("stopped by %s", name(first)))
		second := <-signals
		screen.printf("%s again: stopped at once, nothing was checked or given back", name(second))
		screen.close()
		giveBack()
		os.Exit(130)
	}()
	return ctx, func() { cancel(nil) }
}

func name(s os.Signal) string {
	switch s {
	case os.Interrupt:
		return "Ctrl-C"
	case syscall.SIGTERM:
		return "SIGTERM"
	default:
		return s.String()
	}
}
