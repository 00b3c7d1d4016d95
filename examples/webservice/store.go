package main

//go:generate env CGO_ENABLED=0 go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate

import (
	"context"
	"errors"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// Errors that are the caller's to mend.
var (
	errNotFound     = errors.New("not found")
	errInsufficient = errors.New("the balance is too low")
)

type item struct {
	ID       int64     `json:"id"`
	Name     string    `json:"name"`
	Quantity int32     `json:"quantity"`
	Created  time.Time `json:"created"`
}

type account struct {
	ID      int64 `json:"id"`
	Balance int64 `json:"balance"`
}

type transfer struct {
	ID     int64 `json:"id"`
	From   int64 `json:"from"`
	To     int64 `json:"to"`
	Amount int64 `json:"amount"`
}

// lockOrder is the accounts of a transfer, always in the same order, so that transfers in opposite directions wait for
// each other instead of deadlocking.
func (t transfer) lockOrder() []int64 { return []int64{min(t.From, t.To), max(t.From, t.To)} }

// changes is what a transfer adds to each balance.
func (t transfer) changes() []account {
	return []account{{ID: t.From, Balance: -t.Amount}, {ID: t.To, Balance: t.Amount}}
}

// store is what the handlers need: postgresStore, mysqlStore, or a map in tests.
type store interface {
	listItems(ctx context.Context, limit int32) ([]item, error) // newest first
	createItem(ctx context.Context, name string, quantity int32) (item, error)
	item(ctx context.Context, id int64) (item, error)
	account(ctx context.Context, id int64) (account, error)
	// transfer moves an amount from one account to another, or does nothing and returns an error.
	transfer(ctx context.Context, wanted transfer) (transfer, error)
}

// database is an open store, and what the rest of the service needs of it.
type database struct {
	store   store
	rotator *rotation.Rotator // for the status page, the metrics and the log
	// close waits for the connections in use and revokes the lease, within -pool-timeout. What it could not give
	// back is an error.
	close func() error
}

func openDatabase(ctx context.Context, cfg config) (*database, error) {
	if cfg.database == mysqlName {
		return openMySQL(ctx, cfg)
	}
	return openPostgres(ctx, cfg)
}
