// Package examples_test runs the programs of the folder examples on a real Vault and a real PostgreSQL, as somebody would
// who has read the first lines of each: as processes of their own, told by flags and environment, ended by SIGTERM. Leases
// are of seconds, so that each sees its credential renewed and replaced.
package examples_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

var (
	shared   *testbed.Bed // serves all tests, in parallel
	binaries string       // the folder with the programs
)

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed: &shared, Options: testbed.Options{Postgres: true, PostgresReplicas: true}, Parallel: 8,
		Prepare: func(ctx context.Context) error { return errors.Join(build(ctx), createGroup(ctx, group())) },
		Clean: func(ctx context.Context) error {
			starter.close()
			return errors.Join(dropGroup(ctx, group()), os.RemoveAll(binaries))
		},
	}.Main(m))
}

// build compiles all of examples.
func build(ctx context.Context) (err error) {
	if binaries, err = os.MkdirTemp("", "vaultpool-examples-"); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "go", "build", "-o", binaries, "./...")
	command.Dir = "../../examples"
	command.Env = append(os.Environ(), "GOWORK=off")
	if output, err := command.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build the examples: %w\n%s", err, output), os.RemoveAll(binaries))
	}
	return nil
}

// group is the role whose members may use the tables: PostgreSQL refuses grants on the same table to several users
// at once.
func group() string { return shared.Postgres.Database + "_rw" }

func createGroup(ctx context.Context, name string) error {
	return shared.Postgres.Exec(ctx, fmt.Sprintf(`
		CREATE ROLE %[1]s NOLOGIN;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, pgx.Identifier{name}.Sanitize()))
}

func dropGroup(ctx context.Context, name string) error {
	return shared.Postgres.Exec(ctx, fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", pgx.Identifier{name}.Sanitize()))
}

// newRole makes a role of Vault's whose users are renewed within seconds, and replaced. It looks in the end that nothing is
// left of them.
func newRole(t *testing.T) *testbed.Role {
	t.Helper()
	role, err := shared.PostgresRole(t.Context(), testbed.RoleOptions{
		DefaultTTL: 3 * time.Second, MaxTTL: 8 * time.Second,
		Create: []string{`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + group()},
		Revoke: []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	kit.Check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
		defer cancel()
		if leases, err := role.Leases(ctx); err != nil || len(leases) > 0 {
			t.Errorf("left in Vault: leases %v (error %v)", leases, err)
		}
		if users, err := role.Users(ctx); err != nil || len(users) > 0 {
			t.Errorf("left in PostgreSQL: users %v (error %v)", users, err)
		}
	})
	return role
}

// vaultEnv is where Vault is, and a token for the role.
func vaultEnv(t *testing.T, role *testbed.Role) []string {
	t.Helper()
	token, err := role.Token(t.Context(), time.Hour)
	kit.Check(t, err)
	return []string{"VAULT_ADDR=" + shared.Vault.Addr, "VAULT_TOKEN=" + token}
}

// databaseURL is what a program gets whose credentials come from that path.
func databaseURL(path string) string {
	return shared.Postgres.URL("app") + "&vault_path=" + path
}
