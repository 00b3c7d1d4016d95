package pgvault_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// group is the role whose members may use the tables. Grants to each user would change the tables' own
// entries in the catalogue, which PostgreSQL refuses to several at once ("tuple concurrently updated").
func group(bed *testbed.Bed) string {
	return pgx.Identifier{bed.Postgres.Database + "_rw"}.Sanitize()
}

func createGroup(ctx context.Context, bed *testbed.Bed) error {
	return bed.Postgres.Exec(ctx, fmt.Sprintf(`
		CREATE ROLE %[1]s NOLOGIN;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s;
		CREATE FUNCTION stubborn_sleep(seconds float8) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			LOOP -- a cancelled statement ends, and with it a session whose client is gone: not this one
				BEGIN
					PERFORM pg_sleep(seconds);
					RETURN;
				EXCEPTION WHEN query_canceled THEN
				END;
			END LOOP;
		END $$`, group(bed)))
}

func dropGroup(ctx context.Context, bed *testbed.Bed) error {
	return bed.Postgres.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, group(bed)))
}

// createUser is how roles create their users, where "LOGIN" is the normal case.
func createUser(bed *testbed.Bed, login string) []string {
	return []string{fmt.Sprintf(`CREATE ROLE "{{name}}" WITH %s PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE %s`,
		login, group(bed))}
}

// dropUser fails while the user owns anything, a temporary table of a live session included. A user who
// is gone already is no failure.
func dropUser() []string { return []string{`DROP ROLE IF EXISTS "{{name}}"`} }

// noRenewal makes every renewal fail at the database, as a passing fault would.
func noRenewal(o *testbed.RoleOptions) { o.Renew = []string{`SELECT 1 / 0`} }

func leaseOf(ttl, ceiling time.Duration, options ...func(*testbed.RoleOptions)) testbed.RoleOptions {
	o := testbed.RoleOptions{DefaultTTL: ttl, MaxTTL: ceiling}
	for _, option := range options {
		option(&o)
	}
	return o
}
