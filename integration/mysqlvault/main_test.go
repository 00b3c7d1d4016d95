// Package mysqlvault_test tries mysqlvault on a real Vault and a real MariaDB, or a MySQL that the
// environment names. Each test names the hazards that it covers by their numbers.
package mysqlvault_test

import (
	"os"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// shared serves all tests, in parallel, each with a role of its own.
var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{Bed: &shared, Options: testbed.Options{MariaDB: true}, Parallel: 8}.Main(m))
}
