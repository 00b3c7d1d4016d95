package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// jobs is a batch program beside the service, with a sql.DB and leases of its own. It does what the service's short
// requests do not: transactions of a second, statements that are given up half-way, while MariaDB goes on with them
// although the driver has closed the socket, and one sql.Stmt for as long as it runs.
type jobs struct {
	db      *sql.DB
	server  *testbed.MariaDB
	lock    *sql.Tx // the owner's
	screen  *screen
	events  *events
	lookup  *sql.Stmt
	cancel  context.CancelFunc
	working sync.WaitGroup

	mu   sync.Mutex // guards what follows
	seen jobsResult
}

// jobsResult is what was seen so far.
type jobsResult struct {
	transactions writes
	abandoned    int // statements given up half-way
	lookups      int // uses of the one sql.Stmt
	failed       int

	rotations, credentials int
	steps                  int   // in the database: two for each transaction
	changes                int   // in the database: made by statements that were given up, after their user was gone
	err                    error // what could not be closed, and why steps and changes are not known
}

const (
	jobsConns = 8

	transactionTime    = time.Second
	transactionsAtOnce = 2

	lookupInterval = 20 * time.Millisecond
	lookupsAtOnce  = 2

	patience        = 700 * time.Millisecond
	abandonInterval = 1500 * time.Millisecond
)

// jobsTables are the owner's. Nobody but him gets at the row in locked while the demo runs.
const jobsTables = `
	CREATE TABLE steps (id bigint AUTO_INCREMENT PRIMARY KEY, session bigint NOT NULL);
	CREATE TABLE locked (changes integer NOT NULL);
	INSERT INTO locked VALUES (0)`

func startJobs(ctx context.Context, setting *setting, revocations *revocations, screen *screen) (*jobs, error) {
	mariadb := setting.bed.MariaDB
	if err := mariadb.Exec(ctx, jobsTables); err != nil {
		return nil, fmt.Errorf("make the jobs' tables: %w", err)
	}
	config, err := mysqlvault.ParseConfig(setting.databaseURL)
	if err != nil {
		return nil, fmt.Errorf("start the jobs: %w", err)
	}
	config.Logger = jobsLog{screen}
	config.Vault.Client = setting.bed.Vault.ClientWithToken(setting.token)
	connector, err := mysqlvault.NewConnector(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("start the jobs: %w", err)
	}
	j := &jobs{db: sql.OpenDB(connector), server: mariadb, screen: screen, events: &events{revocations: revocations}}
	j.db.SetMaxOpenConns(jobsConns)
	j.db.SetMaxIdleConns(jobsConns)
	connector.Rotator().Subscribe(func(e rotation.Event) {
		j.events.add(newEvent(e))
		screen.printf("%s jobs: %s", e.Time.Format(time.TimeOnly), newEvent(e))
	})
	if err := j.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the jobs: %w", err), j.db.Close())
	}
	j.run(ctx)
	return j, nil
}

// prepare makes what is kept until the end: the statement that is used all the time, and the owner's lock.
func (j *jobs) prepare(ctx context.Context) (err error) {
	if j.lookup, err = j.db.PrepareContext(ctx, "SELECT id FROM accounts WHERE id = ?"); err != nil {
		return fmt.Errorf("prepare a statement: %w", err)
	}
	if j.lock, err = j.server.Root.BeginTx(context.WithoutCancel(ctx), nil); err != nil { // until stop
		return fmt.Errorf("begin the owner's transaction: %w", err)
	}
	if _, err := j.lock.ExecContext(ctx, "SELECT changes FROM locked FOR UPDATE"); err != nil {
		return errors.Join(fmt.Errorf("lock a row: %w", err), j.lock.Rollback())
	}
	return nil
}

// jobsLog shows what the driver has to say.
type jobsLog struct{ screen *screen }

func (l jobsLog) Print(values ...any) { l.screen.printf("jobs: driver: %s", fmt.Sprint(values...)) }

// run starts the workers, which go on until stop.
func (j *jobs) run(ctx context.Context) {
	ctx, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	every := func(interval, offset time.Duration, job func(context.Context)) {
		j.working.Go(func() {
			for wait := offset; ; wait = interval {
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
				job(ctx)
			}
		})
	}
	for i := range transactionsAtOnce { // not in step
		every(0, transactionTime/transactionsAtOnce*time.Duration(i), j.transaction)
	}
	for range lookupsAtOnce {
		every(lookupInterval, 0, j.look)
	}
	every(abandonInterval, 0, j.abandon)
}

// stop lets the transactions under way finish, closes the sql.DB, and returns what there is to say, but for what
// audit finds. Then it gives up the lock: a statement that is still alive has its effect now.
func (j *jobs) stop() *jobsResult {
	j.cancel()
	j.working.Wait()
	closed := j.db.Close()
	result := j.seen
	result.rotations, result.credentials = j.events.rotations(), j.events.credentials()
	result.err = errors.Join(closed, j.lock.Rollback())
	return &result
}

// audit counts what the jobs have left in the database.
func (j *jobs) audit(ctx context.Context, r *jobsResult) {
	err := j.server.Root.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM steps), (SELECT changes FROM locked)").
		Scan(&r.steps, &r.changes)
	r.err = errors.Join(r.err, err)
}

// record counts one job, and shows the first failures.
func (j *jobs) record(err error, count func(*jobsResult)) {
	j.mu.Lock()
	count(&j.seen)
	if err != nil {
		j.seen.failed++
	}
	failed := j.seen.failed
	j.mu.Unlock()
	if err != nil && failed <= failuresShown {
		j.screen.printf("FAILED job: %v", err)
	}
}

// transaction takes a second, and finishes.
func (j *jobs) transaction(ctx context.Context) {
	err := j.tryTransaction(context.WithoutCancel(ctx))
	j.record(err, func(r *jobsResult) { r.transactions.count(err) })
}

func (j *jobs) tryTransaction(ctx context.Context) error {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	var session, later int64
	if err := step(ctx, tx, &session); err != nil {
		return fmt.Errorf("first step of a transaction: %w", err)
	}
	time.Sleep(transactionTime) // what it does there needs no database
	if err := step(ctx, tx, &later); err != nil {
		return fmt.Errorf("second step of a transaction: %w", err)
	}
	if session != later {
		return fmt.Errorf("a transaction began in session %d and went on in session %d", session, later)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit a transaction: %w", err)
	}
	return nil
}

// step writes a row and reads the session's number.
func step(ctx context.Context, tx *sql.Tx, session *int64) error {
	if _, err := tx.ExecContext(ctx, "INSERT INTO steps (session) VALUES (connection_id())"); err != nil {
		return err
	}
	return tx.QueryRowContext(ctx, "SELECT connection_id()").Scan(session)
}

// look uses the sql.Stmt that all share.
func (j *jobs) look(ctx context.Context) {
	wanted, found := 1+rand.Int64N(accounts), int64(0)
	err := j.lookup.QueryRowContext(context.WithoutCancel(ctx), wanted).Scan(&found)
	if err == nil && found != wanted {
		err = fmt.Errorf("account %d was looked up and %d found", wanted, found)
	}
	j.record(err, func(r *jobsResult) { r.lookups++ })
}

// abandon asks for a change that has to wait for the lock, and loses patience. MariaDB goes on waiting, and would
// make the change in the end.
func (j *jobs) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := j.db.ExecContext(ctx, "UPDATE locked SET changes = changes + 1")
	switch {
	case err == nil:
		err = errors.New("a locked row was changed")
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		err = nil
	default:
		err = fmt.Errorf("change a locked row: %w", err)
	}
	j.record(err, func(r *jobsResult) { r.abandoned++ })
}

func (r *jobsResult) problems() []string {
	var found []string
	if r.failed > 0 {
		found = append(found, fmt.Sprintf("%d jobs failed", r.failed))
	}
	if r.err != nil {
		return append(found, fmt.Sprintf("the jobs ended with: %v", r.err))
	}
	if r.steps%2 != 0 || !r.transactions.fit(r.steps/2) {
		found = append(found, fmt.Sprintf("%d steps of transactions in the database, two of each: %s", r.steps, &r.transactions))
	}
	if r.changes > 0 {
		found = append(found, fmt.Sprintf("%d statements that were given up had their effect after the end", r.changes))
	}
	return found
}

// String is the result in one line.
func (r *jobsResult) String() string {
	return fmt.Sprintf("%d transactions of %v, %d statements given up half-way, %d uses of one sql.Stmt, %d failed; %d rotations",
		r.transactions.confirmed, transactionTime, r.abandoned, r.lookups, r.failed, r.rotations)
}
