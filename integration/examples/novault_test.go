package examples_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// newUser makes a user of our own, until the end of the test.
func newUser(t *testing.T, name, password string) {
	t.Helper()
	quoted := pgx.Identifier{name}.Sanitize()
	kit.Check(t, shared.Postgres.Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' IN ROLE %s", quoted, password, group())))
	t.Cleanup(func() { kit.Check(t, shared.Postgres.Exec(context.Background(), "DROP ROLE "+quoted)) })
}

// Files that change are noticed.
func TestFileSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, another := shared.Postgres.Database+"_file_1", shared.Postgres.Database+"_file_2"
	newUser(t, one, "pw-1")
	newUser(t, another, "pw-2")
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		kit.Check(t, os.WriteFile(path+".new", []byte(content), 0o600))
		kit.Check(t, os.Rename(path+".new", path))
	}
	write("db.json", fmt.Sprintf(`{"username": %q, "password": "pw-1"}`, one))
	p := start(t, "filesource", nil, "-files", filepath.Join(dir, "db.json"), shared.Postgres.URL("app"))
	p.distinct(t, 1, `msg=query user=(\S+)`)
	write("db.json", fmt.Sprintf(`{"username": %q, "password": "pw-2"}`, another))
	if users := p.distinct(t, 2, `msg=query user=(\S+)`); users[0] != one || users[1] != another {
		t.Errorf("logged in as %v", users)
	}
	p.stop(t)
	if failed := p.find(`level=(ERROR|WARN)`); len(failed) > 0 {
		t.Errorf("%d failures", len(failed))
	}
}

// The source of one's own issues, renews up to its ceiling, and revokes.
func TestSource(t *testing.T) {
	t.Parallel()
	members, issuer := shared.Postgres.Database+"_own", shared.Postgres.Database+"_issuer"
	newUser(t, issuer, "pw-issuer")
	kit.Check(t, createGroup(t.Context(), members))
	t.Cleanup(func() { kit.Check(t, dropGroup(context.Background(), members)) })
	kit.Check(t, shared.Postgres.Exec(t.Context(), fmt.Sprintf("ALTER ROLE %[1]s CREATEROLE; GRANT %[2]s TO %[1]s WITH ADMIN OPTION", issuer, members)))

	p := start(t, "source", []string{
		"ISSUER_URL=" + shared.Postgres.URLFor(issuer, "pw-issuer"), "DATABASE_URL=" + shared.Postgres.URL("app"),
	}, "-group", members, "-ttl", "3s", "-max-ttl", "8s")
	users := p.distinct(t, 3, `^logged in as (app_\d+_\S+)$`)
	// The second was issued when the first came to its ceiling, not to its first end.
	var first, second int
	scan(t, users[0], &first)
	scan(t, users[1], &second)
	if second-first < 4 {
		t.Errorf("a user that is good for 3 s and renewed up to 8 s was replaced after %d s", second-first)
	}
	p.stop(t)
	p.only(t, `^logged in as app_`)

	var left int
	kit.Check(t, shared.Postgres.Superuser.QueryRow(t.Context(),
		"SELECT count(*) FROM pg_auth_members WHERE roleid = $1::regrole AND member <> $2::regrole", members, issuer).Scan(&left))
	if left > 0 {
		t.Errorf("%d users are left", left)
	}
}

// scan reads the second in which a user was issued.
func scan(t *testing.T, user string, at *int) {
	t.Helper()
	if _, err := fmt.Sscanf(user, "app_%d_", at); err != nil {
		t.Fatalf("%s: %v", user, err)
	}
}
