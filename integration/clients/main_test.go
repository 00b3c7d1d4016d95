// Package clients_test takes libraries that people use on a pgxpool or a *sql.DB through rotations, on the
// databases that they work with. Each works on while its connections are replaced under it, and nothing it does
// may fail. docs/compatibility.md says which, and names the tests.
package clients_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed: &shared, Options: testbed.Options{Postgres: true, MariaDB: true}, Parallel: 8,
		Prepare: prepare, Clean: clean,
		Ignore: []goleak.Option{
			goleak.IgnoreAnyFunction("gorm.io/gorm/internal/lru.NewLRU[...].func1"), // it never ends its cache's
		},
	}.Main(m))
}

// prepare makes what refuses a revocation that comes too early, and allows LOAD DATA LOCAL. A session may take a
// moment to end after its socket was closed.
func prepare(ctx context.Context) error {
	if err := shared.Postgres.Exec(ctx, `
		CREATE FUNCTION refuse_if_alive(who name) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN 1 .. 50 LOOP
				PERFORM pg_stat_clear_snapshot();
				IF NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = who) THEN
					RETURN;
				END IF;
				PERFORM pg_sleep(0.02);
			END LOOP;
			RAISE EXCEPTION 'revoked while % has sessions', who;
		END $$`); err != nil {
		return err
	}
	if err := shared.MariaDB.Root.QueryRowContext(ctx, "SELECT @@GLOBAL.local_infile").Scan(&localInfile); err != nil {
		return err
	}
	return shared.MariaDB.Exec(ctx, `
		CREATE PROCEDURE refuse_if_alive(IN who VARCHAR(128))
		BEGIN
			DECLARE i INT DEFAULT 0;
			WHILE i < 50 AND EXISTS (SELECT 1 FROM information_schema.processlist WHERE user = who) DO
				DO SLEEP(0.02);
				SET i = i + 1;
			END WHILE;
			IF i = 50 THEN
				SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'revoked while the user has sessions';
			END IF;
		END;
		SET GLOBAL local_infile = 1`)
}

var localInfile int // as it was: MySQL has it off

func clean(ctx context.Context) error {
	return shared.MariaDB.Exec(ctx, fmt.Sprintf("SET GLOBAL local_infile = %d", localInfile))
}

// newRole makes a Vault role whose users may create tables, as migrations do, and the connection string for it,
// with a token file. Its users cannot be dropped while they have sessions.
func newRole(t *testing.T, kind string) (*testbed.Role, string) {
	t.Helper()
	if kind == "mysql" {
		role, err := shared.MariaDBRole(t.Context(), testbed.RoleOptions{
			Create: []string{`
				CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';
				GRANT ALL ON ` + shared.MariaDB.Database + `.* TO '{{name}}'@'%';`},
			Revoke: []string{
				`CALL ` + shared.MariaDB.Database + `.refuse_if_alive('{{name}}')`,
				`DROP USER IF EXISTS '{{name}}'@'%'`,
			},
		})
		kit.Check(t, err)
		return role, withVault(t, role, shared.MariaDB.DSN("app")+"?parseTime=true&multiStatements=true")
	}
	owner := newOwner(t)
	role, err := shared.PostgresRole(t.Context(), testbed.RoleOptions{
		Create: []string{`
			CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + owner + `;
			ALTER ROLE "{{name}}" SET role = ` + owner + `;
			ALTER ROLE "{{name}}" SET search_path = ` + owner},
		Revoke: []string{`SELECT refuse_if_alive('{{name}}')`, `DROP ROLE IF EXISTS "{{name}}"`},
	})
	kit.Check(t, err)
	return role, withVault(t, role, shared.Postgres.URL("app"))
}

// withVault completes a connection string.
func withVault(t *testing.T, role *testbed.Role, connString string) string {
	t.Helper()
	token, err := role.Token(t.Context(), time.Hour)
	kit.Check(t, err)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	return connString + "&vault_path=" + role.CredsPath + "&vault_addr=" + shared.Vault.Addr + "&vault_token_file=" + file
}

var owners atomic.Int64

// newOwner makes a role that outlives the users of a Vault role, and a schema of its name. Users act as that role
// (ALTER ROLE … SET role), so that it owns what they create and nothing keeps them from being dropped.
func newOwner(t *testing.T) string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	owner := "owner_" + fmt.Sprint(owners.Add(1))
	kit.Check(t, shared.Postgres.Exec(ctx, "CREATE ROLE "+owner+"; CREATE SCHEMA "+owner+" AUTHORIZATION "+owner))
	t.Cleanup(func() { kit.Check(t, shared.Postgres.Exec(ctx, "DROP OWNED BY "+owner+"; DROP ROLE "+owner)) })
	return owner
}
