package filesource_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/filesource"
)

const conns = 8

// opened is a DB, and how its program closes it.
type opened struct {
	db      *sql.DB
	rotator *rotation.Rotator
	close   func() error
}

// server is one of the databases.
type server struct {
	exec                          func(ctx context.Context, statements string, arguments ...any) error
	sessions                      func(ctx context.Context, user string) ([]testbed.Session, error)
	create, drop, change, session string // SQL; what has user and password as %[1]s and %[2]s
	role                          func(ctx context.Context) (*testbed.Role, error)
	files                         func(t *testing.T) filesource.Config // the kind for the test that takes longest
	open                          func(t *testing.T, source rotation.Source, config rotation.Config) opened
}

// onBoth runs a test on each database.
func onBoth(t *testing.T, test func(t *testing.T, on server)) {
	t.Helper()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, server{
			exec: shared.Postgres.Exec, sessions: shared.Postgres.Sessions,
			create: `CREATE ROLE "%[1]s" LOGIN PASSWORD '%[2]s' IN ROLE ` + group(), drop: `DROP ROLE IF EXISTS "%[1]s"`,
			change: `ALTER ROLE "%[1]s" PASSWORD '%[2]s'`, session: "SELECT pg_backend_pid()",
			role: func(ctx context.Context) (*testbed.Role, error) {
				return shared.PostgresRole(ctx, testbed.RoleOptions{
					Create: []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' IN ROLE ` + group()},
					Revoke: []string{`DROP ROLE IF EXISTS "{{name}}"`},
				})
			},
			files: inDir, open: openPostgres,
		})
	})
	t.Run("MariaDB", func(t *testing.T) {
		t.Parallel()
		test(t, server{
			exec: shared.MariaDB.Exec, sessions: shared.MariaDB.Sessions,
			create: `CREATE USER '%[1]s'@'%%' IDENTIFIED BY '%[2]s'; GRANT SELECT, INSERT ON ` + shared.MariaDB.Database +
				`.* TO '%[1]s'@'%%'`,
			drop:   `DROP USER IF EXISTS '%[1]s'@'%%'`,
			change: `ALTER USER '%[1]s'@'%%' IDENTIFIED BY '%[2]s'`, session: "SELECT connection_id()",
			role: func(ctx context.Context) (*testbed.Role, error) {
				return shared.MariaDBRole(ctx, testbed.RoleOptions{})
			},
			files: inFile, open: openMariaDB,
		})
	})
}

func openPostgres(t *testing.T, source rotation.Source, config rotation.Config) opened {
	t.Helper()
	c, err := pgvault.ParseConfig(shared.Postgres.URL("app"))
	kit.Check(t, err)
	c.Source, c.Rotation, c.MaxConns = source, config, conns
	pool, err := pgvault.NewWithConfig(t.Context(), c)
	kit.Check(t, err)
	db := stdlib.OpenDB(pool)
	return opened{db, pool.Rotator(), func() error {
		return errors.Join(db.Close(), pool.Shutdown(context.Background()))
	}}
}

func openMariaDB(t *testing.T, source rotation.Source, config rotation.Config) opened {
	t.Helper()
	c, err := mysqlvault.ParseConfig(shared.MariaDB.DSN("app"))
	kit.Check(t, err)
	c.Source, c.Rotation = source, config
	connector, err := mysqlvault.NewConnector(t.Context(), c)
	kit.Check(t, err)
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return opened{db, connector.Rotator(), db.Close}
}

// service is a DB whose credential is in files.
type service struct {
	*sql.DB
	server
	rotator *rotation.Rotator
	events  *kit.Recorder
	logs    *kit.Logs
	config  filesource.Config
	secrets []string
	written int // versions
}

// prepare does all but open the DB.
func prepare(t *testing.T, on server, config filesource.Config) *service {
	t.Helper()
	s := &service{server: on, events: kit.NewRecorder(), logs: &kit.Logs{}, config: config}
	s.config.Logger = slog.New(s.logs)
	if s.config.Interval == 0 {
		s.config.Interval = 20 * time.Millisecond
	}
	return s
}

// start opens the DB.
func (s *service) start(t *testing.T) {
	t.Helper()
	source, err := filesource.New(s.config)
	kit.Check(t, err)
	o := s.open(t, source, rotation.Config{
		IssueInterval: time.Millisecond, DrainTimeout: 20 * time.Second, Logger: slog.New(s.logs),
	})
	s.DB, s.rotator = o.db, o.rotator
	s.rotator.Subscribe(s.events.Add)
	t.Cleanup(func() {
		if err := o.close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		for _, secret := range s.secrets {
			if strings.Contains(s.logs.String(), secret) {
				t.Error("a password is in the log")
			}
		}
	})
}

// write replaces the credential in the files: a directory as the kubelet does, a file as Vault Agent does.
func (s *service) write(t *testing.T, user, password string) {
	t.Helper()
	s.written++
	s.secrets = append(s.secrets, password)
	if s.config.File != "" {
		content, err := json.Marshal(map[string]string{"username": user, "password": password})
		kit.Check(t, err)
		replace(t, s.config.File, func(path string) error { return os.WriteFile(path, content, 0o600) })
		return
	}
	version := fmt.Sprintf("..v%d", s.written)
	dir := filepath.Join(s.config.Dir, version)
	kit.Check(t, os.Mkdir(dir, 0o700))
	kit.Check(t, os.WriteFile(filepath.Join(dir, "username"), []byte(user), 0o600))
	kit.Check(t, os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600))
	replace(t, filepath.Join(s.config.Dir, "..data"), func(path string) error { return os.Symlink(version, path) })
	kit.Check(t, os.RemoveAll(filepath.Join(s.config.Dir, fmt.Sprintf("..v%d", s.written-1))))
}

func replace(t *testing.T, path string, create func(path string) error) {
	t.Helper()
	kit.Check(t, create(path+".new"))
	kit.Check(t, os.Rename(path+".new", path))
}

var users atomic.Int32

// newUser makes a user of our own, until the end of the test.
func (s *service) newUser(t *testing.T) (user, password string) {
	t.Helper()
	user, password = fmt.Sprintf("file_%s_%d", shared.Postgres.Database, users.Add(1)), fmt.Sprintf("pw-%d-%d", time.Now().UnixNano(), users.Load())
	kit.Check(t, s.exec(t.Context(), fmt.Sprintf(s.create, user, password)))
	t.Cleanup(func() { kit.Check(t, s.exec(context.Background(), fmt.Sprintf(s.drop, user))) })
	return user, password
}

// hold takes n connections and returns the ids of their sessions.
func (s *service) hold(t *testing.T, n int) (held []*sql.Conn, ids []int64) {
	t.Helper()
	for range n {
		c, err := s.Conn(t.Context())
		kit.Check(t, err)
		held = append(held, c)
		ids = append(ids, s.id(t, c))
	}
	return held, ids
}

func (s *service) id(t *testing.T, c *sql.Conn) (id int64) {
	t.Helper()
	kit.Check(t, c.QueryRowContext(t.Context(), s.session).Scan(&id))
	return id
}

func release(t *testing.T, held []*sql.Conn) {
	t.Helper()
	for _, c := range held {
		kit.Check(t, c.Close())
	}
}
