package testbed_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// A replica follows, stays behind when told to, over a restart too, catches up, and ends with its testbed.
func TestPostgresReplica(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true, PostgresReplicas: true, Progress: os.Stderr})
	ctx := t.Context()
	replica, err := bed.PostgresReplica(ctx)
	check(t, err)
	items := func(name string) (n int) {
		t.Helper()
		check(t, replica.Superuser.QueryRow(ctx, "SELECT count(*) FROM items WHERE name = $1", name).Scan(&n))
		return n
	}
	insert := func(name string) {
		t.Helper()
		check(t, bed.Postgres.Exec(ctx, "INSERT INTO items (name) VALUES ($1)", name))
	}
	received := func() {
		t.Helper()
		eventually(t, "the replica receives everything", func(ctx context.Context) (all bool, err error) {
			err = bed.Postgres.Superuser.QueryRow(ctx, "SELECT coalesce(pg_current_wal_insert_lsn() <= (SELECT max(flush_lsn) FROM pg_stat_replication), false)").Scan(&all)
			return all, err
		})
	}

	insert("followed")
	eventually(t, "the replica follows", func(context.Context) (bool, error) { return items("followed") == 1, nil })
	check(t, replica.Lag(ctx))
	insert("late")
	received()
	if items("late") != 0 {
		t.Error("the replica follows while it lags")
	}
	check(t, replica.Stop(ctx))
	insert("later")
	check(t, replica.Restart(ctx)) // "late" is here already
	if items("late")+items("later") != 0 {
		t.Error("the replica catches up by a restart")
	}
	check(t, replica.CatchUp(ctx))
	eventually(t, "the replica catches up", func(context.Context) (bool, error) { return items("late")+items("later") == 2, nil })

	check(t, bed.Close())
	if conn, err := pgx.Connect(ctx, replica.URL()); err == nil {
		t.Error("the replica outlives its testbed", conn.Close(ctx))
	}
}
