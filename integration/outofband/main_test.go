// Package outofband_test tries, on a real Vault, PostgreSQL and MariaDB, what goes on behind a pool's back: leases,
// tokens, users and passwords that somebody takes away, and credentials without a lease that somebody changes. Each test
// names the hazards that it covers by their numbers.
package outofband_test

import (
	"os"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// bed serves all tests, in parallel, each with roles and users of its own.
var bed *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{
		Bed: &bed, Options: testbed.Options{Postgres: true, MariaDB: true}, Parallel: 6,
		Prepare: createGroup, Clean: dropGroup,
	}.Main(m))
}

// onBoth runs a test on either adapter.
func onBoth(t *testing.T, test func(*testing.T, database)) {
	t.Helper()
	t.Parallel()
	t.Run("pgvault", func(t *testing.T) { t.Parallel(); test(t, postgres{}) })
	t.Run("mysqlvault", func(t *testing.T) { t.Parallel(); test(t, mariadb{}) })
}
