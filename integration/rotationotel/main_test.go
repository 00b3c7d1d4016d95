// Package rotationotel_test looks at the metrics and spans of pools on a real Vault and a real PostgreSQL, through the
// exporters that programs use, and holds the dashboard, the alerts and their documentation to them.
package rotationotel_test

import (
	"os"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

var shared *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{Bed: &shared, Options: testbed.Options{Postgres: true}, Parallel: 4}.Main(m))
}
