package pgvault_test

import (
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// createRole is what the testbed's roles create, where "LOGIN" is the normal case.
func createRole(login string) []string {
	return []string{`
		CREATE ROLE "{{name}}" WITH ` + login + ` PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{{name}}";
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO "{{name}}";`}
}

// noRenewal makes every renewal fail at the database, as a passing fault would.
func noRenewal(o *testbed.RoleOptions) { o.Renew = []string{`SELECT 1 / 0`} }

func leaseOf(ttl, ceiling time.Duration, options ...func(*testbed.RoleOptions)) testbed.RoleOptions {
	o := testbed.RoleOptions{DefaultTTL: ttl, MaxTTL: ceiling}
	for _, option := range options {
		option(&o)
	}
	return o
}
