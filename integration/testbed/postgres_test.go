package testbed_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// postgresRole makes a role with the options.
func postgresRole(t *testing.T, bed *testbed.Bed, options testbed.RoleOptions) *testbed.Role {
	t.Helper()
	role, err := bed.PostgresRole(t.Context(), options)
	check(t, err)
	return role
}

func issue(t *testing.T, role *testbed.Role) *testbed.Credential {
	t.Helper()
	credential, err := role.Issue(t.Context())
	check(t, err)
	return credential
}

// logIn returns a connection to PostgreSQL that the end of the test closes.
func logIn(t *testing.T, bed *testbed.Bed, credential *testbed.Credential) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), bed.Postgres.URLFor(credential.User, credential.Password))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func wantSQLState(t *testing.T, err error, state string) {
	t.Helper()
	var refusal *pgconn.PgError
	if !errors.As(err, &refusal) || refusal.Code != state {
		t.Errorf("want SQLSTATE %s, got: %v", state, err)
	}
}

// wantLeft compares what Vault and the database have of a role.
func wantLeft(t *testing.T, role *testbed.Role, leases, users int) {
	t.Helper()
	haveLeases, err := role.Leases(t.Context())
	check(t, err)
	haveUsers, err := role.Users(t.Context())
	check(t, err)
	if len(haveLeases) != leases || len(haveUsers) != users {
		t.Errorf("want %d leases and %d users, have %q and %q", leases, users, haveLeases, haveUsers)
	}
}

func TestPostgres(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true})

	t.Run("a credential logs in and uses the tables", func(t *testing.T) {
		role := postgresRole(t, bed, testbed.RoleOptions{})
		credential := issue(t, role)
		conn := logIn(t, bed, credential)
		for _, statement := range []string{
			"INSERT INTO items (name) VALUES ('a')", // takes its id from a sequence
			"UPDATE items SET name = 'b'",
			"SELECT * FROM accounts",
			"DELETE FROM items",
			"CREATE TEMPORARY TABLE scratch ()",
		} {
			_, err := conn.Exec(t.Context(), statement)
			check(t, err)
		}
		wantLeft(t, role, 1, 1)

		sessions, err := bed.Postgres.Sessions(t.Context(), credential.User)
		check(t, err)
		if len(sessions) != 1 || sessions[0].State != "idle" || !strings.HasPrefix(sessions[0].Query, "CREATE TEMPORARY") {
			t.Errorf("sessions: %+v", sessions)
		}
		if sessions[0].PID != int(conn.PgConn().PID()) {
			t.Errorf("want PID %d, have %d", conn.PgConn().PID(), sessions[0].PID)
		}
	})

	t.Run("a wrong password is refused", func(t *testing.T) {
		credential := issue(t, postgresRole(t, bed, testbed.RoleOptions{}))
		_, err := pgx.Connect(t.Context(), bed.Postgres.URLFor(credential.User, "wrong"))
		wantSQLState(t, err, "28P01")
		_, err = pgx.Connect(t.Context(), bed.Postgres.URLFor("postgres", "wrong"))
		wantSQLState(t, err, "28P01")
	})

	t.Run("a lease of one second ends by itself", func(t *testing.T) {
		role := postgresRole(t, bed, testbed.RoleOptions{DefaultTTL: time.Second})
		if credential := issue(t, role); credential.TTL != time.Second {
			t.Errorf("want a TTL of 1 s, have %s", credential.TTL)
		}
		wantLeft(t, role, 1, 1)
		eventually(t, "the end of lease and user", func(ctx context.Context) (bool, error) {
			leases, err := role.Leases(ctx)
			if err != nil {
				return false, err
			}
			users, err := role.Users(ctx)
			return len(leases)+len(users) == 0, err
		})
	})

	t.Run("a live session's grants end with its lease", func(t *testing.T) {
		role := postgresRole(t, bed, testbed.RoleOptions{})
		credential := issue(t, role)
		conn := logIn(t, bed, credential)
		revoke(t, bed.Vault.Client, credential.LeaseID)
		wantLeft(t, role, 0, 0)
		_, err := conn.Exec(t.Context(), "SELECT * FROM items")
		wantSQLState(t, err, "42501")
	})

	t.Run("revocation fails while a session's temporary table lives", func(t *testing.T) {
		role := postgresRole(t, bed, testbed.RoleOptions{})
		credential := issue(t, role)
		conn := logIn(t, bed, credential)
		_, err := conn.Exec(t.Context(), "CREATE TEMPORARY TABLE scratch ()")
		check(t, err)
		err = bed.Vault.Client.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: credential.LeaseID, Sync: true})
		if err == nil || !strings.Contains(err.Error(), "2BP01") {
			t.Errorf("want 2BP01 from Vault, got: %v", err)
		}
		check(t, conn.Close(t.Context()))
		eventually(t, "the end of the session", func(ctx context.Context) (bool, error) {
			sessions, err := bed.Postgres.Sessions(ctx, credential.User)
			return len(sessions) == 0, err
		})
		revoke(t, bed.Vault.Client, credential.LeaseID)
		wantLeft(t, role, 0, 0)
	})

	t.Run("a user dropped behind Vault's back can be revoked", func(t *testing.T) {
		role := postgresRole(t, bed, testbed.RoleOptions{})
		credential := issue(t, role)
		check(t, bed.Postgres.Exec(t.Context(), `DROP OWNED BY "`+credential.User+`"; DROP ROLE "`+credential.User+`"`))
		wantLeft(t, role, 1, 0)
		revoke(t, bed.Vault.Client, credential.LeaseID)
		wantLeft(t, role, 0, 0)
	})

	t.Run("statements of a role can be replaced", func(t *testing.T) {
		role := postgresRole(t, bed, testbed.RoleOptions{})
		check(t, role.Update(t.Context(), testbed.RoleOptions{
			Create: []string{`CREATE ROLE "{{name}}" NOLOGIN PASSWORD '{{password}}'`},
		}))
		credential := issue(t, role)
		_, err := pgx.Connect(t.Context(), bed.Postgres.URLFor(credential.User, credential.Password))
		wantSQLState(t, err, "28000")
	})

	t.Run("stop and restart", func(t *testing.T) {
		credential := issue(t, postgresRole(t, bed, testbed.RoleOptions{}))
		conn := logIn(t, bed, credential)
		check(t, bed.Postgres.Stop(t.Context()))
		_, err := conn.Exec(t.Context(), "SELECT 1")
		wantSQLState(t, err, "57P01")
		if _, err := pgx.Connect(t.Context(), bed.Postgres.URLFor(credential.User, credential.Password)); err == nil {
			t.Error("a stopped server let us in")
		}
		check(t, bed.Postgres.Restart(t.Context()))
		logIn(t, bed, credential)
		check(t, bed.Postgres.Kill(t.Context()))
		check(t, bed.Postgres.Restart(t.Context()))
		logIn(t, bed, issue(t, postgresRole(t, bed, testbed.RoleOptions{}))) // Vault's own connections heal too
	})
}

func TestPostgresOptions(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true, PostgresTLS: true, PostgresMaxConns: 17})

	if url := bed.Postgres.URL("app"); !strings.Contains(url, "sslmode=verify-full") {
		t.Errorf("URL does not ask for TLS: %s", url)
	}
	if _, err := os.Stat(bed.Postgres.CACertFile); err != nil {
		t.Error(err)
	}
	credential := issue(t, postgresRole(t, bed, testbed.RoleOptions{}))
	config, err := pgx.ParseConfig(bed.Postgres.URLFor(credential.User, credential.Password) + "&channel_binding=require")
	check(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	check(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	var maxConns int
	var encrypted bool
	check(t, conn.QueryRow(t.Context(),
		"SELECT current_setting('max_connections')::int, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&maxConns, &encrypted))
	if maxConns != 17 || !encrypted {
		t.Errorf("max_connections = %d, ssl = %v", maxConns, encrypted)
	}
}
