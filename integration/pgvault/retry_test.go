package pgvault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// acquirers are the methods of a pool that acquire a connection. Each writes one row or reads a number,
// and fails if that is not what came of it.
var acquirers = map[string]func(ctx context.Context, s *service, name string) error{
	"Acquire": func(ctx context.Context, s *service, _ string) error {
		conn, err := s.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return conn.Ping(ctx)
	},
	"AcquireFunc": func(ctx context.Context, s *service, name string) error {
		return s.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			_, err := conn.Exec(ctx, insertItem, name)
			return err
		})
	},
	"Exec": func(ctx context.Context, s *service, name string) error {
		tag, err := s.Exec(ctx, insertItem, name)
		return affected(tag, err)
	},
	"Query": func(ctx context.Context, s *service, _ string) error {
		rows, err := s.Query(ctx, "SELECT generate_series(1, 3)")
		if err != nil {
			return err
		}
		numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err == nil && len(numbers) != 3 {
			err = fmt.Errorf("%d rows, not 3", len(numbers))
		}
		return err
	},
	"QueryRow": func(ctx context.Context, s *service, _ string) error {
		var n int
		err := s.QueryRow(ctx, "SELECT $1::int", 7).Scan(&n)
		if err == nil && n != 7 {
			err = fmt.Errorf("the row has %d, not 7", n)
		}
		return err
	},
	"SendBatch": func(ctx context.Context, s *service, name string) error {
		return sendBatch(ctx, s, &pgx.Batch{}, name)
	},
	"SendBatch in a transaction": func(ctx context.Context, s *service, name string) error {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		return sendBatch(ctx, s, b, name)
	},
	"Begin": func(ctx context.Context, s *service, name string) error {
		tx, err := s.Begin(ctx)
		return insertIn(ctx, tx, err, name)
	},
	"BeginTx": func(ctx context.Context, s *service, name string) error {
		tx, err := s.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable})
		return insertIn(ctx, tx, err, name)
	},
	"CopyFrom": func(ctx context.Context, s *service, name string) error {
		n, err := s.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"name"}, pgx.CopyFromRows([][]any{{name}}))
		if err == nil && n != 1 {
			err = fmt.Errorf("%d rows copied, not 1", n)
		}
		return err
	},
	"Ping": func(ctx context.Context, s *service, _ string) error { return s.Ping(ctx) },
}

const insertItem = "INSERT INTO items (name) VALUES ($1)"

func affected(tag pgconn.CommandTag, err error) error {
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("%d rows affected, not 1", tag.RowsAffected())
	}
	return err
}

func sendBatch(ctx context.Context, s *service, b *pgx.Batch, name string) (err error) {
	b.Queue(insertItem, name).Exec(func(tag pgconn.CommandTag) error { return affected(tag, nil) })
	n, called := 0, 0
	b.Queue("SELECT $1::int", 7).QueryRow(func(row pgx.Row) error {
		called++
		return row.Scan(&n)
	})
	results := s.SendBatch(ctx, b)
	if tx := results.Tx(); tx != nil {
		defer func() {
			if err == nil {
				err = tx.Commit(ctx)
			} else {
				err = errors.Join(err, tx.Rollback(ctx))
			}
		}()
	}
	if err := results.Close(); err != nil {
		return err
	}
	if called != 1 || n != 7 {
		return fmt.Errorf("the batch's row came %d times and has %d, not once 7", called, n)
	}
	return nil
}

func insertIn(ctx context.Context, tx pgx.Tx, err error, name string) error {
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, insertItem, name)
	if err := affected(tag, err); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// writes tells which of them write a row.
func writes(method string) bool {
	switch method {
	case "Acquire", "Query", "QueryRow", "Ping":
		return false
	}
	return true
}

// hazard 35: each method of the pool that acquires a connection sits out the rotation that follows a
// refused login, and then does what it was asked, once. If its context ends before that, it says what
// it was waiting for.
func TestHazard35_EveryMethodRetries(t *testing.T) {
	t.Parallel()
	for method, call := range acquirers {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			s := open(t, setup{params: "pool_max_conns=2"})
			s.dropRole(t, s.Rotator().Status().User)
			answers := s.vault.Hold(s.role.CredsPath)

			const deadline = 2 * time.Second // time enough for the login that is refused
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			var err error
			within(t, deadline, method, func() { err = call(ctx, s, t.Name()) })
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "password authentication failed") {
				t.Errorf("without a credential it returned %v, which does not say why it waited in vain", err)
			}

			done := make(chan error, 1)
			go func() { done <- call(t.Context(), s, t.Name()) }()
			answers.Queue(t, 1)
			answers.Open()
			check(t, receive(t, method, done))
			if n := s.items(t, t.Name()); writes(method) != (n == 1) {
				t.Errorf("it wrote %d rows", n)
			}
			if id, n := s.Rotator().Status().Generation, s.issues(); id != 2 || n != 2 {
				t.Errorf("generation %d after %d issues, not 2 after 2", id, n)
			}
		})
	}
}
