package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/pgvault"
)

//go:embed schema_postgres.sql
var postgresSchema string

func openPostgres(ctx context.Context, cfg config) (*database, error) {
	pool, err := pgvault.New(ctx, cfg.databaseURL)
	if err != nil {
		return nil, err
	}
	return &database{
		store:   &postgresStore{pool},
		rotator: pool.Rotator(),
		close: func() error {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.poolTimeout)
			defer cancel()
			return pool.Shutdown(closing)
		},
	}, nil
}

// postgresStore keeps items and accounts in PostgreSQL. Nothing in it knows that its pool changes users.
type postgresStore struct{ pool *pgvault.Pool }

func (s *postgresStore) listItems(ctx context.Context, limit int) ([]item, error) {
	rows, err := s.pool.Query(ctx,
		"SELECT id, name, quantity, created FROM items ORDER BY id DESC LIMIT $1", limit)
	if err != nil {
		return nil, fmt.Errorf("list items: %w", err)
	}
	items, err := pgx.CollectRows(rows, pgx.RowToStructByPos[item])
	if err != nil {
		return nil, fmt.Errorf("list items: %w", err)
	}
	return items, nil
}

func (s *postgresStore) createItem(ctx context.Context, name string, quantity int32) (item, error) {
	made := item{Name: name, Quantity: quantity}
	err := s.pool.QueryRow(ctx,
		"INSERT INTO items (name, quantity) VALUES ($1, $2) RETURNING id, created", name, quantity).
		Scan(&made.ID, &made.Created)
	if err != nil {
		return item{}, fmt.Errorf("create an item: %w", err)
	}
	return made, nil
}

func (s *postgresStore) item(ctx context.Context, id int64) (item, error) {
	found := item{ID: id}
	err := s.pool.QueryRow(ctx, "SELECT name, quantity, created FROM items WHERE id = $1", id).
		Scan(&found.Name, &found.Quantity, &found.Created)
	if errors.Is(err, pgx.ErrNoRows) {
		return item{}, fmt.Errorf("item %d: %w", id, errNotFound)
	}
	if err != nil {
		return item{}, fmt.Errorf("read item %d: %w", id, err)
	}
	return found, nil
}

func (s *postgresStore) account(ctx context.Context, id int64) (account, error) {
	found := account{ID: id}
	err := s.pool.QueryRow(ctx, "SELECT balance FROM accounts WHERE id = $1", id).Scan(&found.Balance)
	if errors.Is(err, pgx.ErrNoRows) {
		return account{}, fmt.Errorf("account %d: %w", id, errNotFound)
	}
	if err != nil {
		return account{}, fmt.Errorf("read account %d: %w", id, err)
	}
	return found, nil
}

func (s *postgresStore) transfer(ctx context.Context, wanted transfer) (transfer, error) {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := lockForTransfer(ctx, tx, wanted); err != nil {
			return err
		}
		_, err := tx.Exec(ctx,
			"UPDATE accounts SET balance = balance + CASE id WHEN $1 THEN -$3::bigint ELSE $3 END WHERE id IN ($1, $2)",
			wanted.From, wanted.To, wanted.Amount)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx,
			"INSERT INTO transfers (from_account, to_account, amount) VALUES ($1, $2, $3) RETURNING id",
			wanted.From, wanted.To, wanted.Amount).Scan(&wanted.ID)
	})
	if err != nil {
		return transfer{}, fmt.Errorf("transfer %d from account %d to account %d: %w", wanted.Amount, wanted.From, wanted.To, err)
	}
	return wanted, nil
}

// lockForTransfer locks both accounts, always in the same order, so that transfers in opposite directions wait for
// each other instead of deadlocking.
func lockForTransfer(ctx context.Context, tx pgx.Tx, wanted transfer) error {
	rows, err := tx.Query(ctx,
		"SELECT id, balance FROM accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE", wanted.From, wanted.To)
	if err != nil {
		return err
	}
	accounts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[account])
	if err != nil {
		return err
	}
	if len(accounts) < 2 {
		return errNotFound
	}
	for _, a := range accounts {
		if a.ID == wanted.From && a.Balance < wanted.Amount {
			return errInsufficient
		}
	}
	return nil
}
