// Command river works through jobs of River (riverqueue.com), a queue in PostgreSQL, with a pool whose credentials
// rotate. River takes the *pgxpool.Pool inside the pool, and neither the client nor a worker knows of Vault.
//
//	export VAULT_ADDR=https://vault.internal:8200 VAULT_TOKEN=…
//	OWNER_URL='postgres://owner@db.internal/app' go run ./river -migrate
//	DATABASE_URL='postgres://db.internal/app?sslmode=verify-full&vault_path=database/creds/app' go run ./river
//
// The first makes River's tables, once, as whoever owns the database: users that Vault makes must not own anything. The
// second adds a job ten times a second, and prints each that was done, and as whom:
//
//	job 1 done as v-token-app-5yxVbz1S…
//	job 2 done as v-token-app-5yxVbz1S…
//
// River listens for new jobs on a connection that it holds. When its credential is replaced the connection lasts until
// the drain deadline, five minutes unless vault_drain_timeout says otherwise; River logs that it has ended, makes another,
// and polls meanwhile. A job that is running keeps its connections until then, too. With short leases set both shorter.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/vaultpool/vaultpool/pgvault"
)

func main() {
	migrate := flag.Bool("migrate", false, "make River's tables in the database of OWNER_URL, and exit")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *migrate {
		err = makeTables(ctx, os.Getenv("OWNER_URL"))
	} else {
		err = run(ctx, os.Getenv("DATABASE_URL"), os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "river:", err)
		os.Exit(1)
	}
}

func makeTables(ctx context.Context, ownerURL string) error {
	owner, err := pgxpool.New(ctx, ownerURL)
	if err != nil {
		return err
	}
	defer owner.Close()
	migrator, err := rivermigrate.New(riverpgxv5.New(owner), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// countArgs is a job.
type countArgs struct {
	Number int `json:"number"`
}

// Kind is the job's name.
func (countArgs) Kind() string { return "count" }

// counter does such jobs.
type counter struct {
	river.WorkerDefaults[countArgs]
	pool *pgvault.Pool
	out  io.Writer
}

// Work does one.
func (c *counter) Work(ctx context.Context, job *river.Job[countArgs]) error {
	var user string
	if err := c.pool.QueryRow(ctx, "SELECT session_user").Scan(&user); err != nil {
		return err // River tries again later
	}
	_, err := fmt.Fprintf(c.out, "job %d done as %s\n", job.Args.Number, user)
	return err
}

// run adds jobs, and does them, until ctx ends.
func run(ctx context.Context, databaseURL string, out io.Writer, logger *slog.Logger) (err error) {
	pool, err := pgvault.New(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Shutdown(context.WithoutCancel(ctx))) }()

	workers := river.NewWorkers()
	river.AddWorker(workers, &counter{pool: pool, out: out})
	client, err := river.NewClient(riverpgxv5.New(pool.Pool), &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 4}},
		Workers: workers,
		Logger:  logger,
		// River reindexes its tables at midnight, which is for their owner to do.
		ReindexerSchedule: river.NeverSchedule(),
	})
	if err != nil {
		return err
	}
	working := context.WithoutCancel(ctx) // Stop lets jobs that are running finish
	if err := client.Start(working); err != nil {
		return err
	}
	addJobs(ctx, client, logger)

	stopping, cancel := context.WithTimeout(working, 15*time.Second)
	defer cancel()
	return client.Stop(stopping)
}

// addJobs adds a job now and then until ctx ends.
func addJobs(ctx context.Context, client *river.Client[pgx.Tx], logger *slog.Logger) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for number := 1; ; number++ {
		if _, err := client.Insert(ctx, countArgs{number}, nil); err != nil && ctx.Err() == nil {
			logger.Error("add a job", "number", number, "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
