package main

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/examples/webservice/mydb"
	"github.com/vaultpool/vaultpool/mysqlvault"
)

//go:embed mydb/schema.sql
var mysqlSchema string

// mysqlConns is how many connections there are at most. A sql.DB is told in code, not by its DSN.
const mysqlConns = 20

func openMySQL(ctx context.Context, cfg config) (*database, error) {
	settings, err := mysqlvault.ParseConfig(cfg.databaseURL)
	if err != nil {
		return nil, err
	}
	settings.ParseTime = true // the store scans times
	settings.Rotation.CloseTimeout = cfg.poolTimeout
	connector, err := mysqlvault.NewConnector(ctx, settings)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(mysqlConns)
	db.SetMaxIdleConns(mysqlConns) // the default is 2: the others would be closed after each use
	queries, err := mydb.Prepare(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &database{store: &mysqlStore{db: db, queries: queries}, rotator: connector.Rotator(), close: db.Close}, nil
}

// mysqlStore keeps items and accounts in MySQL or MariaDB. Its statements are prepared once and used for as long as
// the service runs; nothing in it, and nothing that sqlc has generated, knows that their connections change users.
type mysqlStore struct {
	db      *sql.DB // for transactions
	queries *mydb.Queries
}

func (s *mysqlStore) listItems(ctx context.Context, limit int32) ([]item, error) {
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

func (s *mysqlStore) createItem(ctx context.Context, name string, quantity int32) (item, error) {
	made := item{Name: name, Quantity: quantity, Created: now()}
	var err error
	made.ID, err = s.queries.CreateItem(ctx, mydb.CreateItemParams{Name: name, Quantity: quantity, Created: made.Created})
	if err != nil {
		return item{}, fmt.Errorf("create an item: %w", err)
	}
	return made, nil
}

func (s *mysqlStore) item(ctx context.Context, id int64) (item, error) {
	row, err := s.queries.GetItem(ctx, id)
	if err != nil {
		return item{}, fmt.Errorf("read item %d: %w", id, mysqlError(err))
	}
	return item(row), nil
}

func (s *mysqlStore) account(ctx context.Context, id int64) (account, error) {
	row, err := s.queries.GetAccount(ctx, id)
	if err != nil {
		return account{}, fmt.Errorf("read account %d: %w", id, mysqlError(err))
	}
	return account(row), nil
}

func (s *mysqlStore) transfer(ctx context.Context, wanted transfer) (transfer, error) {
	made, err := s.tryTransfer(ctx, wanted)
	if err != nil {
		return transfer{}, fmt.Errorf("transfer %d from account %d to account %d: %w", wanted.Amount, wanted.From, wanted.To, err)
	}
	return made, nil
}

func (s *mysqlStore) tryTransfer(ctx context.Context, wanted transfer) (transfer, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return transfer{}, err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	queries := s.queries.WithTx(tx)
	for _, id := range wanted.lockOrder() {
		locked, err := queries.LockAccount(ctx, id)
		if err != nil {
			return transfer{}, mysqlError(err)
		}
		if id == wanted.From && locked.Balance < wanted.Amount {
			return transfer{}, errInsufficient
		}
	}
	for _, change := range wanted.changes() {
		if err := queries.ChangeBalance(ctx, mydb.ChangeBalanceParams{ID: change.ID, ChangeBy: change.Balance}); err != nil {
			return transfer{}, err
		}
	}
	wanted.ID, err = queries.CreateTransfer(ctx, mydb.CreateTransferParams{
		FromAccount: wanted.From, ToAccount: wanted.To, Amount: wanted.Amount, Created: now(),
	})
	if err != nil {
		return transfer{}, err
	}
	return wanted, tx.Commit()
}

func mysqlError(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return errNotFound
	}
	return err
}

// now is the time as the database keeps it.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
