package pgvault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// The methods of pgxpool.Pool that acquire a connection, each with one addition:
// if the login was refused, or not possible, it waits for the rotation that
// follows, within its context, and tries again. Nothing has been sent to the
// server by then, so nothing is done twice. What is returned after that failed as
// well says why there is no credential.

const (
	// retries bounds how many rotations one call sits out.
	retries = 3
	// roomPatience is how long a call waits for a connection, its own or one that others
	// release, where the server is full just when connections are being replaced.
	roomPatience = 5 * time.Second
)

// tries is what one call has sat out.
type tries struct {
	rotations, pauses int
	since             time.Time // of the first pause
}

// Retry calls f with the embedded pool, and does for it what the methods of Pool do
// for themselves: if f fails because a login was refused, or not possible, Retry
// waits for the rotation that follows, within ctx, and calls f again, up to 3 times.
// It is for what takes a *pgxpool.Pool and not an interface:
//
//	err := pool.Retry(ctx, func(p *pgxpool.Pool) error { return library.Do(ctx, p) })
//
// All of f runs again: let acquiring a connection be the first thing that it does,
// and do it once. It returns f's error as it is, but a *[rotation.NoCredentialError]
// or ctx's error, with f's, if waiting was in vain.
func (p *Pool) Retry(ctx context.Context, f func(*pgxpool.Pool) error) error {
	var t tries
	for {
		p.target.gate.pass(ctx) // to a moment when what is idle can be had
		err := f(p.Pool)
		if err == nil {
			return nil
		}
		if err := p.again(ctx, &t, err); err != nil {
			return err
		}
	}
}

// again returns nil once a call that failed is worth repeating, and otherwise the error
// to report.
func (p *Pool) again(ctx context.Context, t *tries, err error) error {
	var connect *pgconn.ConnectError // of a statement it would say nothing about the server
	if errors.As(err, &connect) && serverFull(err) && len(p.target.atWork()) > 0 {
		return p.awaitRoom(ctx, t, err)
	}
	if t.rotations >= retries || !credentialAtFault(err) {
		return err
	}
	t.rotations++
	if waited := p.att.Await(ctx); waited != nil {
		return afterWaiting(waited, err)
	}
	return nil
}

// awaitRoom returns nil when a connection is idle, or when it is time to look for room once
// more, and err when that has been done for long enough. Whoever comes meanwhile waits too:
// all that is open is in use, and nothing more can be opened.
func (p *Pool) awaitRoom(ctx context.Context, t *tries, err error) error {
	now := time.Now()
	if t.pauses++; t.pauses == 1 {
		t.since = now
	}
	if now.Sub(t.since) > roomPatience {
		return err
	}
	longest := min(10*time.Millisecond<<min(t.pauses, 5), 200*time.Millisecond)
	pause, cancel := context.WithTimeout(ctx, longest/2+rand.N(longest)) //nolint:gosec // jitter is no secret
	defer cancel()
	open, mine := p.target.gate.tryClose()
	defer open()
	if !mine {
		p.target.gate.wait(pause)
	}
	for mine && p.Stat().IdleConns() == 0 && pause.Err() == nil {
		time.Sleep(500 * time.Microsecond)
	}
	if ctx.Err() != nil {
		return afterWaiting(context.Cause(ctx), err)
	}
	return nil
}

// afterWaiting is what to report when waiting was in vain: also what was waited for,
// unless both say that there is no credential.
func afterWaiting(waited, err error) error {
	var none *rotation.NoCredentialError
	if errors.As(waited, &none) && errors.As(err, &none) {
		return waited
	}
	return fmt.Errorf("%w; after: %w", waited, err)
}

// Acquire returns a connection, as pgxpool.Pool.Acquire does. It does not use Retry,
// whose call through a function would be a third of what it costs.
func (p *Pool) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	var t tries
	for {
		p.target.gate.pass(ctx)
		c, err := p.Pool.Acquire(ctx)
		if err == nil {
			return c, nil
		}
		if err := p.again(ctx, &t, err); err != nil {
			return nil, err
		}
	}
}

// AcquireFunc acquires a connection and calls f with it, as
// pgxpool.Pool.AcquireFunc does. f is called once at most.
func (p *Pool) AcquireFunc(ctx context.Context, f func(*pgxpool.Conn) error) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return f(c)
}

// Exec is pgxpool.Pool.Exec.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	var tag pgconn.CommandTag
	err := p.Retry(ctx, func(pool *pgxpool.Pool) (err error) {
		tag, err = pool.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// Query is pgxpool.Pool.Query.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var rows pgx.Rows
	err := p.Retry(ctx, func(pool *pgxpool.Pool) (err error) {
		rows, err = pool.Query(ctx, sql, args...) //nolint:sqlclosecheck // the caller closes them
		return err
	})
	return rows, err
}

// Begin is pgxpool.Pool.Begin.
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx is pgxpool.Pool.BeginTx.
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	var tx pgx.Tx
	err := p.Retry(ctx, func(pool *pgxpool.Pool) (err error) {
		tx, err = pool.BeginTx(ctx, options)
		return err
	})
	return tx, err
}

// CopyFrom is pgxpool.Pool.CopyFrom. rows is not touched before there is a
// connection.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	var n int64
	err := p.Retry(ctx, func(pool *pgxpool.Pool) (err error) {
		n, err = pool.CopyFrom(ctx, table, columns, rows)
		return err
	})
	return n, err
}

// Ping is pgxpool.Pool.Ping.
func (p *Pool) Ping(ctx context.Context) error {
	return p.Retry(ctx, func(pool *pgxpool.Pool) error { return pool.Ping(ctx) })
}

// QueryRow is pgxpool.Pool.QueryRow.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	var row pgx.Row
	err := p.Retry(ctx, func(pool *pgxpool.Pool) error {
		if row = pool.QueryRow(ctx, sql, args...); failedRow(row) {
			return row.Scan()
		}
		return nil
	})
	if err != nil {
		return rowError{err}
	}
	return row
}

// failedRow reports whether row stands for a connection that was not acquired.
// pgxpool has two types of rows, and only the one that is nothing but an error is
// not a pointer; scanning that is free of consequences. A test holds pgxpool to it.
func failedRow(row pgx.Row) bool { return reflect.TypeOf(row).Kind() != reflect.Pointer }

type rowError struct{ err error }

func (r rowError) Scan(...any) error { return r.err }

// SendBatch is pgxpool.Pool.SendBatch.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	var results pgx.BatchResults
	err := p.Retry(ctx, func(pool *pgxpool.Pool) error {
		if results = pool.SendBatch(ctx, b); failedBatch(results) {
			return results.Close()
		}
		return nil
	})
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return results
}

var failedBatchTypes = [2]reflect.Type{
	reflect.TypeOf(pgx.FailedBatchResults(&pgx.Batch{}, nil)),
	reflect.TypeOf(pgx.FailedBatchResults(inTransaction(), nil)),
}

func inTransaction() *pgx.Batch {
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	return b
}

// failedBatch reports whether a connection was not acquired: pgxpool wraps the
// results of those that were.
func failedBatch(results pgx.BatchResults) bool {
	t := reflect.TypeOf(results)
	return t == failedBatchTypes[0] || t == failedBatchTypes[1]
}
