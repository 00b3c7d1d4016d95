// Package filesource_test tries rotation/filesource below pgvault and mysqlvault, on a real PostgreSQL and a real
// MariaDB. The test is whoever keeps the files: with leases of a real Vault, as an agent would, or with users of its
// own. Each test names the hazards that it covers by their numbers.
package filesource_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// shared serves all tests, in parallel, each with users of its own.
var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed: &shared, Options: testbed.Options{Postgres: true, MariaDB: true}, Parallel: 8,
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

// group is the role whose members may use the tables: PostgreSQL refuses grants on the same table to several users
// at once.
func group() string { return pgx.Identifier{shared.Postgres.Database + "_rw"}.Sanitize() }
