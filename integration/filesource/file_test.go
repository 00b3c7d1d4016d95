package filesource_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/filesource"
)

func inDir(t *testing.T) filesource.Config {
	t.Helper()
	return filesource.Config{Dir: t.TempDir()}
}

func inFile(t *testing.T) filesource.Config {
	t.Helper()
	return filesource.Config{File: filepath.Join(t.TempDir(), "db.json")}
}

// load queries from several goroutines until stop is called, which fails the test for every query that failed.
func load(t *testing.T, s *service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var done atomic.Int64
	for i := range 6 {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := work(s.DB, i == 0 || n%50 == 0); err != nil {
					t.Errorf("with generation %d: %v", s.rotator.Status().Generation, err)
					return
				}
				done.Add(1)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() }) // where the test ends before stop
	return func() {
		t.Helper()
		cancel()
		running.Wait()
		t.Logf("%d pieces of work", done.Load())
		if done.Load() == 0 {
			t.Error("nothing was done")
		}
	}
}

// work is a query, or a transaction that takes some time.
func work(db *sql.DB, transaction bool) error {
	ctx := context.Background()
	if !transaction {
		var n int
		return db.QueryRowContext(ctx, "SELECT count(*) FROM accounts").Scan(&n)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for range 2 {
		if _, err := tx.ExecContext(ctx, "INSERT INTO items (name) VALUES ('file')"); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return tx.Commit()
}

// An agent replaces the files under load, and revokes the lease of the user before once it has drained. Nothing
// fails, there is one rotation for each, and no session of an old user is left.
func TestReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, on server) {
		t.Helper()
		const replacements = 4
		s := prepare(t, on, on.files(t))
		role, err := on.role(t.Context())
		kit.Check(t, err)
		issue := func() *testbed.Credential {
			c, err := role.Issue(t.Context())
			kit.Check(t, err)
			s.write(t, c.User, c.Password)
			return c
		}
		current := issue()
		s.start(t)
		stop := load(t, s)
		for i := range uint64(replacements) {
			old := current
			current = issue()
			s.events.Wait(t, rotation.Published, i+2)
			s.events.Wait(t, rotation.Drained, i+1)
			if user := s.rotator.Status().User; user != current.User {
				t.Errorf("generation %d is %s, not %s", i+2, user, current.User)
			}
			kit.Eventually(t, "no session of "+old.User, func(ctx context.Context) bool {
				left, err := s.sessions(ctx, old.User)
				kit.Check(t, err)
				return len(left) == 0
			})
			_, err := shared.Vault.Client.Logical().WriteWithContext(t.Context(), "sys/leases/revoke",
				map[string]any{"lease_id": old.LeaseID, "sync": true})
			kit.Check(t, err)
		}
		stop()
		s.events.None(t, rotation.LoginRefused, rotation.CredentialLost, rotation.IssueFailed, rotation.Rejected,
			rotation.DrainDeadline)
		if n := len(s.events.Of(rotation.Published, 0)); n != replacements {
			t.Errorf("%d rotations for %d replacements", n, replacements)
		}
	})
}

// hazard 35: the files are replaced and the old user is dropped before anybody has looked. The first login that is
// refused heals it, by one rotation, and no caller sees it.
func TestUserDroppedBeforeItWasNoticed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, on server) {
		t.Helper()
		config := inFile(t)
		config.Interval = time.Hour
		s := prepare(t, on, config)
		first, password := s.newUser(t)
		s.write(t, first, password)
		second, secondPassword := s.newUser(t)
		s.start(t)
		held, _ := s.hold(t, 2)
		s.write(t, second, secondPassword)
		kit.Check(t, s.exec(t.Context(), fmt.Sprintf(s.drop, first)))

		var running sync.WaitGroup
		var taken sync.WaitGroup
		taken.Add(conns - 2)
		for range conns - 2 {
			running.Go(func() {
				c, err := s.Conn(context.Background())
				taken.Done()
				if err != nil {
					t.Error(err)
					return
				}
				taken.Wait() // so that each has one of its own
				if err := c.PingContext(context.Background()); err != nil {
					t.Error(err)
				}
				kit.Check(t, c.Close())
			})
		}
		running.Wait()
		release(t, held)
		if status := s.rotator.Status(); status.User != second || status.Generation != 2 {
			t.Errorf("generation %d is %s", status.Generation, status.User)
		}
		if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
			t.Errorf("%d refusals were reported", n)
		}
		s.events.None(t, rotation.IssueFailed, rotation.Rejected)
	})
}

// The password of the user changes, and then the files. Connections that are open stay, new ones log in with it.
func TestPasswordChanged(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, on server) {
		t.Helper()
		s := prepare(t, on, inDir(t))
		user, password := s.newUser(t)
		s.write(t, user, password)
		s.start(t)
		held, before := s.hold(t, 4)
		release(t, held[1:]) // some idle, one in use

		kit.Check(t, s.exec(t.Context(), fmt.Sprintf(s.change, user, password+"-changed")))
		s.write(t, user, password+"-changed")
		s.events.Wait(t, rotation.Published, 2)
		kit.Check(t, held[0].PingContext(t.Context()))
		kit.Check(t, held[0].Close())
		s.events.Wait(t, rotation.Draining, 1)
		for range 200 { // occasions for whatever would replace them
			kit.Check(t, work(s.DB, false))
		}
		if g := s.rotator.Status().Generations[0]; g.State != rotation.StateDraining || !g.DrainBy.IsZero() {
			t.Errorf("the old password's connections are to be gone: %+v", g)
		}

		held, after := s.hold(t, conns)
		for _, id := range before {
			if !slices.Contains(after, id) {
				t.Errorf("the session %d was replaced; there are %v", id, after)
			}
		}
		status := s.rotator.Status()
		byState := map[rotation.State]int{}
		for _, g := range status.Generations {
			byState[g.State] = g.Connections
		}
		if byState[rotation.StateDraining] != len(before) || byState[rotation.StateCurrent] != conns-len(before) {
			t.Errorf("connections by state: %v", byState)
		}
		s.events.None(t, rotation.LoginRefused, rotation.Drained, rotation.DrainDeadline)
		release(t, held)
	})
}
