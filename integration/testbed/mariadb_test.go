package testbed_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

func mariadbRole(t *testing.T, bed *testbed.Bed, options testbed.RoleOptions) *testbed.Role {
	t.Helper()
	role, err := bed.MariaDBRole(t.Context(), options)
	check(t, err)
	return role
}

// openMariaDB returns a pool that the end of the test closes.
func openMariaDB(t *testing.T, bed *testbed.Bed, credential *testbed.Credential) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", bed.MariaDB.DSNFor(credential.User, credential.Password))
	check(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func wantMySQLError(t *testing.T, err error, number uint16) {
	t.Helper()
	var refusal *mysql.MySQLError
	if !errors.As(err, &refusal) || refusal.Number != number {
		t.Errorf("want error %d, got: %v", number, err)
	}
}

func TestMariaDB(t *testing.T) {
	bed := start(t, testbed.Options{MariaDB: true})

	t.Run("a credential logs in and uses the tables", func(t *testing.T) {
		role := mariadbRole(t, bed, testbed.RoleOptions{})
		credential := issue(t, role)
		db := openMariaDB(t, bed, credential)
		db.SetMaxOpenConns(1)
		for _, statement := range []string{
			"INSERT INTO items (name) VALUES ('a')", "UPDATE items SET name = 'b'", "DELETE FROM items", "DO (SELECT count(*) FROM accounts)",
		} {
			_, err := db.ExecContext(t.Context(), statement)
			check(t, err)
		}
		wantLeft(t, role, 1, 1)
		sessions, err := bed.MariaDB.Sessions(t.Context(), credential.User)
		check(t, err)
		if len(sessions) != 1 || sessions[0].State != "Sleep" {
			t.Errorf("sessions: %+v", sessions)
		}
	})

	t.Run("wrong and anonymous logins are refused", func(t *testing.T) {
		credential := issue(t, mariadbRole(t, bed, testbed.RoleOptions{}))
		for user, password := range map[string]string{credential.User: "wrong", "root": "", "nobody": ""} {
			err := openMariaDB(t, bed, &testbed.Credential{User: user, Password: password}).PingContext(t.Context())
			wantMySQLError(t, err, 1045)
		}
		anonymous, err := bed.MariaDB.Users(t.Context(), "")
		check(t, err)
		if len(anonymous) != 0 {
			t.Errorf("%d anonymous users", len(anonymous))
		}
	})

	t.Run("a lease of one second ends by itself", func(t *testing.T) {
		role := mariadbRole(t, bed, testbed.RoleOptions{DefaultTTL: time.Second})
		issue(t, role)
		eventually(t, "the end of lease and user", func(ctx context.Context) (bool, error) {
			leases, err := role.Leases(ctx)
			if err != nil {
				return false, err
			}
			users, err := role.Users(ctx)
			return len(leases)+len(users) == 0, err
		})
	})

	t.Run("the least policy revokes, also a user dropped behind Vault's back", func(t *testing.T) {
		role := mariadbRole(t, bed, testbed.RoleOptions{})
		token, err := role.Token(t.Context(), time.Hour)
		check(t, err)
		dropped, ordinary := issue(t, role), issue(t, role)
		check(t, bed.MariaDB.Exec(t.Context(), "DROP USER '"+dropped.User+"'@'%'"))
		wantLeft(t, role, 2, 1)
		revoke(t, bed.Vault.ClientWithToken(token), dropped.LeaseID)
		revoke(t, bed.Vault.ClientWithToken(token), ordinary.LeaseID)
		wantLeft(t, role, 0, 0)
	})

	t.Run("stop and restart", func(t *testing.T) {
		credential := issue(t, mariadbRole(t, bed, testbed.RoleOptions{}))
		check(t, bed.MariaDB.Stop(t.Context()))
		if err := openMariaDB(t, bed, credential).PingContext(t.Context()); err == nil {
			t.Error("a stopped server let us in")
		}
		check(t, bed.MariaDB.Restart(t.Context()))
		check(t, openMariaDB(t, bed, credential).PingContext(t.Context()))
		check(t, bed.MariaDB.Kill(t.Context()))
		check(t, bed.MariaDB.Restart(t.Context()))
		check(t, openMariaDB(t, bed, credential).PingContext(t.Context()))
	})
}

func TestExistingMariaDB(t *testing.T) {
	theirs := start(t, testbed.Options{MariaDB: true})
	useAsExisting(t, theirs)
	contents := func() []string {
		found, err := theirs.MariaDB.Users(t.Context(), "%")
		check(t, err)
		rows, err := theirs.MariaDB.Root.QueryContext(t.Context(), "SHOW DATABASES")
		check(t, err)
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name string
			check(t, rows.Scan(&name))
			found = append(found, name)
		}
		check(t, rows.Err())
		return found
	}
	before, vaultBefore := contents(), vaultContents(t, theirs)
	bed := start(t, testbed.Options{MariaDB: true})
	role := mariadbRole(t, bed, testbed.RoleOptions{})
	check(t, openMariaDB(t, bed, issue(t, role)).PingContext(t.Context()))
	if err := bed.MariaDB.Restart(t.Context()); !errors.Is(err, testbed.ErrNotOurServer) {
		t.Errorf("Restart on an existing server: %v", err)
	}
	check(t, bed.Close())
	if after := contents(); !slices.Equal(after, before) {
		t.Errorf("MariaDB had %q\nand now has %q", before, after)
	}
	if after := vaultContents(t, theirs); !slices.Equal(after, vaultBefore) {
		t.Errorf("Vault had %q\nand now has %q", vaultBefore, after)
	}
}

func TestMariaDBEndsWithItsStarter(t *testing.T) { killStarter(t, "mariadb") }
