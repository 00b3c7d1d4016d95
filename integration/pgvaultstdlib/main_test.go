// Package pgvaultstdlib_test tries pgvault/stdlib on a real Vault and a real PostgreSQL. Each test names the
// hazards that it covers by their numbers; what the pool below does is tested with pgvault.
package pgvaultstdlib_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// shared serves all tests, in parallel, each with a role of its own.
var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed: &shared, Options: testbed.Options{Postgres: true}, Parallel: 8,
		Prepare: func(ctx context.Context) error {
			return shared.Postgres.Exec(ctx, fmt.Sprintf(`
				CREATE ROLE %[1]s NOLOGIN;
				GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
				GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, group()))
		},
		Clean: func(ctx context.Context) error {
			return shared.Postgres.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, group()))
		},
	}.Main(m))
}

// group is the role whose members may use the tables: PostgreSQL refuses grants on the same table to
// several users at once.
func group() string { return pgx.Identifier{shared.Postgres.Database + "_rw"}.Sanitize() }

// inGroup adds to a role how users are created and dropped.
func inGroup(o testbed.RoleOptions) testbed.RoleOptions {
	o.Create = []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + group()}
	o.Revoke = []string{`DROP ROLE IF EXISTS "{{name}}"`}
	return o
}
