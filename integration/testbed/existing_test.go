package testbed_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// useAsExisting gives the servers of one testbed to the next ones, as a user would give his own.
func useAsExisting(t *testing.T, bed *testbed.Bed) {
	t.Helper()
	t.Setenv("PGVAULT_TEST_VAULT_ADDR", bed.Vault.Addr)
	t.Setenv("PGVAULT_TEST_VAULT_TOKEN", bed.Vault.RootToken)
	if bed.Postgres != nil {
		t.Setenv("PGVAULT_TEST_POSTGRES_URL", bed.Postgres.SuperURL)
	}
	if bed.MariaDB != nil {
		t.Setenv("PGVAULT_TEST_MARIADB_DSN", bed.MariaDB.RootDSN)
	}
}

// vaultContents lists what a testbed could leave in a Vault.
func vaultContents(t *testing.T, bed *testbed.Bed) []string {
	t.Helper()
	mounts, err := bed.Vault.Client.Sys().ListMountsWithContext(t.Context())
	check(t, err)
	contents, err := bed.Vault.Client.Sys().ListPoliciesWithContext(t.Context())
	check(t, err)
	for mount := range mounts {
		contents = append(contents, mount)
	}
	accessors, err := bed.Vault.Client.Logical().ListWithContext(t.Context(), "auth/token/accessors")
	check(t, err)
	for _, accessor := range accessors.Data["keys"].([]any) {
		contents = append(contents, accessor.(string))
	}
	slices.Sort(contents)
	return contents
}

func postgresContents(t *testing.T, bed *testbed.Bed) []string {
	t.Helper()
	rows, err := bed.Postgres.Superuser.Query(t.Context(), "SELECT rolname FROM pg_roles UNION SELECT datname FROM pg_database ORDER BY 1")
	check(t, err)
	contents, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	return contents
}

func TestExistingServers(t *testing.T) {
	theirs := start(t, testbed.Options{Postgres: true})
	useAsExisting(t, theirs)
	vaultBefore, postgresBefore := vaultContents(t, theirs), postgresContents(t, theirs)

	bed, neighbour := start(t, testbed.Options{Postgres: true}), start(t, testbed.Options{Postgres: true})
	if bed.Vault.Addr != theirs.Vault.Addr || bed.Postgres.Addr != theirs.Postgres.Addr {
		t.Fatal("started servers of its own")
	}
	if bed.Postgres.Database == neighbour.Postgres.Database || bed.Vault.Mount == neighbour.Vault.Mount {
		t.Error("two testbeds share a database or a mount")
	}
	role := postgresRole(t, bed, testbed.RoleOptions{})
	credential := issue(t, role)
	conn := logIn(t, bed, credential)
	_, err := conn.Exec(t.Context(), "INSERT INTO items (name) VALUES ('a'); CREATE TEMPORARY TABLE in_the_way ()")
	check(t, err)
	issue(t, role)
	wantLeft(t, role, 2, 2)
	_, err = role.Token(t.Context(), time.Hour)
	check(t, err)
	_, err = role.Token(t.Context(), time.Nanosecond) // over before Close wants to revoke it
	check(t, err)

	for name, fault := range map[string]func() error{
		"Seal":             func() error { return bed.Vault.Seal(t.Context()) },
		"Unseal":           func() error { return bed.Vault.Unseal(t.Context()) },
		"Pause":            bed.Vault.Pause,
		"Resume":           bed.Vault.Resume,
		"Kill":             bed.Vault.Kill,
		"Restart":          func() error { return bed.Vault.Restart(t.Context()) },
		"Postgres.Stop":    func() error { return bed.Postgres.Stop(t.Context()) },
		"Postgres.Kill":    func() error { return bed.Postgres.Kill(t.Context()) },
		"Postgres.Restart": func() error { return bed.Postgres.Restart(t.Context()) },
	} {
		if err := fault(); !errors.Is(err, testbed.ErrNotOurServer) {
			t.Errorf("%s on an existing server: %v", name, err)
		}
	}

	check(t, bed.Close())
	issue(t, postgresRole(t, neighbour, testbed.RoleOptions{})) // is not touched by the first one's end
	check(t, neighbour.Close())
	if after := vaultContents(t, theirs); !slices.Equal(after, vaultBefore) {
		t.Errorf("Vault had %q\nand now has %q", vaultBefore, after)
	}
	if after := postgresContents(t, theirs); !slices.Equal(after, postgresBefore) {
		t.Errorf("PostgreSQL had %q\nand now has %q", postgresBefore, after)
	}
}

// A Vault of our own is gone with its leases, and cannot remove what it made in an existing database.
func TestExistingPostgresWithOurVault(t *testing.T) {
	theirs := start(t, testbed.Options{Postgres: true})
	before := postgresContents(t, theirs)
	t.Setenv("PGVAULT_TEST_POSTGRES_URL", theirs.Postgres.SuperURL)
	bed := start(t, testbed.Options{Postgres: true})
	issue(t, postgresRole(t, bed, testbed.RoleOptions{}))
	check(t, bed.Close())
	if after := postgresContents(t, theirs); !slices.Equal(after, before) {
		t.Errorf("PostgreSQL had %q\nand now has %q", before, after)
	}
}

func TestExistingVaultNeedsToken(t *testing.T) {
	theirs := start(t, testbed.Options{})
	t.Setenv("PGVAULT_TEST_VAULT_ADDR", theirs.Vault.Addr)
	for token, want := range map[string]string{"": "PGVAULT_TEST_VAULT_TOKEN", "s.wrong-token": "permission denied"} {
		t.Setenv("PGVAULT_TEST_VAULT_TOKEN", token)
		bed, err := testbed.Start(t.Context(), testbed.Options{})
		if err == nil {
			_ = bed.Close()
			t.Fatal("started without a valid token")
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong-token") {
			t.Errorf("want an error about %q that does not show the token, got: %v", want, err)
		}
	}
}
