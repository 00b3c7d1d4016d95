// Package rotationhttp_test looks at the status page in a real browser, over a pool on a real Vault and a real
// PostgreSQL.
package rotationhttp_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// shared has a Vault that can be killed. Tests take turns.
var shared *testbed.Bed

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "status-page-vault-")
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	stop, err := startBrowser()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return kit.Package{
		Bed: &shared, Options: testbed.Options{Postgres: true, VaultDir: dir}, Parallel: 1,
		Clean: func(context.Context) error { return stop() },
	}.Main(m)
}
