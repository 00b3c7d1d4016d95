// Package readme_test runs what the README tells people to copy.
package readme_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
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

func TestQuickStartCompiles(t *testing.T) {
	for _, snippet := range blocks(t, readme(t), "go") {
		if lines := strings.Count(snippet, "\n"); lines > 15 {
			t.Errorf("the quick start has %d lines, which is more than 15", lines)
		}
		dir, err := os.MkdirTemp(".", "snippet-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(snippet), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "go", "vet", "./"+dir).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// The README's group role, Vault role and policy carry a pool through renewals and
// a rotation, and leave nothing behind.
func TestRoleAndPolicy(t *testing.T) {
	ctx := t.Context()
	text := readme(t)
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
		Create: statement(t, text, "creation_statements"),
		Renew:  statement(t, text, "renew_statements"),
		Revoke: statement(t, text, "revocation_statements"),
	})
	if err != nil {
		t.Fatal(err)
	}
	policy := strings.ReplaceAll(blocks(t, text, "hcl")[0], "database/creds/app", role.CredsPath)
	token, err := bed.Vault.Token(ctx, policy, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_ADDR", bed.Vault.Addr)
	t.Setenv("VAULT_TOKEN", token)

	pool, err := pgvault.New(context.Background(), bed.Postgres.URL("app")+"&vault_path="+role.CredsPath)
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan rotation.Event, 256)
	pool.Rotator().Subscribe(func(e rotation.Event) { events <- e })
	seen := make(map[rotation.EventKind]int)
	for seen[rotation.Renewed] < 1 || seen[rotation.Revoked] < 1 {
		if _, err := pool.Exec(ctx, "INSERT INTO items (name) VALUES ('readme')"); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-events:
			if seen[e.Kind]++; e.Err != nil {
				t.Errorf("%s: %v", e.Kind, e.Err)
			}
		case <-time.After(10 * time.Millisecond): // the load's pace
		}
	}
	if err := pool.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	leases, err1 := role.Leases(ctx)
	users, err2 := role.Users(ctx)
	if err := errors.Join(err1, err2); err != nil || len(leases)+len(users) > 0 {
		t.Errorf("left behind: leases %v, users %v (%v)", leases, users, err)
	}
}
