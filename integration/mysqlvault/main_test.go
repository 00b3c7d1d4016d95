// Package mysqlvault_test tries mysqlvault on a real Vault and a real MariaDB, or a MySQL that the
// environment names. Each test names the hazards that it covers by their numbers.
package mysqlvault_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// shared serves all tests, in parallel, each with a role of its own.
var shared *testbed.Bed

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // tests wait more than they compute
		_ = flag.Set("test.parallel", "8")
	}
	fail := func(err error) {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // Vault may have to be built
	defer cancel()
	var err error
	if shared, err = testbed.Start(ctx, testbed.Options{MariaDB: true, Progress: os.Stderr}); err != nil {
		fail(err)
		return code
	}
	code = m.Run()
	if err := errors.Join(shared.Close()); err != nil {
		fail(err)
	}
	if err := goleak.Find(); err != nil {
		fail(err)
	}
	return code
}
