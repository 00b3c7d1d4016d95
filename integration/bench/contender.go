package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// subject is a pool under test, with whatever replaces its credential.
type subject interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Begin(ctx context.Context) (pgx.Tx, error)
	// rotate replaces the credential as this contender does it. What follows in the background may go on.
	rotate(ctx context.Context) error
	// close leaves no connection and no lease.
	close(ctx context.Context) error
	// idle returns how many connections are idle.
	idle() int
}

// contender opens subjects. Every login, of the pool and beside it, passes through hook.
type contender struct {
	name string
	open func(ctx context.Context, e *env, l *logins) (subject, error)
}

// ours is the contender whose failures count as ours.
const ours = "pgvault"

// The two that ratios refer to.
const (
	baseline = "raw pgxpool, no rotation"
	floor    = "floor: raw, as many logins beside it"
)

var contenders = []contender{
	{baseline, openRaw},
	{"raw again", openRaw},
	{floor, openFloor},
	{"floor, and Vault's work as well", openFloorVault},
	{ours, openVaultPool},
	{"BeforeConnect + Reset()", openReset},
	{"the same, revoked at once", openResetRevoke},
	{"new pool swapped under a mutex", openSwap},
	{"paced, callers pay", openPaced},
	{"MaxConnLifetime tuned", openLifetime},
}
