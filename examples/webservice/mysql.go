package main

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/mysqlvault"
)

//go:embed schema_mysql.sql
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
	store, err := newMySQLStore(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &database{store: store, rotator: connector.Rotator(), close: db.Close}, nil
}

// mysqlStore keeps items and accounts in MySQL or MariaDB. Its statements are prepared once and used for as long as
// the service runs; nothing in it knows that their connections change users.
type mysqlStore struct {
	db *sql.DB

	selectItems, insertItem, selectItem, selectAccount *sql.Stmt
}

func newMySQLStore(ctx context.Context, db *sql.DB) (*mysqlStore, error) {
	s := &mysqlStore{db: db}
	for _, p := range []struct {
		statement **sql.Stmt
		query     string
	}{
		{&s.selectItems, "SELECT id, name, quantity, created FROM items ORDER BY id DESC LIMIT ?"},
		{&s.insertItem, "INSERT INTO items (name, quantity, created) VALUES (?, ?, ?)"},
		{&s.selectItem, "SELECT name, quantity, created FROM items WHERE id = ?"},
		{&s.selectAccount, "SELECT balance FROM accounts WHERE id = ?"},
	} {
		var err error
		if *p.statement, err = db.PrepareContext(ctx, p.query); err != nil { //nolint:sqlclosecheck // closed with db
			return nil, fmt.Errorf("prepare %q: %w", p.query, err)
		}
	}
	return s, nil
}

func (s *mysqlStore) listItems(ctx context.Context, limit int) ([]item, error) {
	rows, err := s.selectItems.QueryContext(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("list items: %w", err)
	}
	defer rows.Close()
	items := []item{}
	for rows.Next() {
		var found item
		if err := rows.Scan(&found.ID, &found.Name, &found.Quantity, &found.Created); err != nil {
			return nil, fmt.Errorf("list items: %w", err)
		}
		items = append(items, found)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list items: %w", err)
	}
	return items, nil
}

func (s *mysqlStore) createItem(ctx context.Context, name string, quantity int32) (item, error) {
	made := item{Name: name, Quantity: quantity, Created: now()}
	result, err := s.insertItem.ExecContext(ctx, made.Name, made.Quantity, made.Created)
	if err == nil {
		made.ID, err = result.LastInsertId()
	}
	if err != nil {
		return item{}, fmt.Errorf("create an item: %w", err)
	}
	return made, nil
}

func (s *mysqlStore) item(ctx context.Context, id int64) (item, error) {
	found := item{ID: id}
	err := s.selectItem.QueryRowContext(ctx, id).Scan(&found.Name, &found.Quantity, &found.Created)
	if errors.Is(err, sql.ErrNoRows) {
		return item{}, fmt.Errorf("item %d: %w", id, errNotFound)
	}
	if err != nil {
		return item{}, fmt.Errorf("read item %d: %w", id, err)
	}
	return found, nil
}

func (s *mysqlStore) account(ctx context.Context, id int64) (account, error) {
	found := account{ID: id}
	err := s.selectAccount.QueryRowContext(ctx, id).Scan(&found.Balance)
	if errors.Is(err, sql.ErrNoRows) {
		return account{}, fmt.Errorf("account %d: %w", id, errNotFound)
	}
	if err != nil {
		return account{}, fmt.Errorf("read account %d: %w", id, err)
	}
	return found, nil
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
	if err := lockAccounts(ctx, tx, wanted); err != nil {
		return transfer{}, err
	}
	for _, change := range []struct{ account, by int64 }{{wanted.From, -wanted.Amount}, {wanted.To, wanted.Amount}} {
		if _, err := tx.ExecContext(ctx, "UPDATE accounts SET balance = balance + ? WHERE id = ?", change.by, change.account); err != nil {
			return transfer{}, err
		}
	}
	result, err := tx.ExecContext(ctx, "INSERT INTO transfers (from_account, to_account, amount, created) VALUES (?, ?, ?, ?)",
		wanted.From, wanted.To, wanted.Amount, now())
	if err != nil {
		return transfer{}, err
	}
	if wanted.ID, err = result.LastInsertId(); err != nil {
		return transfer{}, err
	}
	return wanted, tx.Commit()
}

// lockAccounts locks both accounts of a transfer, always in the same order, so that transfers in opposite directions
// wait for each other instead of deadlocking.
func lockAccounts(ctx context.Context, tx *sql.Tx, wanted transfer) error {
	for _, id := range []int64{min(wanted.From, wanted.To), max(wanted.From, wanted.To)} {
		var balance int64
		err := tx.QueryRowContext(ctx, "SELECT balance FROM accounts WHERE id = ? FOR UPDATE", id).Scan(&balance)
		if errors.Is(err, sql.ErrNoRows) {
			return errNotFound
		}
		if err != nil {
			return err
		}
		if id == wanted.From && balance < wanted.Amount {
			return errInsufficient
		}
	}
	return nil
}

// now is the time as the database keeps it.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
