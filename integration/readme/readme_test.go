// Package readme_test runs what the README and docs tell people to copy.
package readme_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks returns the fenced blocks of a language.
func blocks(t *testing.T, text, language string) []string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	if len(found) == 0 {
		t.Fatalf("the README has no %s block", language)
	}
	return found
}

// statement returns one argument of the README's vault write command.
func statement(t *testing.T, text, name string) []string {
	t.Helper()
	m := regexp.MustCompile(name + `="((?:[^"\\]|\\.)*)"`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("the README's role has no %s", name)
	}
	return []string{strings.ReplaceAll(m[1], `\"`, `"`)}
}

func TestQuickStartIsShort(t *testing.T) {
	for _, snippet := range blocks(t, readme(t), "go") {
		if lines := strings.Count(snippet, "\n"); lines > 15 {
			t.Errorf("the quick start has %d lines, which is more than 15", lines)
		}
	}
}

// The README's group role, Vault role and policy carry a pool through renewals and
// a rotation, and leave nothing behind.
func TestRoleAndPolicy_PostgreSQL(t *testing.T) {
	ctx := t.Context()
	text := readme(t)
	write := roleOf(t, text, "CREATE ROLE")
	bed, err := testbed.Start(ctx, testbed.Options{Postgres: true, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, sql := range strings.Split(strings.TrimSpace(blocks(t, text, "sql")[0]), "\n") {
		if err := bed.Postgres.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	t.Cleanup(func() { // a server that was given keeps its roles
		if err := errors.Join(bed.Postgres.Exec(context.Background(), "DROP OWNED BY app_rw"), bed.Postgres.Exec(context.Background(), "DROP ROLE app_rw")); err != nil {
			t.Error(err)
		}
	})
	role, err := bed.PostgresRole(ctx, testbed.RoleOptions{
		DefaultTTL: 4 * time.Second, MaxTTL: 10 * time.Second,
		Create: statement(t, write, "creation_statements"),
		Renew:  statement(t, write, "renew_statements"),
		Revoke: statement(t, write, "revocation_statements"),
	})
	if err != nil {
		t.Fatal(err)
	}
	giveToken(t, bed, role)
	pool, err := pgvault.New(context.Background(), bed.Postgres.URL("app")+"&vault_path="+role.CredsPath)
	if err != nil {
		t.Fatal(err)
	}
	useUntilRevoked(t, pool.Rotator(), func() error {
		_, err := pool.Exec(ctx, "INSERT INTO items (name) VALUES ('readme')")
		return err
	})
	if err := pool.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, role)
}

// The same for MySQL's.
func TestRoleAndPolicy_MySQL(t *testing.T) {
	ctx := t.Context()
	write := roleOf(t, readme(t), "CREATE USER")
	bed, err := testbed.Start(ctx, testbed.Options{MariaDB: true, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	create := statement(t, write, "creation_statements")
	create[0] = strings.ReplaceAll(create[0], " app.*", " "+bed.MariaDB.Database+".*") // another name on a server that was given
	role, err := bed.MariaDBRole(ctx, testbed.RoleOptions{
		DefaultTTL: 4 * time.Second, MaxTTL: 10 * time.Second,
		Create: create, Revoke: statement(t, write, "revocation_statements"),
	})
	if err != nil {
		t.Fatal(err)
	}
	giveToken(t, bed, role)
	db, err := mysqlvault.Open(context.Background(), bed.MariaDB.DSN("app")+"?parseTime=true&vault_path="+role.CredsPath)
	if err != nil {
		t.Fatal(err)
	}
	useUntilRevoked(t, mysqlvault.RotatorOf(db), func() error {
		_, err := db.ExecContext(ctx, "INSERT INTO items (name) VALUES ('readme')")
		return err
	})
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, role)
}

// roleOf returns the vault write command whose users are made by that statement.
func roleOf(t *testing.T, text, create string) string {
	t.Helper()
	for _, block := range blocks(t, text, "sh") {
		if strings.Contains(block, create) {
			return block
		}
	}
	t.Fatalf("the README has no role with %s", create)
	return ""
}

// giveToken puts a token with the README's policy into the environment.
func giveToken(t *testing.T, bed *testbed.Bed, role *testbed.Role) {
	t.Helper()
	policy := strings.ReplaceAll(blocks(t, readme(t), "hcl")[0], "database/creds/app", role.CredsPath)
	token, err := bed.Vault.Token(t.Context(), policy, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_ADDR", bed.Vault.Addr)
	t.Setenv("VAULT_TOKEN", token)
}

// useUntilRevoked uses a pool until a lease of its was renewed, and one revoked.
func useUntilRevoked(t *testing.T, r *rotation.Rotator, use func() error) {
	t.Helper()
	events := make(chan rotation.Event, 256)
	r.Subscribe(func(e rotation.Event) { events <- e })
	seen := make(map[rotation.EventKind]int)
	for seen[rotation.Renewed] < 1 || seen[rotation.Revoked] < 1 {
		if err := use(); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-events:
			if seen[e.Kind]++; e.Err != nil {
				t.Fatalf("%s: %v", e.Kind, e.Err)
			}
		case <-time.After(10 * time.Millisecond): // the load's pace
		}
	}
}

func checkNothingLeft(t *testing.T, role *testbed.Role) {
	t.Helper()
	leases, err1 := role.Leases(t.Context())
	users, err2 := role.Users(t.Context())
	if err := errors.Join(err1, err2); err != nil || len(leases)+len(users) > 0 {
		t.Errorf("left behind: leases %v, users %v (%v)", leases, users, err)
	}
}
