package pgvault_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// hazard 8: the embedded pool, given to database/sql, rotates and drains as well.
func TestHazard08_RawPoolInDatabaseSQL(t *testing.T) {
	t.Parallel()
	// In the second half of the window every old connection is given up, whatever kept it until then.
	s := open(t, setup{params: "pool_max_conns=6", configure: drainTimeout(patience)})
	t.Cleanup(func() {
		if stat := s.Stat(); t.Failed() {
			t.Logf("%d connections, %d in use, %d being opened; %+v", stat.TotalConns(), stat.AcquiredConns(), stat.ConstructingConns(), s.Rotator().Status())
		}
	})
	db := stdlib.OpenDBFromPool(s.Pool.Pool)
	t.Cleanup(func() { check(t, db.Close()) })
	old := s.Rotator().Status().User

	tx, err := db.BeginTx(t.Context(), nil)
	check(t, err)
	_, err = tx.ExecContext(t.Context(), insertItem, t.Name())
	check(t, err)
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := useDB(t.Context(), db, t.Name()); err != nil {
					t.Errorf("under rotation: %v", err)
					return
				}
			}
		})
	}
	s.rotate(t)
	for id := uint64(2); id <= 5; id++ {
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id) // else there would be too many leases at once
	}
	if !s.hasUser(t, old) {
		t.Error("the lease was revoked under a transaction")
	}
	check(t, tx.Commit())
	s.waitRevoked(t, 1, old)
	close(stop)
	workers.Wait()
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

func useDB(ctx context.Context, db *sql.DB, name string) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, insertItem, name); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	var n int
	return db.QueryRowContext(ctx, "SELECT count(*) FROM items WHERE name = $1", name).Scan(&n)
}

// hazard 8: on the embedded pool the one call whose login is refused fails, and the next succeeds.
func TestHazard08_RawPoolRefused(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	s.dropRole(t, s.Rotator().Status().User)
	_, err := s.Pool.Pool.Exec(t.Context(), "SELECT 1")
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
		t.Fatalf("the refused login returned %v, not SQLSTATE 28P01", err)
	}
	s.events.Wait(t, rotation.Published, 2)
	_, err = s.Pool.Pool.Exec(t.Context(), "SELECT 1")
	check(t, err)
}

// hazard 9: channel binding needs the TLS connection itself, unwrapped. The sessions of a TLS server can
// be ended at the drain deadline too.
func TestHazard09_ChannelBinding(t *testing.T) {
	t.Parallel()
	s := open(t, setup{
		bed: faulty.use(t), params: "channel_binding=require",
		configure: drainTimeout(300 * time.Millisecond),
	})
	old := s.Rotator().Status().User
	held := s.acquire(t)
	var isTLS bool
	check(t, held.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&isTLS))
	if !isTLS {
		t.Fatal("connected without TLS")
	}
	atRevocation := s.atRevocation(t, held)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil || e.Connections != 1 || atRevocation.Load() != 0 {
		t.Errorf("%d of %d sessions were left when the lease was revoked, error %v", atRevocation.Load(), e.Connections, e.Err)
	}
	if user := sessionUser(t, s); user == old {
		t.Errorf("still logged in as %s", user)
	}
}

// hazard 50: an idle connection that we have taken and given back is pinged as it would have been
// without us, so that one killed by the server meanwhile does not reach a caller.
func TestHazard50_SweptConnectionsKeepTheirPing(t *testing.T) {
	t.Parallel()
	const many = 6
	s := open(t, setup{params: "pool_max_conns=6", configure: func(c *pgvault.Config) {
		// Never by itself, so that only what we owe is pinged, however long the test takes.
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	}})
	var held []*pgxpool.Conn
	for range many {
		held = append(held, s.acquire(t))
	}
	for _, conn := range held {
		conn.Release()
	}
	old := s.Rotator().Status().User
	s.rotate(t)
	eventually(t, "the first connection is replaced", func(context.Context) bool { return s.connections(1) < many })
	if n := s.connections(1); n == 0 {
		t.Fatal("all are replaced at once: nothing is left to be killed")
	}
	check(t, s.bed.Postgres.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", old))
	for range 3 {
		held = nil
		for range many {
			conn := s.acquire(t)
			if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
				t.Fatalf("handed out a connection that the server had killed: %v", err)
			}
			held = append(held, conn)
		}
		for _, conn := range held {
			conn.Release()
		}
	}
	s.events.Wait(t, rotation.Revoked, 1)
}

// twoPools opens two pools on one rotator, which the end of the test closes, last.
func twoPools(t *testing.T, s *service) (a, b *pgvault.Pool, r *rotation.Rotator) {
	t.Helper()
	source, err := vaultsource.New(t.Context(), vaultsource.Config{Path: s.role.CredsPath, Address: s.vault.URL, TokenFile: s.tokenFile})
	check(t, err)
	r, err = rotation.New(t.Context(), source, s.rotation())
	check(t, err)
	t.Cleanup(func() {
		check(t, r.Close(context.Background()))
		s.checkNothingLeft(t)
	})
	r.Subscribe(s.events.Add)
	var pools [2]*pgvault.Pool
	for i := range pools {
		config, err := pgvault.ParseConfig(withParams(s.bed.Postgres.URL("app"), "pool_max_conns=4"))
		check(t, err)
		config.Rotator = r
		pools[i], err = pgvault.NewWithConfig(t.Context(), config)
		check(t, err)
		t.Cleanup(pools[i].Close)
	}
	return pools[0], pools[1], r
}

// hazard 47: the lease that two pools share is revoked once, after both are drained; closing one
// leaves the other alone.
func TestHazard47_TwoPoolsOneRotator(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	a, b, r := twoPools(t, s)
	old := r.Status().User
	inA, err := a.Acquire(t.Context())
	check(t, err)
	t.Cleanup(inA.Release)
	inB, err := b.Acquire(t.Context())
	check(t, err)
	t.Cleanup(inB.Release)
	check(t, a.Rotate(t.Context()))
	check(t, b.Ping(t.Context()))
	inA.Release()
	eventually(t, "one connection left", func(context.Context) bool {
		left := r.Status().Generations[0]
		return left.Generation == 1 && left.Connections == 1
	})
	if user := sessionUser(t, inB); user != old || !s.hasUser(t, old) {
		t.Errorf("the other pool's connection is of %s", user)
	}
	s.events.None(t, rotation.Revoked)
	inB.Release()
	s.waitRevoked(t, 1, old)
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations for one lease", n)
	}

	a.Close()
	check(t, b.Ping(t.Context()))
	check(t, b.Rotate(t.Context()))
	s.events.Wait(t, rotation.Revoked, 2)
	check(t, b.Ping(t.Context()))
	if _, err := a.Acquire(t.Context()); err == nil {
		t.Error("a closed pool gives out connections")
	}
}

// hazard 57: closing one of two pools ends its own leaked connection and no other.
func TestHazard57_CloseOneOfTwoPools(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	a, b, r := twoPools(t, s)
	leaked, err := a.Acquire(t.Context())
	check(t, err)
	t.Cleanup(leaked.Release)
	tx, err := b.Begin(t.Context())
	check(t, err)
	_, err = tx.Exec(t.Context(), insertItem, t.Name())
	check(t, err)
	pids := make([]int32, 1)
	check(t, leaked.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pids[0]))

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := a.Shutdown(ctx); err == nil {
		t.Error("Shutdown said nothing about the leaked connection")
	}
	if s.alive(t, pids) != 0 {
		t.Error("the leaked connection's session is still there")
	}
	if _, err := leaked.Exec(t.Context(), "SELECT 1", 1); !isEnded(err) {
		t.Errorf("the leaked connection's next statement returned %v", err)
	}
	leaked.Release()
	if n := r.Status().Generations[0].Connections; n != 1 {
		t.Errorf("the engine counts %d connections, where the other pool has 1", n)
	}
	_, err = tx.Exec(t.Context(), insertItem, t.Name())
	check(t, err)
	check(t, tx.Commit(t.Context()))
	if s.items(t, t.Name()) != 2 {
		t.Error("the other pool's transaction did not commit both rows")
	}
	s.events.None(t, rotation.Revoked)
}
