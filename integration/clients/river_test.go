package clients_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// River: two clients, of which one leads, on the pool inside. Every job is done once, at its first attempt, and in
// the transaction that completes it; the leader goes on leading. River listens on hijacked connections: the only
// ones that are cut, at the drain deadline. It says so in its log, takes new ones, and polls meanwhile.
func TestRiver(t *testing.T) {
	t.Parallel()
	p := openPool(t, drainTimeout(6*time.Second))
	ctx := t.Context()
	migrator, err := rivermigrate.New(riverpgxv5.New(p.Pool.Pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	kit.Check(t, err)
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	kit.Check(t, err)
	_, err = p.Exec(ctx, "CREATE TABLE orders (n bigint PRIMARY KEY); CREATE TABLE shipped (n bigint PRIMARY KEY)",
		pgx.QueryExecModeSimpleProtocol)
	kit.Check(t, err)

	logs := &kit.Logs{}
	worker := &shipping{pool: p.Pool.Pool}
	clients := []*river.Client[pgx.Tx]{startRiver(t, p, worker, logs), startRiver(t, p, worker, logs)}
	ordered := orderThrough(t, p, clients, worker)

	kit.Eventually(t, "every order is shipped", func(context.Context) bool { return worker.done.Load() >= ordered || t.Failed() })
	ticks := worker.ticks.Load()
	kit.Eventually(t, "the leader leads", func(context.Context) bool { return worker.ticks.Load() > ticks+1 || t.Failed() })
	checkRiver(t, p, ordered)
	checkRiverNotifiers(t, p, logs)
}

// order is a job's argument: ship the order of this number.
type order struct {
	N int64 `json:"n"`
}

// Kind makes order a river.JobArgs.
func (order) Kind() string { return "order" }

// tick is what the leader queues every second.
type tick struct{}

// Kind makes tick a river.JobArgs.
func (tick) Kind() string { return "tick" }

// shipping does both kinds of jobs.
type shipping struct {
	pool        *pgxpool.Pool
	done, ticks atomic.Int64
}

// ship does a job and completes it in one transaction. A job that is done twice violates the key.
func (s *shipping) ship(ctx context.Context, job *river.Job[order]) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO shipped SELECT n FROM orders WHERE n = $1", job.Args.N); err != nil {
			return err
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
		return err
	})
	if err == nil {
		s.done.Add(1)
	}
	return err
}

func startRiver(t *testing.T, p *pool, s *shipping, logs *kit.Logs) *river.Client[pgx.Tx] {
	t.Helper()
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(s.ship))
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[tick]) error {
		s.ticks.Add(1)
		return nil
	}))
	client, err := river.NewClient(riverpgxv5.New(p.Pool.Pool), &river.Config{
		Logger:  slog.New(logs),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 3}},
		Workers: workers,
		PeriodicJobs: []*river.PeriodicJob{river.NewPeriodicJob(river.PeriodicInterval(time.Second),
			func() (river.JobArgs, *river.InsertOpts) { return tick{}, nil }, &river.PeriodicJobOpts{RunOnStart: true})},
	})
	kit.Check(t, err)
	kit.Check(t, client.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
		defer cancel()
		if err := client.Stop(ctx); err != nil {
			t.Errorf("stopping River: %v", err)
		}
	})
	return client
}

// orderThrough orders, each with its job in one transaction or with a job after it, while credentials are replaced,
// and returns how many orders there are.
func orderThrough(t *testing.T, p *pool, clients []*river.Client[pgx.Tx], s *shipping) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*kit.Patience)
	defer cancel()
	var stop atomic.Bool
	var ordered atomic.Int64
	var ordering sync.WaitGroup
	for _, client := range clients {
		ordering.Go(func() {
			for !stop.Load() {
				n := ordered.Add(1)
				if err := placeOrder(ctx, p, client, n); err != nil {
					t.Errorf("ordering %d: %v", n, err)
					return
				}
				time.Sleep(5 * time.Millisecond) // a queue that only grows shows nothing
			}
		})
	}
	defer ordering.Wait()
	defer stop.Store(true)
	for range rotations { // one after the other, since each deadline is to find the listeners
		goesOn(t, s.done.Load)
		old, _ := p.rotate(t)
		p.events.Wait(t, rotation.Revoked, old)
	}
	goesOn(t, s.done.Load)
	p.checkMoved(t)
	stop.Store(true)
	ordering.Wait()
	return ordered.Load()
}

func placeOrder(ctx context.Context, p *pool, client *river.Client[pgx.Tx], n int64) error {
	if n%2 == 0 {
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO orders VALUES ($1)", n); err != nil {
				return err
			}
			_, err := client.InsertTx(ctx, tx, order{n}, nil)
			return err
		})
	}
	if _, err := p.Exec(ctx, "INSERT INTO orders VALUES ($1)", n); err != nil {
		return err
	}
	_, err := client.Insert(ctx, order{n}, nil)
	return err
}

// checkRiver looks at what River has done in the database.
func checkRiver(t *testing.T, p *pool, ordered int64) {
	t.Helper()
	var shipped, jobs, clean, leaders int64
	kit.Check(t, p.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM shipped),
		count(*), count(*) FILTER (WHERE state = 'completed' AND attempt = 1 AND errors IS NULL),
		(SELECT count(*) FROM river_leader WHERE expires_at > now())
		FROM river_job WHERE kind = 'order'`).Scan(&shipped, &jobs, &clean, &leaders))
	if shipped != ordered || jobs != ordered || clean != ordered || leaders != 1 {
		t.Errorf("of %d orders %d are shipped, in %d jobs of which %d were done at once, with %d leaders",
			ordered, shipped, jobs, clean, leaders)
	}
}

// checkRiverNotifiers looks at what was cut: two connections at each deadline, and nothing else.
func checkRiverNotifiers(t *testing.T, p *pool, logs *kit.Logs) {
	t.Helper()
	cut := 0
	for _, e := range p.events.Of(rotation.DrainDeadline, 0) {
		cut += e.Connections
	}
	said, healthy := 0, 0
	for line := range strings.Lines(logs.String()) {
		switch {
		case strings.Contains(line, "Notifier healthy"):
			healthy++
		case strings.HasPrefix(line, "ERROR") && strings.Contains(line, "Error running listener"):
			said++
		case strings.HasPrefix(line, "ERROR") && strings.Contains(line, "Error from notification wait"): // the same
		case strings.HasPrefix(line, "ERROR"), strings.HasPrefix(line, "WARN"):
			t.Errorf("River logs %s", line)
		}
	}
	if cut != 2*rotations || said != cut || healthy != cut+2 {
		t.Errorf("%d connections were cut in %d rotations; River says so %d times and listens on %d", cut, rotations, said, healthy)
	}
	p.events.None(t, rotation.LoginRefused, rotation.RevokeFailed, rotation.CredentialLost)
}
