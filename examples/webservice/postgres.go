package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/examples/webservice/pgdb"
	"github.com/vaultpool/vaultpool/pgvault"
)

//go:embed pgdb/schema.sql
var postgresSchema string

func openPostgres(ctx context.Context, cfg config) (*database, error) {
	pool, err := pgvault.New(ctx, cfg.databaseURL)
	if err != nil {
		return nil, err
	}
	return &database{
		store:   &postgresStore{pool: pool, queries: pgdb.New(pool)},
		rotator: pool.Rotator(),
		close: func() error {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.poolTimeout)
			defer cancel()
			return pool.Shutdown(closing)
		},
	}, nil
}

// postgresStore keeps items and accounts in PostgreSQL. Nothing in it, and nothing that sqlc has generated, knows that
// the pool changes users.
type postgresStore struct {
	pool    *pgvault.Pool // for transactions
	queries *pgdb.Queries
}

func (s *postgresStore) listItems(ctx context.Context, limit int32) ([]item, error) {
	rows, err := s.queries.ListItems(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("list items: %w", err)
	}
	items := make([]item, len(rows))
	for i, row := range rows {
		items[i] = item(row)
	}
	return items, nil
}

func (s *postgresStore) createItem(ctx context.Context, name string, quantity int32) (item, error) {
	row, err := s.queries.CreateItem(ctx, pgdb.CreateItemParams{Name: name, Quantity: quantity})
	if err != nil {
		return item{}, fmt.Errorf("create an item: %w", err)
	}
	return item(row), nil
}

func (s *postgresStore) item(ctx context.Context, id int64) (item, error) {
	row, err := s.queries.GetItem(ctx, id)
	if err != nil {
		return item{}, fmt.Errorf("read item %d: %w", id, postgresError(err))
	}
	return item(row), nil
}

func (s *postgresStore) account(ctx context.Context, id int64) (account, error) {
	row, err := s.queries.GetAccount(ctx, id)
	if err != nil {
		return account{}, fmt.Errorf("read account %d: %w", id, postgresError(err))
	}
	return account(row), nil
}

func (s *postgresStore) transfer(ctx context.Context, wanted transfer) (transfer, error) {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		queries := s.queries.WithTx(tx)
		for _, id := range wanted.lockOrder() {
			locked, err := queries.LockAccount(ctx, id)
			if err != nil {
				return postgresError(err)
			}
			if id == wanted.From && locked.Balance < wanted.Amount {
				return errInsufficient
			}
		}
		for _, change := range wanted.changes() {
			if err := queries.ChangeBalance(ctx, pgdb.ChangeBalanceParams{ID: change.ID, ChangeBy: change.Balance}); err != nil {
				return err
			}
		}
		var err error
		wanted.ID, err = queries.CreateTransfer(ctx, pgdb.CreateTransferParams{
			FromAccount: wanted.From, ToAccount: wanted.To, Amount: wanted.Amount,
		})
		return err
	})
	if err != nil {
		return transfer{}, fmt.Errorf("transfer %d from account %d to account %d: %w", wanted.Amount, wanted.From, wanted.To, err)
	}
	return wanted, nil
}

func postgresError(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return errNotFound
	}
	return err
}
