package examples_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// No job fails through rotations, and River listens on a connection of the latest credential.
func TestRiver(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	role := newRole(t)
	makeRiverTables(t)
	p := start(t, "river", append(vaultEnv(t, role), "DATABASE_URL="+databaseURL(role.CredsPath)+"&vault_drain_timeout=1s"))
	const done = `^job \d+ done as (v-token-\S+)$`
	p.distinct(t, 3, done)
	kit.Eventually(t, "River listens with the latest credential", func(ctx context.Context) bool {
		users := p.find(done)
		sessions, err := shared.Postgres.Sessions(ctx, users[len(users)-1])
		kit.Check(t, err)
		for _, s := range sessions {
			if len(s.Query) > 6 && s.Query[:6] == "LISTEN" {
				return true
			}
		}
		return false
	})
	p.distinct(t, 4, done) // and goes on
	p.stop(t)

	var jobs, completed, failed int
	kit.Check(t, shared.Postgres.Superuser.QueryRow(ctx, `
		SELECT count(*), count(*) FILTER (WHERE state = 'completed'), count(*) FILTER (WHERE cardinality(errors) > 0)
		FROM river_job`).Scan(&jobs, &completed, &failed))
	if jobs == 0 || failed > 0 || completed != len(p.find(done)) {
		t.Errorf("of %d jobs %d are completed and %d have failed; %d were printed", jobs, completed, failed, len(p.find(done)))
	}
	t.Logf("%d jobs, %d completed", jobs, completed)
}

// makeRiverTables has the example make them as their owner, and lets the users of the tests use them.
func makeRiverTables(t *testing.T) {
	t.Helper()
	owner := shared.Postgres.Database + "_river"
	newUser(t, owner, "pw-river")
	quoted := pgx.Identifier{owner}.Sanitize()
	kit.Check(t, shared.Postgres.Exec(t.Context(), "GRANT CREATE ON SCHEMA public TO "+quoted))
	t.Cleanup(func() { kit.Check(t, shared.Postgres.Exec(context.Background(), "DROP OWNED BY "+quoted+" CASCADE")) })

	p := start(t, "river", []string{"OWNER_URL=" + shared.Postgres.URLFor(owner, "pw-river")}, "-migrate")
	<-p.done
	if kit.Check(t, p.err); len(p.all()) > 0 {
		t.Errorf("making the tables, it said %q", p.all())
	}
	kit.Check(t, shared.Postgres.Exec(t.Context(), fmt.Sprintf(`
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %[1]s`, group())))
}
