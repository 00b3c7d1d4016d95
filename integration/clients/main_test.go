// Package clients_test takes libraries that people use on a *sql.DB through rotations, on both databases.
// Each works on while its connections are replaced under it, and nothing it does may fail.
package clients_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed: &shared, Options: testbed.Options{Postgres: true, MariaDB: true}, Parallel: 8,
		Ignore: []goleak.Option{
			goleak.IgnoreAnyFunction("gorm.io/gorm/internal/lru.NewLRU[...].func1"), // it never ends its cache's
		},
	}.Main(m))
}

// service is a DB of one kind, opened by sql.Open as a program would.
type service struct {
	*sql.DB
	kind    string // "mysql" or "postgres"
	role    *testbed.Role
	rotator *rotation.Rotator
	events  *kit.Recorder
}

// eachDatabase runs a test on both.
func eachDatabase(t *testing.T, test func(t *testing.T, s *service)) {
	t.Helper()
	for _, kind := range []string{"mysql", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, kind))
		})
	}
}

var grants sync.Mutex

// roles may create tables, as migrations do. On PostgreSQL they act as a role that outlives them, which owns
// what they create.
func newRole(t *testing.T, kind string) (*testbed.Role, string) {
	t.Helper()
	ctx := t.Context()
	if kind == "mysql" {
		role, err := shared.MariaDBRole(ctx, testbed.RoleOptions{Create: []string{`
			CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';
			GRANT ALL ON ` + shared.MariaDB.Database + `.* TO '{{name}}'@'%';`}})
		kit.Check(t, err)
		return role, shared.MariaDB.DSN("app") + "?parseTime=true"
	}
	owner := "owner_" + fmt.Sprint(owners.Add(1))
	asSuperuser := func(sql string) {
		grants.Lock() // PostgreSQL refuses two at once on the same schema: "tuple concurrently updated"
		defer grants.Unlock()
		kit.Check(t, shared.Postgres.Exec(context.WithoutCancel(ctx), sql))
	}
	asSuperuser("CREATE ROLE " + owner + "; GRANT ALL ON SCHEMA public TO " + owner)
	t.Cleanup(func() { asSuperuser("DROP OWNED BY " + owner + "; DROP ROLE " + owner) })
	role, err := shared.PostgresRole(ctx, testbed.RoleOptions{
		Create: []string{`
			CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + owner + `;
			ALTER ROLE "{{name}}" SET role = ` + owner},
		Revoke: []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	kit.Check(t, err)
	return role, shared.Postgres.URL("app")
}

var owners atomic.Int64

func open(t *testing.T, kind string) *service {
	t.Helper()
	s := &service{kind: kind, events: kit.NewRecorder()}
	var dsn string
	s.role, dsn = newRole(t, kind)
	token, err := s.role.Token(t.Context(), time.Hour)
	kit.Check(t, err)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	dsn += "&vault_path=" + s.role.CredsPath + "&vault_addr=" + shared.Vault.Addr + "&vault_token_file=" + file
	driver := map[string]string{"mysql": mysqlvault.DriverName, "postgres": stdlib.DriverName}[kind]
	s.DB, err = sql.Open(driver, dsn)
	kit.Check(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		s.checkNothingLeft(t)
	})
	s.SetMaxOpenConns(8)
	s.SetMaxIdleConns(8)
	kit.Check(t, s.PingContext(t.Context()))
	if s.rotator = mysqlvault.RotatorOf(s.DB); kind == "postgres" {
		s.rotator = stdlib.RotatorOf(s.DB)
	}
	s.rotator.Subscribe(s.events.Add)
	return s
}

func (s *service) checkNothingLeft(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if leases, err := s.role.Leases(ctx); err != nil || len(leases) > 0 {
		t.Errorf("left in Vault: leases %v (error %v)", leases, err)
	}
	if users, err := s.role.Users(ctx); err != nil || len(users) > 0 {
		t.Errorf("left in the database: users %v (error %v)", users, err)
	}
}

// through has eight workers do something again and again while the credential is replaced three times, and
// drained and revoked each time.
func (s *service) through(t *testing.T, work func(ctx context.Context, worker, n int) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*kit.Patience)
	defer cancel()
	var stop atomic.Bool
	var done atomic.Int64
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				if err := work(ctx, worker, n); err != nil {
					t.Errorf("worker %d, round %d: %v", worker, n, err)
					return
				}
				done.Add(1)
			}
		})
	}
	defer workers.Wait()
	defer stop.Store(true)
	first := s.rotator.Status().Generation
	for id := first; id < first+3; id++ {
		before := done.Load()
		kit.Eventually(t, "work goes on", func(context.Context) bool { return done.Load() > before+20 || t.Failed() })
		if err := s.rotator.Rotate(ctx); err != nil {
			t.Errorf("rotating: %v", err)
			return
		}
	}
	resumeAfter := done.Load()
	kit.Eventually(t, "work goes on", func(context.Context) bool { return done.Load() > resumeAfter+20 || t.Failed() })
	stop.Store(true)
	workers.Wait()
	for id := first; id < first+3; id++ {
		s.events.Wait(t, rotation.Revoked, id)
	}
	s.events.None(t, rotation.DrainDeadline, rotation.LoginRefused)
}

var errWrong = errors.New("what was read is not what was written")
