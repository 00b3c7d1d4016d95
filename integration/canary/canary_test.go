// Package canary_test formats every value that the library exports, while pools are open and after they failed, and
// looks for what Vault has handed out (hazard 45). What the library logs and reports in the other packages' tests is
// searched there, by kit.CheckHeard.
package canary_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/hashicorp/vault/api/auth/userpass"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/filesource"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

var bed *testbed.Bed

func TestMain(m *testing.M) {
	os.Exit(kit.Package{Bed: &bed, Options: testbed.Options{Postgres: true, MariaDB: true}, Parallel: 1}.Main(m))
}

// show formats a value in every way that a program might, by itself and as part of something.
func show(v any) string {
	type holder struct{ Value any }
	h := holder{v}
	var b strings.Builder
	for _, v := range []any{v, h, &h, []any{v}, map[string]any{"v": v}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		if text, err := json.Marshal(v); err == nil {
			b.Write(text)
		} else {
			b.WriteString(err.Error())
		}
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("", "v", v, "h", h)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("", "v", v, "h", h)
	return b.String()
}

// showHidden is show, and the value in a field where fmt may not call its methods. It is for what nobody writes to.
func showHidden(v any) string {
	type holder struct{ hidden any }
	return show(v) + show(holder{v}) + show(&holder{v})
}

// checkShown looks for secrets, as they are and as hexadecimal digits.
func checkShown(t *testing.T, shown map[string]string) {
	t.Helper()
	secrets, err := bed.Vault.Secrets()
	kit.Check(t, err)
	if len(secrets) == 0 && os.Getenv("PGVAULT_TEST_VAULT_ADDR") == "" {
		t.Fatal("no secret is known, so that none can be found")
	}
	for name, text := range shown {
		for _, secret := range secrets {
			if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
				t.Errorf("hazard 45: %s shows a secret", name)
			}
		}
	}
}

// source has its token in VAULT_TOKEN or logs in by itself.
func source(t *testing.T, role *testbed.Role) vaultsource.Config {
	t.Helper()
	token, err := role.Token(t.Context(), time.Hour)
	kit.Check(t, err)
	t.Setenv("VAULT_TOKEN", token)
	return vaultsource.Config{Path: role.CredsPath, Address: bed.Vault.Addr}
}

func TestPostgres(t *testing.T) {
	role, err := bed.PostgresRole(t.Context(), testbed.RoleOptions{})
	kit.Check(t, err)
	config, err := pgvault.ParseConfig(bed.Postgres.URL("app"))
	kit.Check(t, err)
	config.Vault, config.Rotation.Logger = source(t, role), slog.New(&kit.Logs{})
	pool, err := pgvault.NewWithConfig(t.Context(), config)
	kit.Check(t, err)
	db := stdlib.OpenDB(pool)
	kit.Check(t, db.PingContext(t.Context()))
	shown := map[string]string{
		"Config": show(config), "Pool.Config": show(pool.Config()), "Config.Vault": show(config.Vault),
		"Pool": show(pool), "sql.DB": show(db), "sql.DB.Driver": show(db.Driver()), "Stat": show(pool.Stat()),
	}
	rotator(t, pool.Rotator(), shown)
	// The role ends behind the pool, the database refuses, Vault is denied.
	kit.Check(t, bed.Postgres.Exec(t.Context(), "ALTER ROLE \""+pool.Rotator().Status().User+"\" NOLOGIN"))
	pool.Reset()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = pool.Pool.Exec(ctx, "SELECT 1") // without the retry
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		t.Errorf("a login of a user who may not log in: %v", err)
	}
	shown["ConnectError"] = show(err) + show(connect)
	kit.Eventually(t, "another credential", func(ctx context.Context) bool { return pool.Ping(ctx) == nil })
	shown["Status after a refusal"] = show(pool.Rotator().Status())
	kit.Check(t, db.Close())
	kit.Check(t, pool.Shutdown(t.Context()))
	_, err = pool.Exec(t.Context(), "SELECT 1")
	shown["error of a closed pool"] = show(err)
	checkShown(t, shown)
}

func rotator(t *testing.T, r *rotation.Rotator, shown map[string]string) {
	t.Helper()
	events := kit.NewRecorder()
	cancel := r.Subscribe(events.Add)
	defer cancel()
	kit.Check(t, r.Rotate(t.Context()))
	kit.Eventually(t, "events", func(context.Context) bool {
		all, _ := events.All()
		for _, e := range all {
			shown["Event "+string(e.Kind)] = showHidden(e) + show(e.LogValue())
		}
		return len(all) > 2
	})
	kit.HeardStatus(r)
	shown["Rotator"], shown["Status"] = show(r), showHidden(r.Status())
}

func TestMariaDB(t *testing.T) {
	role, err := bed.MariaDBRole(t.Context(), testbed.RoleOptions{})
	kit.Check(t, err)
	config, err := mysqlvault.ParseConfig(bed.MariaDB.DSN("app"))
	kit.Check(t, err)
	config.Vault, config.Rotation.Logger = source(t, role), slog.New(&kit.Logs{})
	connector, err := mysqlvault.NewConnector(t.Context(), config)
	kit.Check(t, err)
	conn, err := connector.Connect(t.Context())
	kit.Check(t, err)
	shown := map[string]string{
		"Config": show(config), "Config.FormatDSN": config.FormatDSN(), "Connector": show(connector), "Driver": show(connector.Driver()),
		"driver.Conn": show(conn), "Config.Vault": show(config.Vault),
	}
	rotator(t, connector.Rotator(), shown)
	kit.Check(t, conn.Close())
	kit.Check(t, bed.MariaDB.Exec(t.Context(), "ALTER USER '"+connector.Rotator().Status().User+"'@'%' ACCOUNT LOCK"))
	conn, err = connector.Connect(t.Context()) // which rotates
	kit.Check(t, err)
	kit.Check(t, conn.Close())
	shown["Status after a refusal"] = show(connector.Rotator().Status())
	kit.Check(t, connector.Close())
	_, err = connector.Connect(t.Context())
	shown["error of a closed connector"] = show(err)
	var refused *mysql.MySQLError
	shown["refusal"] = show(errors.As(err, &refused))
	checkShown(t, shown)
}

func TestSources(t *testing.T) {
	role, err := bed.PostgresRole(t.Context(), testbed.RoleOptions{})
	kit.Check(t, err)
	given, err := vaultsource.New(t.Context(), source(t, role))
	kit.Check(t, err)
	credential, lease, err := given.Issue(t.Context())
	kit.Check(t, err)
	denied := source(t, role)
	denied.Path = "database/creds/other"
	other, err := vaultsource.New(t.Context(), denied)
	kit.Check(t, err)
	_, _, deniedErr := other.Issue(t.Context())
	const password = "userpass-password-that-is-long"
	auth, err := userpass.NewUserpassAuth("nobody", &userpass.Password{FromString: password})
	kit.Check(t, err)
	config := vaultsource.Config{Path: role.CredsPath, Address: bed.Vault.Addr, Auth: auth}
	loggingIn, err := vaultsource.New(t.Context(), config)
	kit.Check(t, err)
	_, _, loginErr := loggingIn.Issue(t.Context())
	files, err := filesource.New(filesource.Config{Dir: t.TempDir()})
	kit.Check(t, err)
	shown := map[string]string{
		"Source": showHidden(given), "Credential": showHidden(credential), "pointer to a Credential": showHidden(&credential), "Lease": showHidden(lease), "Kind": show(given.Kind()),
		"denied": show(deniedErr), "login denied": show(loginErr), "Config with Auth": show(config), "Source with Auth": show(loggingIn), "filesource": showHidden(files),
	}
	kit.Check(t, given.Revoke(t.Context(), lease))
	checkShown(t, shown)
	for name, text := range shown {
		if strings.Contains(text, password) || strings.Contains(text, fmt.Sprintf("%x", password)) {
			t.Errorf("hazard 45: %s shows the password of the auth method", name)
		}
	}
}
