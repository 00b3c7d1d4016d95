package pgvaultstdlib_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	pgxstdlib "github.com/jackc/pgx/v5/stdlib"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
)

// arrayOf scans an array of text, which database/sql has no type for.
type arrayOf struct{ to *[]string }

func (a *arrayOf) Scan(from any) error {
	switch v := from.(type) {
	case nil:
		*a.to = nil
	case string:
		*a.to = strings.Split(strings.Trim(v, "{}"), ",")
	default:
		return fmt.Errorf("a %T", v)
	}
	return nil
}

// hazard 4: the hooks of a registered config all run, for connections of the sql.DB.
func TestHazard04_Hooks(t *testing.T) {
	t.Parallel()
	var before, after, prepared, released, closed atomic.Int32
	s := open(t, setup{params: "pool_max_conns=2", configure: func(c *pgvault.Config) {
		c.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
			before.Add(1)
			cc.RuntimeParams["application_name"] = "hooked"
			return nil
		}
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			after.Add(1)
			_, err := conn.Exec(ctx, "SET search_path TO public, pg_temp")
			return err
		}
		c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) {
			prepared.Add(1)
			return true, nil
		}
		c.AfterRelease = func(*pgx.Conn) bool { released.Add(1); return true }
		c.BeforeClose = func(*pgx.Conn) { closed.Add(1) }
	}})
	var application, path string
	for _, show := range []struct {
		what string
		to   *string
	}{{"application_name", &application}, {"search_path", &path}} {
		kit.Check(t, s.QueryRowContext(t.Context(), "SHOW "+show.what).Scan(show.to))
	}
	if application != "hooked" || path != "public, pg_temp" {
		t.Errorf("the session has application_name %q and search_path %q", application, path)
	}
	kit.Eventually(t, "AfterRelease was called for each use", func(context.Context) bool { return released.Load() >= 3 })
	old := s.user()
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	for name, n := range map[string]*atomic.Int32{"BeforeConnect": &before, "AfterConnect": &after, "PrepareConn": &prepared} {
		if n.Load() < 2 {
			t.Errorf("%s was called %d times", name, n.Load())
		}
	}
	kit.Check(t, s.Close())
	if closed.Load() == 0 {
		t.Error("BeforeClose was not called")
	}
}

// hazard 15: isolation levels and read-only transactions reach the server.
func TestHazard15_TxOptions(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	for level, want := range map[sql.IsolationLevel]string{
		sql.LevelDefault:        "read committed",
		sql.LevelReadCommitted:  "read committed",
		sql.LevelRepeatableRead: "repeatable read",
		sql.LevelSnapshot:       "repeatable read",
		sql.LevelSerializable:   "serializable",
	} {
		for _, readOnly := range []bool{false, true} {
			tx, err := s.BeginTx(t.Context(), &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			kit.Check(t, err)
			var isolation, only string
			kit.Check(t, tx.QueryRowContext(t.Context(), "SHOW transaction_isolation").Scan(&isolation))
			kit.Check(t, tx.QueryRowContext(t.Context(), "SHOW transaction_read_only").Scan(&only))
			if isolation != want || (only == "on") != readOnly {
				t.Errorf("%v, read-only %v: the server has %s, read-only %s", level, readOnly, isolation, only)
			}
			kit.Check(t, tx.Rollback())
		}
	}
	if _, err := s.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelLinearizable}); err == nil {
		t.Error("an isolation level that PostgreSQL does not have was accepted")
	}
}

// hazard 15: arguments of every kind go through unchanged, named results have types, and a caller's
// cancellation stops the statement.
func TestHazard15_ValuesAndCancellation(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	var big uint64
	var list, missing sql.NullString
	kit.Check(t, s.QueryRowContext(t.Context(), "SELECT $1::numeric, $2::int[]::text, $3::text",
		uint64(1<<63+1), []int32{1, 2}, nil).Scan(&big, &list, &missing))
	if big != 1<<63+1 || list.String != "{1,2}" || missing.Valid {
		t.Errorf("%d, %v and %v came back", big, list, missing)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := s.ExecContext(ctx, "SELECT pg_sleep(3600)")
		failed <- err
	}()
	kit.Eventually(t, "the statement runs", func(ctx context.Context) bool {
		var n int
		kit.Check(t, shared.Postgres.Superuser.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE usename = $1 AND state = 'active' AND query LIKE '%pg_sleep%'`, s.user()).Scan(&n))
		return n == 1
	})
	cancel()
	if err := kit.Receive(t, "the statement's error", failed); !errors.Is(err, context.Canceled) {
		t.Errorf("the statement returned: %v", err)
	}
	kit.Check(t, s.PingContext(t.Context()))
}

// hazards 15, 58: Raw gives the connection as pgx knows it, which LISTENs on across a rotation.
func TestHazard58_ListenByRaw(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=2"})
	conn, err := s.Conn(t.Context())
	kit.Check(t, err)
	raw := func(f func(*pgx.Conn) error) {
		t.Helper()
		kit.Check(t, conn.Raw(func(driverConn any) error { return f(driverConn.(*stdlib.Conn).Conn()) }))
	}
	raw(func(c *pgx.Conn) error {
		_, err := c.Exec(t.Context(), "LISTEN jobs")
		return err
	})
	old := s.user()
	s.rotate(t)
	_, err = s.ExecContext(t.Context(), "SELECT pg_notify('jobs', 'after the rotation')")
	kit.Check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	raw(func(c *pgx.Conn) error {
		n, err := c.WaitForNotification(ctx)
		if err == nil && n.Payload != "after the rotation" {
			err = fmt.Errorf("the notification says %q", n.Payload)
		}
		return err
	})
	kit.Check(t, conn.Close())
	s.waitRevoked(t, 1, old)
}

// A query costs no more allocations than by pgx's own sql.DB over the same pool.
func TestAllocations(t *testing.T) { // not parallel: it counts everybody's
	s := prepare(t, setup{})
	pool, err := pgvault.NewWithConfig(t.Context(), s.config)
	kit.Check(t, err)
	defer func() { kit.Check(t, pool.Shutdown(context.Background())) }()
	least := func(db *sql.DB) float64 {
		n := 1e9
		for range 5 { // what happens beside it only adds
			n = min(n, testing.AllocsPerRun(200, func() {
				var one int
				if err := db.QueryRowContext(context.Background(), "SELECT 1").Scan(&one); err != nil {
					t.Error(err)
				}
			}))
		}
		kit.Check(t, db.Close())
		return n
	}
	ours, theirs := least(stdlib.OpenDB(pool)), least(pgxstdlib.OpenDBFromPool(pool.Pool))
	if ours > theirs {
		t.Errorf("%v allocations, where pgx's makes %v", ours, theirs)
	}
}
