package pgvault

import (
	"context"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The methods of pgxpool.Pool that acquire a connection, each with one addition:
// if the login was refused, or not possible, it waits for the rotation that
// follows, within its context, and tries again. Nothing has been sent to the
// server by then, so nothing is done twice. What is returned after that failed as
// well says why there is no credential.

// retries bounds how many rotations one call sits out.
const retries = 3

// again reports whether a failed call is worth repeating, after waiting until it
// is. Otherwise it returns the error to report.
func (p *Pool) again(ctx context.Context, attempt int, err error) (bool, error) {
	if attempt >= retries || !credentialAtFault(err) {
		return false, err
	}
	if waited := p.att.Await(ctx); waited != nil {
		return false, fmt.Errorf("%w; after: %w", waited, err)
	}
	return true, nil
}

// inner is the embedded pool, at a moment when what is idle can be had.
func (p *Pool) inner(ctx context.Context) *pgxpool.Pool {
	p.target.gate.pass(ctx)
	return p.Pool
}

// Acquire returns a connection, as pgxpool.Pool.Acquire does.
func (p *Pool) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for attempt := 0; ; attempt++ {
		c, err := p.inner(ctx).Acquire(ctx)
		if err == nil {
			return c, nil
		}
		if again, err := p.again(ctx, attempt, err); !again {
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
	for attempt := 0; ; attempt++ {
		tag, err := p.inner(ctx).Exec(ctx, sql, args...)
		if err == nil {
			return tag, nil
		}
		if again, err := p.again(ctx, attempt, err); !again {
			return tag, err
		}
	}
}

// Query is pgxpool.Pool.Query.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	for attempt := 0; ; attempt++ {
		rows, err := p.inner(ctx).Query(ctx, sql, args...)
		if err == nil {
			return rows, nil
		}
		if again, err := p.again(ctx, attempt, err); !again {
			return rows, err
		}
	}
}

// Begin is pgxpool.Pool.Begin.
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) {
	return p.BeginTx(ctx, pgx.TxOptions{})
}

// BeginTx is pgxpool.Pool.BeginTx.
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	for attempt := 0; ; attempt++ {
		tx, err := p.inner(ctx).BeginTx(ctx, options)
		if err == nil {
			return tx, nil
		}
		if again, err := p.again(ctx, attempt, err); !again {
			return nil, err
		}
	}
}

// CopyFrom is pgxpool.Pool.CopyFrom. rows is not touched before there is a
// connection.
func (p *Pool) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	for attempt := 0; ; attempt++ {
		n, err := p.inner(ctx).CopyFrom(ctx, table, columns, rows)
		if err == nil {
			return n, nil
		}
		if again, err := p.again(ctx, attempt, err); !again {
			return n, err
		}
	}
}

// Ping is pgxpool.Pool.Ping.
func (p *Pool) Ping(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := p.inner(ctx).Ping(ctx)
		if err == nil {
			return nil
		}
		if again, err := p.again(ctx, attempt, err); !again {
			return err
		}
	}
}

// QueryRow is pgxpool.Pool.QueryRow.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	for attempt := 0; ; attempt++ {
		row := p.inner(ctx).QueryRow(ctx, sql, args...)
		if !failedRow(row) {
			return row
		}
		again, err := p.again(ctx, attempt, row.Scan())
		if !again {
			return rowError{err}
		}
	}
}

// failedRow reports whether row stands for a connection that was not acquired.
// pgxpool has two types of rows, and only the one that is nothing but an error is
// not a pointer; scanning that is free of consequences. A test holds pgxpool to it.
func failedRow(row pgx.Row) bool { return reflect.TypeOf(row).Kind() != reflect.Pointer }

type rowError struct{ err error }

func (r rowError) Scan(...any) error { return r.err }

// SendBatch is pgxpool.Pool.SendBatch.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for attempt := 0; ; attempt++ {
		results := p.inner(ctx).SendBatch(ctx, b)
		if !failedBatch(results) {
			return results
		}
		again, err := p.again(ctx, attempt, results.Close())
		if !again {
			return pgx.FailedBatchResults(b, err)
		}
	}
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
