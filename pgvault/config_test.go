package pgvault_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
)

func TestParseConfig(t *testing.T) {
	for _, connString := range []string{
		"postgres://db.internal:5433/app?sslmode=disable&pool_max_conns=7&application_name=it" +
			"&vault_path=database/creds/app&vault_addr=https://vault:8200&vault_drain_timeout=90s&vault_max_unrevoked=3",
		"host=db.internal port = 5433 dbname='app' sslmode=disable pool_max_conns=7 application_name=it" +
			" vault_path = 'database/creds/app' vault_addr=https://vault:8200 vault_drain_timeout=90s vault_max_unrevoked=3",
	} {
		c, err := pgvault.ParseConfig(connString)
		if err != nil {
			t.Errorf("%s: %v", connString, err)
			continue
		}
		if c.ConnConfig.Host != "db.internal" || c.ConnConfig.Port != 5433 || c.ConnConfig.Database != "app" || c.MaxConns != 7 {
			t.Errorf("%s: the pool's own parameters are %s:%d/%s, %d connections",
				connString, c.ConnConfig.Host, c.ConnConfig.Port, c.ConnConfig.Database, c.MaxConns)
		}
		if c.Vault.Path != "database/creds/app" || c.Vault.Address != "https://vault:8200" {
			t.Errorf("%s: Vault is %+v", connString, c.Vault)
		}
		if c.Rotation.DrainTimeout != 90*time.Second || c.Rotation.MaxUnrevoked != 3 {
			t.Errorf("%s: rotation is %+v", connString, c.Rotation)
		}
		left := slices.Sorted(maps.Keys(c.ConnConfig.RuntimeParams))
		if !slices.Equal(left, []string{"application_name"}) {
			t.Errorf("%s: what the server is sent: %v", connString, left)
		}
	}
}

// A login in the connection string is found wherever pgx finds one, and nowhere else.
func TestParseConfig_LoginInString(t *testing.T) {
	clearPG(t)
	for connString, field := range map[string]string{
		"postgres://alice@db/app":                                    "user",
		"postgres://alice:hunter2@db/app":                            "password",
		"postgres://:hunter2@db/app":                                 "password",
		"postgresql://alice@db/app":                                  "user",
		"postgres://alice:@db/app":                                   "user",
		"postgres://alice:hunter2@h1:5432,h2:5433/app":               "password",
		"postgres://alice:hunter2@[::1]:5432/app":                    "password",
		"postgres://alice:p%ss@db/app":                               "password",
		"postgres://db/app?user=alice":                               "user",
		"postgres://db/app?sslmode=disable&password=hunter2":         "password",
		"postgres://db/app?p%61ssword=hunter2":                       "password",
		"postgres://db/app? user =alice":                             "user",
		"postgres://h1:1,h2:2/app?user=alice":                        "user",
		"host=db user=alice":                                         "user",
		"host=db password=hunter2":                                   "password",
		"host=db password = hunter2":                                 "password",
		"host=db\tpassword='hunter 2'":                               "password",
		`host='a\' b' user=alice`:                                    "user",
		`host=a\ b user=alice`:                                       "user",
		"user=alice":                                                 "user",
		"host='x' password='' dbname=app":                            "password",
		"postgres://db/app":                                          "",
		"postgres://@db/app":                                         "",
		"postgres://db/a@b":                                          "",
		"postgres://db/app?options=-c%20role%3Duser":                 "",
		"postgres://db/app?application_name=user":                    "",
		"host=db application_name='user=alice'":                      "",
		`host=db application_name=it\'s\ user`:                       "",
		"host=db application_name='a\\' user=b'":                     "",
		"":                                                           "",
		"host=db":                                                    "",
		"postgres://h1:5432,h2:5433/app?vault_path=database/creds/a": "",
	} {
		_, err := pgvault.ParseConfig(connString)
		switch {
		case field == "" && err != nil:
			t.Errorf("%s: %v", connString, err)
		case field != "" && (err == nil || !strings.Contains(err.Error(), "sets the "+field)):
			t.Errorf("%s: the error is %v, where the string sets the %s", connString, err, field)
		case err != nil && (strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "alice")):
			t.Errorf("%s: the error shows it: %v", connString, err)
		}
	}
}

func TestParseConfig_Wrong(t *testing.T) {
	for params, parts := range map[string][]string{
		"vault_pth=x":                {"unknown parameter vault_pth", "vault_path", "vault_token_file"},
		"vault_path=":                {"vault_path", "empty"},
		"vault_drain_timeout=5":      {"vault_drain_timeout", "30s"},
		"vault_drain_timeout=-5s":    {"vault_drain_timeout", "positive"},
		"vault_max_unrevoked=1":      {"vault_max_unrevoked", "at least 2"},
		"vault_max_unrevoked=two":    {"vault_max_unrevoked", "whole number"},
		"pool_max_conns=0":           {"pool_max_conns"},
		"sslmode=sometimes":          {"sslmode"},
		"connect_timeout=eventually": {"connect_timeout"},
	} {
		_, err := pgvault.ParseConfig("postgres://db/app?" + params)
		if err == nil {
			t.Errorf("%s: no error", params)
			continue
		}
		for _, part := range append(parts, "pgvault: ") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error does not say %q: %v", params, part, err)
			}
		}
	}
}

func TestConfig_CopyIsDeep(t *testing.T) {
	c, err := pgvault.ParseConfig("postgres://db/app?vault_path=database/creds/app")
	if err != nil {
		t.Fatal(err)
	}
	copied := c.Copy()
	copied.Vault.Path, copied.MaxConns, copied.ConnConfig.Host = "other/creds/app", 99, "elsewhere"
	copied.ConnConfig.RuntimeParams["application_name"] = "other"
	if c.Vault.Path != "database/creds/app" || c.MaxConns == 99 || c.ConnConfig.Host != "db" || len(c.ConnConfig.RuntimeParams) != 0 {
		t.Errorf("changing the copy changed the original: %+v", c)
	}
	if empty := (&pgvault.Config{}).Copy(); empty.Config != nil {
		t.Error("the copy of nothing is something")
	}
}

// clearPG takes out of the environment what pgx adds to a connection string, and puts a login in that a
// test can tell from the string's.
func clearPG(t testing.TB) {
	t.Helper()
	for _, name := range []string{
		"PGHOST", "PGPORT", "PGDATABASE", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT",
		"PGSSLCERT", "PGSSLKEY", "PGTARGETSESSIONATTRS", "PGOPTIONS", "PGAPPNAME", "PGCONNECT_TIMEOUT",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("PGUSER", environmentUser)
	t.Setenv("PGPASSWORD", environmentPassword)
}

const environmentUser, environmentPassword = "user-of-the-environment", "password-of-the-environment"

// FuzzParseConfig holds that no connection string makes ParseConfig panic, that it lets none through that
// sets a login, as pgx reads it, and that no error shows a password.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range [][2]string{
		{"postgres://alice:", "@db/app"},
		{"postgres://alice:", "@h1:5432,h2:54x/app"},
		{"postgres://alice:x/", "@db/app"},
		{"postgres://alice:", "/x@db/app"},
		{"postgres://db/app?password=", "&sslmode=bogus"},
		{"postgres://db/app?p%61ssword=", ""},
		{"postgres://db:", "@/app"},
		{"host=db password=", " sslmode=bogus"},
		{"host=db password = '", "' sslmode=bogus"},
		{"host=db password='it\\'s ", "' pool_max_conns=x"},
		{"password=", ""},
		{"host=db application_name='user=", "'"},
		{"postgres://db/app?vault_path=", ""},
		{"postgres://[::1/app?password=", ""},
		{"mysql://alice:", "@db/app"},
	} {
		f.Add(seed[0], seed[1])
	}
	const secret = "Zq7hunter2X"
	f.Fuzz(func(t *testing.T, before, after string) {
		clearPG(t)
		if strings.Contains(strings.ToLower(before+after), "service") {
			return // a file may say anything
		}
		c, err := pgvault.ParseConfig(before + secret + after)
		if err == nil {
			if c.ConnConfig.User != environmentUser || c.ConnConfig.Password != environmentPassword {
				t.Errorf("a string that sets user %q and password %q is let through", c.ConnConfig.User, c.ConnConfig.Password)
			}
			return
		}
		if !isPasswordPlace(before, after) {
			return
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			if strings.Contains(text, secret) {
				t.Errorf("the error shows the password: %s", text)
			}
		}
	})
}

// isPasswordPlace tells whether what stands between before and after looks like a password to a human.
func isPasswordPlace(before, after string) bool {
	return strings.Contains(before, "://") && strings.Contains(before, ":") && strings.Contains(after, "@") ||
		strings.Contains(strings.ToLower(before), "password")
}
