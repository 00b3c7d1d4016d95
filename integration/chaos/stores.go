package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// key names a row of the load's.
type key struct {
	lane   lane
	worker int
	n      int
}

func (k key) value() string { return fmt.Sprintf("row %d of worker %d of %s", k.n, k.worker, k.lane) }

// store is what the load does with a database.
type store interface {
	write(ctx context.Context, k key) error
	read(ctx context.Context, k key) (string, error)
	// transaction writes the first step, holds the transaction for a while in which it reads, writes the second step,
	// and commits.
	transaction(ctx context.Context, k key, hold time.Duration) error
}

// Every pool on a database has rows of its own in these tables. Their owner is not one of the load's users.
const (
	postgresTables = `
		CREATE TABLE chaos_rows  (lane text, worker int, n bigint, value text NOT NULL, PRIMARY KEY (lane, worker, n));
		CREATE TABLE chaos_steps (lane text, worker int, n bigint, step int, PRIMARY KEY (lane, worker, n, step))`
	mariadbTables = `
		CREATE TABLE chaos_rows  (lane varchar(20), worker int, n bigint, value text NOT NULL, PRIMARY KEY (lane, worker, n));
		CREATE TABLE chaos_steps (lane varchar(20), worker int, n bigint, step int, PRIMARY KEY (lane, worker, n, step))`
)

// readInterval is how often a long transaction reads what it has written.
const readInterval = 200 * time.Millisecond

func checkStep(found int) error {
	if found != 1 {
		return fmt.Errorf("%w: a transaction sees %d steps of its own, has made 1", errWrong, found)
	}
	return nil
}

// during calls read every readInterval until hold is over.
func during(ctx context.Context, hold time.Duration, read func() error) error {
	for end := time.Now().Add(hold); time.Now().Before(end); {
		select {
		case <-time.After(min(readInterval, time.Until(end))):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// pgxStore is a pgxpool.Pool or a pgvault.Pool.
type pgxStore struct {
	db interface {
		Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
		QueryRow(ctx context.Context, sql string, arguments ...any) pgx.Row
		Begin(ctx context.Context) (pgx.Tx, error)
	}
}

func (s *pgxStore) write(ctx context.Context, k key) error {
	_, err := s.db.Exec(ctx, "INSERT INTO chaos_rows VALUES ($1, $2, $3, $4)", k.lane, k.worker, k.n, k.value())
	return err
}

func (s *pgxStore) read(ctx context.Context, k key) (value string, err error) {
	err = s.db.QueryRow(ctx, "SELECT value FROM chaos_rows WHERE lane = $1 AND worker = $2 AND n = $3", k.lane, k.worker, k.n).
		Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("%w: %s is not there", errWrong, k.value())
	}
	return value, err
}

func (s *pgxStore) transaction(ctx context.Context, k key, hold time.Duration) error {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // after Commit it does nothing
	step := func(n int) error {
		_, err := tx.Exec(ctx, "INSERT INTO chaos_steps VALUES ($1, $2, $3, $4)", k.lane, k.worker, k.n, n)
		return err
	}
	if err := step(1); err != nil {
		return fmt.Errorf("first step: %w", err)
	}
	err = during(ctx, hold, func() error {
		var found int
		err := tx.QueryRow(ctx, "SELECT count(*) FROM chaos_steps WHERE lane = $1 AND worker = $2 AND n = $3", k.lane, k.worker, k.n).
			Scan(&found)
		if err != nil {
			return err
		}
		return checkStep(found)
	})
	if err != nil {
		return fmt.Errorf("in a transaction: %w", err)
	}
	if err := step(2); err != nil {
		return fmt.Errorf("second step: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// sqlStore is a sql.DB on MariaDB.
type sqlStore struct{ db *sql.DB }

func (s *sqlStore) write(ctx context.Context, k key) error {
	_, err := s.db.ExecContext(ctx, "INSERT INTO chaos_rows VALUES (?, ?, ?, ?)", string(k.lane), k.worker, k.n, k.value())
	return err
}

func (s *sqlStore) read(ctx context.Context, k key) (value string, err error) {
	err = s.db.QueryRowContext(ctx, "SELECT value FROM chaos_rows WHERE lane = ? AND worker = ? AND n = ?", string(k.lane), k.worker, k.n).
		Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("%w: %s is not there", errWrong, k.value())
	}
	return value, err
}

func (s *sqlStore) transaction(ctx context.Context, k key, hold time.Duration) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	step := func(n int) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO chaos_steps VALUES (?, ?, ?, ?)", string(k.lane), k.worker, k.n, n)
		return err
	}
	if err := step(1); err != nil {
		return fmt.Errorf("first step: %w", err)
	}
	err = during(ctx, hold, func() error {
		var found int
		err := tx.QueryRowContext(ctx, "SELECT count(*) FROM chaos_steps WHERE lane = ? AND worker = ? AND n = ?", string(k.lane), k.worker, k.n).
			Scan(&found)
		if err != nil {
			return err
		}
		return checkStep(found)
	})
	if err != nil {
		return fmt.Errorf("in a transaction: %w", err)
	}
	if err := step(2); err != nil {
		return fmt.Errorf("second step: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}
