// Package pgvaultstdlib_test tries pgvault/stdlib on a real Vault and a real PostgreSQL. Each test names the
// hazards that it covers by their numbers; what the pool below does is tested with pgvault.
package pgvaultstdlib_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
	if shared, err = testbed.Start(ctx, testbed.Options{Postgres: true, Progress: os.Stderr}); err != nil {
		fail(err)
		return code
	}
	if err := shared.Postgres.Exec(ctx, fmt.Sprintf(`
		CREATE ROLE %[1]s NOLOGIN;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, group())); err != nil {
		fail(errors.Join(err, shared.Close()))
		return code
	}
	code = m.Run()
	drop := shared.Postgres.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, group()))
	if err := errors.Join(drop, shared.Close()); err != nil {
		fail(err)
	}
	if err := goleak.Find(); err != nil {
		fail(err)
	}
	return code
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
