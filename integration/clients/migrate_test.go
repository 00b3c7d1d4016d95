package clients_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/database/mysql"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// newMigrate returns a migrate whose Close leaves the pool alone.
func newMigrate(t *testing.T, kind string, db database.Driver) *migrate.Migrate {
	t.Helper()
	files, err := fs.Sub(migrations, "migrations/golang-migrate/"+kind)
	kit.Check(t, err)
	source, err := iofs.New(files, ".")
	kit.Check(t, err)
	m, err := migrate.NewWithInstance("iofs", source, kind, db)
	kit.Check(t, err)
	return m
}

func closeMigrate(t *testing.T, m *migrate.Migrate) {
	t.Helper()
	source, db := m.Close()
	kit.Check(t, errors.Join(source, db))
}

// migrateThrough takes each migration up, and each down again, while the credential is replaced before every step.
// golang-migrate holds one connection all the time: none of its leases is revoked before it is closed.
func migrateThrough(t *testing.T, l *leased, m *migrate.Migrate, progress func() int64) {
	t.Helper()
	first := l.rotator.Status().Generation
	for _, step := range []int{1, 1, 1, -2, -1} {
		kit.Check(t, m.Steps(step))
		if l.rotator.Status().Generation < first+rotations {
			goesOn(t, progress)
			l.rotate(t)
		}
	}
	l.events.Wait(t, rotation.Revoked, first+1)
	if early := l.events.Of(rotation.Revoked, first); len(early) > 0 {
		t.Error("the lease of the migrations was revoked before their connection was closed")
	}
	kit.Check(t, m.Up())
	if version, dirty, err := m.Version(); err != nil || dirty || version != 3 {
		t.Errorf("the version is %d, dirty %v (error %v)", version, dirty, err)
	}
	kit.Check(t, m.Down())
	closeMigrate(t, m)
	l.events.Wait(t, rotation.Revoked, first)
}

// golang-migrate on PostgreSQL, beside other users of the pool. Its Close closes the DB that it was given: one of
// its own, on the shared pool.
func TestMigratePostgres(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	db := stdlib.OpenDB(p.Pool)
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	kit.Check(t, err)
	m := newMigrate(t, "postgres", driver)
	others := start(t, size-1, func(ctx context.Context, _, _ int) error {
		_, err := p.Exec(ctx, "SELECT 1")
		return err
	})
	migrateThrough(t, &p.leased, m, others.count)
	others.stop()
	kit.Check(t, p.Ping(t.Context())) // the pool is open
	p.undisturbed(t)
	p.checkMoved(t)
}

// golang-migrate on MySQL, on a connection of the DB. It wants multiStatements=true in the DSN.
func TestMigrateMySQL(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "")
	conn, err := s.Conn(t.Context())
	kit.Check(t, err)
	driver, err := mysql.WithConnection(t.Context(), conn, &mysql.Config{MigrationsTable: "migrate_versions"})
	kit.Check(t, err)
	t.Cleanup(func() {
		kit.Check(t, shared.MariaDB.Exec(context.WithoutCancel(t.Context()), "DROP TABLE migrate_versions"))
	})
	m := newMigrate(t, "mysql", driver)
	others := start(t, size-1, func(ctx context.Context, _, _ int) error {
		var one int
		return s.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	})
	migrateThrough(t, &s.leased, m, others.count)
	others.stop()
	kit.Check(t, s.PingContext(t.Context())) // the DB is open
	s.undisturbed(t)
	s.checkMoved(t)
}

// What goes wrong without an owner: the users that Vault makes own what a migration creates, and PostgreSQL refuses
// to drop them. The pool goes on; the revocation is tried again, and succeeds once somebody else owns it all.
func TestMigrateWithoutOwner(t *testing.T) {
	t.Parallel()
	p := &pool{leased: leased{kind: "postgres", events: kit.NewRecorder()}}
	owner := newOwner(t)
	var err error
	p.role, err = shared.PostgresRole(t.Context(), testbed.RoleOptions{
		Create: []string{`
			CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
			GRANT ALL ON SCHEMA ` + owner + ` TO "{{name}}";
			ALTER ROLE "{{name}}" SET search_path = ` + owner},
		Revoke: []string{`REVOKE ALL ON SCHEMA ` + owner + ` FROM "{{name}}"`, `DROP ROLE IF EXISTS "{{name}}"`},
	})
	kit.Check(t, err)
	p.Pool, err = pgvault.New(t.Context(), withVault(t, p.role, shared.Postgres.URL("app")))
	kit.Check(t, err)
	t.Cleanup(func() {
		kit.Check(t, p.Shutdown(context.WithoutCancel(t.Context())))
		p.checkNothingLeft(t)
	})
	p.rotator = p.Rotator()
	p.rotator.Subscribe(p.events.Add)
	driver, err := migratepgx.WithInstance(stdlib.OpenDB(p.Pool), &migratepgx.Config{})
	kit.Check(t, err)
	m := newMigrate(t, "postgres", driver)
	kit.Check(t, m.Up())
	closeMigrate(t, m)

	old := p.rotator.Status().User
	number, _ := p.rotate(t)
	failed := p.events.Wait(t, rotation.RevokeFailed, number)
	if failed.Err == nil || !strings.Contains(failed.Err.Error(), "some objects depend on it") {
		t.Errorf("the revocation failed for another reason: %v", failed.Err)
	}
	_, err = p.Exec(t.Context(), "SELECT count(*) FROM invoices")
	if err == nil {
		t.Error("the next user may read what the last one owns")
	}
	kit.Check(t, shared.Postgres.Exec(t.Context(), `REASSIGN OWNED BY "`+old+`" TO `+owner))
	p.events.Wait(t, rotation.Revoked, number)
	p.checkMoved(t)
}
