package readme_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault"
)

// notRun has documents whose commands are not run here, and why.
var notRun = map[string]string{
	"../../README.md":             "TestRoleAndPolicy takes what it says of Vault; the rest gets or makes this repository",
	"../../docs/compatibility.md": "the tests of integration/clients make their roles like that",
	"../../docs/hot-path.md":      "a benchmark and a profile",
	"../../docs/observability.md": "Prometheus and Grafana have tests of their own",
}

// docs/vault-setup.md sets up a Vault that knows nothing, PostgreSQL and MariaDB. With each of its policies a
// pool is opened, renewed, rotated and closed. Then the commands of all other documents are run there.
func TestSetup(t *testing.T) {
	bed, err := testbed.Start(t.Context(), testbed.Options{
		Postgres: true, MariaDB: true, Progress: os.Stderr,
		VaultDir: t.TempDir(), PostgresMaxConns: 100, // servers of our own
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := bed.Vault.Client.Sys().UnmountWithContext(t.Context(), bed.Vault.Mount); err != nil {
		t.Fatal(err) // the document mounts it
	}
	t.Setenv("VAULT_ADDR", bed.Vault.Addr)
	s := newScript(t, bed)
	t.Cleanup(func() { // it may be a server that was given
		if err := bed.MariaDB.Exec(context.Background(), "DROP USER IF EXISTS 'vault'@'%'"); err != nil {
			t.Error(err)
		}
	})
	const setup = "../../docs/vault-setup.md"
	if n := s.run(t, setup); n < 15 {
		t.Fatalf("%s: %d blocks were run, which cannot be all", setup, n)
	}
	t.Run("Service", s.service)
	t.Run("Owner", s.owner)
	t.Run("MySQL", s.mysql)
	t.Run("Static", s.static)
	t.Run("KV", s.kv)
	for _, path := range documents(t) {
		if notRun[path] == "" && path != setup {
			t.Run(filepath.Base(path), func(t *testing.T) { s.beside(t, path) })
		}
	}
}

// beside runs a document's commands while a pool is open, which has to live through them.
func (s *script) beside(t *testing.T, path string) {
	t.Helper()
	if !slices.ContainsFunc(document(t, path), func(b block) bool { return b.language != "go" && b.language != "text" }) {
		return
	}
	pool := s.open(t, "app", "vault_path=database/creds/app", nil)
	s.run(t, path)
	kit.Eventually(t, "the pool serves", func(ctx context.Context) bool {
		_, err := pool.Exec(ctx, "INSERT INTO items (name) VALUES ($1)", path)
		return err == nil
	})
	if err := pool.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	s.checkNothingLeft(t, "database/creds/app")
}

// open opens a pool on PostgreSQL. Without a login it is given a token that has the policy of that name and no
// other, not even Vault's default one.
func (s *script) open(t *testing.T, policy, params string, configure func(*pgvault.Config)) *pgvault.Pool {
	t.Helper()
	config, err := pgvault.ParseConfig(s.bed.Postgres.URL("app") + "&" + params)
	if err != nil {
		t.Fatal(err)
	}
	if policy != "" {
		s.bare(t, policy)
	}
	if configure != nil {
		configure(config)
	}
	pool, err := pgvault.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// bare puts a token into the environment that has one policy and nothing else.
func (s *script) bare(t *testing.T, policy string) {
	t.Helper()
	const file = "bare-token"
	if err := s.shell(t, "vault token create -orphan -no-default-policy -period=1h -policy="+policy+" -field=token > "+file); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_TOKEN", s.read(t, file))
}

func (s *script) service(t *testing.T) {
	ctx := t.Context()
	auth, err := approle.NewAppRoleAuth(s.read(t, "role-id"), &approle.SecretID{FromFile: filepath.Join(s.dir, "secret-id")})
	if err != nil {
		t.Fatal(err)
	}
	for name, configure := range map[string]func(*pgvault.Config){
		"AppRole": func(c *pgvault.Config) { c.Vault.Auth = auth },
		"token":   func(*pgvault.Config) { s.bare(t, "app") },
	} {
		pool := s.open(t, "", "vault_path=database/creds/app", configure)
		useUntilRevoked(t, pool.Rotator(), func() error {
			_, err := pool.Exec(ctx, "INSERT INTO items (name) VALUES ($1)", name)
			return err
		})
		if err := pool.Shutdown(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.checkNothingLeft(t, "database/creds/app")
	}
}

// What sessions of the owner's role create belongs to the owner, also what they create as themselves, once
// their users are dropped; and the service can use it.
func (s *script) owner(t *testing.T) {
	ctx := t.Context()
	pool := s.open(t, "app-owner", "vault_path=database/creds/app-owner", nil)
	for _, sql := range []string{
		"CREATE TABLE made_as_owner (id bigserial PRIMARY KEY)",
		"SET ROLE NONE; CREATE SCHEMA scratch; CREATE TABLE scratch.made_as_user (id int); RESET ROLE",
	} {
		if err := s.bed.Postgres.Exec(ctx, `GRANT CREATE ON DATABASE `+s.bed.Postgres.Database+` TO PUBLIC`); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	useUntilRevoked(t, pool.Rotator(), func() error {
		_, err := pool.Exec(ctx, "INSERT INTO made_as_owner DEFAULT VALUES")
		return err
	})
	if err := pool.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	s.checkNothingLeft(t, "database/creds/app-owner")
	var owners int
	err := s.bed.Postgres.Superuser.QueryRow(ctx, `SELECT count(*) FROM pg_tables WHERE tablename LIKE 'made\_as\_%' AND tableowner = 'docs_owner'`).Scan(&owners)
	if err != nil || owners != 2 {
		t.Errorf("%d of the 2 tables belong to the owner's role: %v", owners, err)
	}
	service := s.open(t, "app", "vault_path=database/creds/app", nil)
	if _, err := service.Exec(ctx, "INSERT INTO made_as_owner DEFAULT VALUES"); err != nil {
		t.Errorf("the service may not use what the owner's role has created: %v", err)
	}
}

func (s *script) mysql(t *testing.T) {
	ctx := t.Context()
	for _, token := range []func(*testing.T){
		func(t *testing.T) { t.Helper(); s.bare(t, "app-mysql") },
		func(t *testing.T) { t.Helper(); t.Setenv("VAULT_TOKEN", s.read(t, "token")) },
	} {
		token(t)
		db, err := mysqlvault.Open(ctx, s.bed.MariaDB.DSN("app")+"?vault_path=database/creds/app-mysql")
		if err != nil {
			t.Fatal(err)
		}
		useUntilRevoked(t, mysqlvault.RotatorOf(db), func() error {
			_, err := db.ExecContext(ctx, "INSERT INTO items (name) VALUES ('docs')")
			return err
		})
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		s.checkNothingLeft(t, "database/creds/app-mysql")
	}
}

// The password of a static role is changed behind the pool's back, and the next login has the new one.
func (s *script) static(t *testing.T) {
	ctx := t.Context()
	t.Setenv("VAULT_TOKEN", s.read(t, "static-token"))
	pool := s.open(t, "", "vault_path=database/static-creds/app-static", nil)
	if err := s.shell(t, "vault write -f database/rotate-role/app-static"); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if _, err := pool.Exec(ctx, "INSERT INTO items (name) VALUES ('static')"); err != nil {
		t.Error(err)
	}
	if err := pool.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// The KV secret names a user who is not Vault's.
func (s *script) kv(t *testing.T) {
	ctx := t.Context()
	if err := s.bed.Postgres.Exec(ctx, "CREATE ROLE app_kv LOGIN PASSWORD 'change me too' IN ROLE app_rw"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_TOKEN", s.read(t, "kv-token"))
	pool := s.open(t, "", "vault_path=kv/data/app", nil)
	if _, err := pool.Exec(ctx, "INSERT INTO items (name) VALUES ('kv')"); err != nil {
		t.Error(err)
	}
	if user := pool.Rotator().Status().User; user != "app_kv" {
		t.Errorf("logged in as %s", user)
	}
	if err := pool.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// checkNothingLeft looks for leases of a role, and for users of any.
func (s *script) checkNothingLeft(t *testing.T, path string) {
	t.Helper()
	ctx := t.Context()
	leases, err1 := s.bed.Vault.Leases(ctx, path)
	roles, err2 := s.bed.Postgres.Roles(ctx, "v-%")
	users, err3 := s.bed.MariaDB.Users(ctx, "v-%")
	if err := errors.Join(err1, err2, err3); err != nil || len(leases)+len(roles)+len(users) > 0 {
		t.Errorf("left behind: leases %v, users %v %v (%v)", leases, roles, users, err)
	}
}
