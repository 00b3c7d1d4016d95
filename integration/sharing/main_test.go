// Package sharing_test has several pools on one Rotator, and so on one lease: of a real PostgreSQL, its real streaming
// replica, and both in one connection string; and two of a real MariaDB. Each test names the hazards that it covers by
// their numbers.
package sharing_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// maxConns is how many connections each PostgreSQL takes: few, so that a test can fill one.
const maxConns = 60

// shared serves all tests; what a test does to a replica it does to one of its own.
var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed:      &shared,
		Options:  testbed.Options{Postgres: true, PostgresReplicas: true, PostgresMaxConns: maxConns, MariaDB: true},
		Parallel: 3,
		Prepare: func(ctx context.Context) error {
			return shared.Postgres.Exec(ctx, fmt.Sprintf(`
				CREATE ROLE %[1]s NOLOGIN;
				GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
				GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, group()))
		},
	}.Main(m))
}

// group is the role whose members may use the tables: PostgreSQL refuses grants on the same table to several users
// at once.
func group() string { return pgx.Identifier{shared.Postgres.Database + "_rw"}.Sanitize() }
