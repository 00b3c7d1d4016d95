package mysqlvault_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

func TestParseConfig(t *testing.T) {
	for _, dsn := range []string{
		"tcp(db.internal:3307)/app?parseTime=true&vault_path=database/creds/app&vault_addr=https://vault:8200&vault_drain_timeout=90s&wait_timeout=60",
		"tcp(db.internal:3307)/app?vault_path=database%2Fcreds%2Fapp&vault_addr=https%3A%2F%2Fvault%3A8200&parseTime=true&wait_timeout=60&vault_drain_timeout=1m30s",
	} {
		c, err := mysqlvault.ParseConfig(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		if c.Addr != "db.internal:3307" || c.DBName != "app" || !c.ParseTime || len(c.Params) != 1 || c.Params["wait_timeout"] != "60" {
			t.Errorf("%s: the driver gets %s/%s, parseTime %v, params %v", dsn, c.Addr, c.DBName, c.ParseTime, c.Params)
		}
		if c.Vault.Path != "database/creds/app" || c.Vault.Address != "https://vault:8200" || c.Rotation.DrainTimeout != 90*time.Second {
			t.Errorf("%s: Vault is %+v, rotation %+v", dsn, c.Vault, c.Rotation)
		}
	}
}

// Where the parameters begin is found although ours hold slashes and addresses may hold question marks.
func TestParseConfig_Shapes(t *testing.T) {
	for dsn, want := range map[string][3]string{
		"/app?vault_path=a/creds/b":                                {"tcp", "127.0.0.1:3306", "app"},
		"/?vault_path=a/creds/b":                                   {"tcp", "127.0.0.1:3306", ""},
		"tcp(db)/app?vault_path=a/creds/b":                         {"tcp", "db:3306", "app"},
		"tcp([::1]:3306)/app?vault_path=a/creds/b":                 {"tcp", "[::1]:3306", "app"},
		"unix(/run/mysqld/mysqld.sock)/app?vault_path=a/creds/b":   {"unix", "/run/mysqld/mysqld.sock", "app"},
		"unix(/run/what?/mysqld.sock)/app?vault_path=a/creds/b":    {"unix", "/run/what?/mysqld.sock", "app"},
		"tcp(db:1)/a%2Fb?vault_path=a/creds/b&charset=utf8mb4":     {"tcp", "db:1", "a/b"},
		"tcp(db:1)/app?vault_path=a/creds/b&sql_mode=%27(ANSI)%27": {"tcp", "db:1", "app"},
	} {
		c, err := mysqlvault.ParseConfig(dsn)
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		if got := [3]string{c.Net, c.Addr, c.DBName}; got != want || c.Vault.Path != "a/creds/b" {
			t.Errorf("%s: %q with vault_path %q, not %q", dsn, got, c.Vault.Path, want)
		}
	}
}

func TestParseConfig_Wrong(t *testing.T) {
	for dsn, parts := range map[string][]string{
		"tcp(db)/app?vault_pth=x":                                {"unknown parameter vault_pth", "vault_path", "vault_token_file"},
		"tcp(db)/app?VAULT_PATH=x":                               {"unknown parameter VAULT_PATH", "vault_path"},
		"tcp(db)/app?vault_path=":                                {"vault_path", "empty"},
		"tcp(db)/app?vault_path=a&vault_path=b":                  {"vault_path", "twice"},
		"tcp(db)/app?vault_path=%zz":                             {"vault_path", "unescaped"},
		"tcp(db)/app?vault_drain_timeout=5":                      {"vault_drain_timeout", "30s"},
		"tcp(db)/app?vault_max_unrevoked=1":                      {"vault_max_unrevoked", "at least 2"},
		"tcp(db)/app?parseTime=maybe":                            {"invalid bool value"},
		"tcp(db:3306":                                            {"DSN"},
		"app":                                                    {"slash"},
		"alice@tcp(db)/app?vault_path=a/creds/b":                 {"sets the user", "remove it"},
		"alice:hunter2@tcp(db)/app?vault_path=a/creds/b":         {"sets the password", "remove it"},
		"alice:hunter2@/app?vault_path=a/creds/b":                {"sets the password"},
		"alice:hun?ter2@tcp(db)/app?vault_path=a/creds/b":        {"remove"},
		"alice:hun(ter2@tcp(db)/app?vault_path=a/creds/b":        {"sets the password"},
		"alice:hunter2@tcp(db:3306/app?vault_path=a/creds/b":     {"remove them"},
		"alice:hunter2@tcp(db)/app?parseTime=hunter2":            {"remove them"},
		"tcp(db)/app?tls=hunter2pass&vault_path=a/creds/b":       {"remove them"},
		"alice:hunter2/app?vault_path=a/creds/b":                 {"remove them"},
		"alice:hunter2(db:3306)/app?vault_path=a/creds/b":        {"remove them"},
		"alice:hunter2tcp(db:3306)/app?vault_path=a/creds/b":     {"remove them"},
		"alice:hunter2%40tcp(db:3306)/app?vault_path=a/creds/b":  {"remove them"},
		"alice hunter2 tcp(db:3306)/app?vault_path=a/creds/b":    {"remove them"},
		"tcp(db)/app?vault%5Fpath=a/creds/b":                     {"vault_path", "without escapes"},
		"tcp(alice:hunter2@db)/app?vault_path=%zz&parseTime=yes": {"vault_path"},
	} {
		c, err := mysqlvault.ParseConfig(dsn)
		if err == nil {
			t.Errorf("%s: no error, but %s", dsn, c.FormatDSN())
			continue
		}
		for _, part := range append(parts, "mysqlvault: ") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error does not say %q: %v", dsn, part, err)
			}
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: the error shows the password: %v", dsn, err)
		}
	}
}

func TestConfig_FormatDSN(t *testing.T) {
	for _, dsn := range []string{
		"tcp(db:3306)/app?vault_path=database%2Fcreds%2Fapp",
		"tcp(db:3306)/app?parseTime=true&vault_drain_timeout=1m30s&vault_max_unrevoked=3&vault_path=a%2Fb",
		"unix(/run/what?/m.sock)/a%2Fb?vault_path=a%2Fb",
		"tcp(db:3306)/",
	} {
		c, err := mysqlvault.ParseConfig(dsn)
		if err != nil {
			t.Fatalf("%s: %v", dsn, err)
		}
		if got := c.FormatDSN(); got != dsn {
			t.Errorf("%s is formatted as %s", dsn, got)
		}
		c.User, c.Passwd = "alice", "hunter2"
		if got := c.FormatDSN(); got != dsn {
			t.Errorf("with a user and a password %s is formatted as %s", dsn, got)
		}
	}
}

func TestConfig_CloneIsDeep(t *testing.T) {
	c, err := mysqlvault.ParseConfig("tcp(db)/app?wait_timeout=1&vault_path=a/creds/b")
	if err != nil {
		t.Fatal(err)
	}
	clone := c.Clone()
	clone.Params["wait_timeout"], clone.DBName, clone.Vault.Path = "2", "other", "c/creds/d"
	if c.Params["wait_timeout"] != "1" || c.DBName != "app" || c.Vault.Path != "a/creds/b" {
		t.Errorf("changing the clone changed the original: %+v", c)
	}
}

// What is wrong with a Config is found before anything is sent.
func TestNewConnector_WrongConfig(t *testing.T) {
	parse := func(dsn string) *mysqlvault.Config {
		c, err := mysqlvault.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		t.Error("the source was asked")
		return rotation.Credential{}, rotation.Lease{}, nil
	})
	for name, test := range map[string]struct {
		config *mysqlvault.Config
		says   string
	}{
		"nil":         {nil, "ParseConfig"},
		"no driver's": {&mysqlvault.Config{}, "mysql.NewConfig"},
		"no origin":   {parse("tcp(db)/app"), "vault_path"},
		"two origins": {func() *mysqlvault.Config { c := parse("tcp(db)/app?vault_path=a/creds/b"); c.Source = source; return c }(), "set one"},
		"user":        {func() *mysqlvault.Config { c := parse("tcp(db)/app?vault_path=a/creds/b"); c.User = "alice"; return c }(), "user (User)"},
		"password": {func() *mysqlvault.Config {
			c := parse("tcp(db)/app?vault_path=a/creds/b")
			c.Passwd = "hunter2"
			return c
		}(), "password (Passwd)"},
		"no such TLS":   {&mysqlvault.Config{Config: &mysql.Config{TLSConfig: "nowhere"}, Source: source}, "nowhere"},
		"login in Net":  {&mysqlvault.Config{Config: &mysql.Config{Net: "alice:hunter2", Addr: "db"}, Source: source}, "remove them"},
		"other network": {&mysqlvault.Config{Config: &mysql.Config{Net: "tunnel", Addr: "db"}, Source: source}, "DialFunc"},
	} {
		c, err := mysqlvault.NewConnector(t.Context(), test.config)
		if err == nil {
			t.Errorf("%s: no error", name)
			_ = c.Close()
			continue
		}
		if !strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "mysqlvault: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error is: %v", name, err)
		}
	}
}

// sql.Open reports a bad DSN, and asks nobody.
func TestSQLOpen(t *testing.T) {
	if _, err := sql.Open("mysqlvault", "alice:hunter2@tcp(db)/app?vault_path=a/creds/b"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a DSN with a password: %v", err)
	}
	t.Setenv("VAULT_TOKEN", "none")
	db, err := sql.Open("mysqlvault", "tcp(db)/app?vault_path=a/creds/b&vault_addr=http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("closing a DB that was never used: %v", err)
	}
	if mysqlvault.RotatorOf(db) != nil {
		t.Error("a closed DB that was never used has a rotator")
	}
}

func TestRegisterDriver(t *testing.T) {
	config := &mysqlvault.Config{Config: mysql.NewConfig(), Source: rotation.SourceFunc(
		func(context.Context) (rotation.Credential, rotation.Lease, error) {
			return rotation.NewCredential("alice", "hunter2"), rotation.Lease{}, nil
		})}
	if err := mysqlvault.RegisterDriver("mysqlvault-test", config); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"mysqlvault-test": "cannot be given back", "mysqlvault": "cannot be given back", "": "empty"} {
		if err := mysqlvault.RegisterDriver(name, config); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("registering %q: %v", name, err)
		}
	}
	if err := mysqlvault.RegisterDriver("unusable", &mysqlvault.Config{}); err == nil {
		t.Error("a config that is not usable was registered")
	}
	for dsn, says := range map[string]string{
		"":                       "",
		"vault_drain_timeout=1m": "",
		"vault_drain_timeout=x":  "vault_drain_timeout",
		"vault_path=a/creds/b":   "set one", // beside a Source
		"tcp(db)/app":            "set everything else in the Config",
		"parseTime=true":         "set everything else in the Config",
	} {
		db, err := sql.Open("mysqlvault-test", dsn)
		switch {
		case err == nil && says == "":
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		case err == nil || !strings.Contains(err.Error(), says) || says == "":
			t.Errorf("opening %q: %v", dsn, err)
		}
	}
}

func TestRotatorOf_OtherDB(t *testing.T) {
	db, err := sql.Open("mysql", "tcp(127.0.0.1:1)/app")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if mysqlvault.RotatorOf(db) != nil {
		t.Error("another driver's DB has a rotator")
	}
}

// The database cannot be reached: that is no failure of Open, as it is none of sql.Open. Nothing
// listens at the address, for it was given back.
func TestNewConnector_NoDatabase(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	config := mysql.NewConfig()
	config.Addr = l.Addr().String()
	c, err := mysqlvault.NewConnector(t.Context(), &mysqlvault.Config{Config: config, Source: rotation.SourceFunc(
		func(context.Context) (rotation.Credential, rotation.Lease, error) {
			return rotation.NewCredential("alice", "hunter2"), rotation.Lease{}, nil
		})})
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(c)
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(fmt.Sprintf("%+v %#v", err, err), "hunter2") {
		t.Errorf("the ping's error: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever comes as a DSN, nothing panics, no password is shown, and what is accepted can be written and
// read back.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		"tcp(db:3306)/app?parseTime=true&vault_path=database/creds/app",
		"unix(/run/what?/m.sock)/a%2Fb?vault_path=a%2Fb&vault_max_unrevoked=3",
		"alice:SECRET@tcp(db)/app?vault_path=a/creds/b",
		"alice:SECRET?(@tcp(db)/app?tls=SECRET",
		"/?vault_path=%zz", "", "?", "(", ")/?vault_", "a)/(?",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		c, err := mysqlvault.ParseConfig(dsn)
		if err != nil {
			plain, _ := url.PathUnescape(dsn)
			if i := strings.LastIndex(plain, ":SECRET@"); i >= 0 && strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%q: the error shows the password: %v", dsn, err)
			}
			return
		}
		if c.User != "" || c.Passwd != "" {
			t.Errorf("%q: accepted with a user or a password", dsn)
		}
		for key := range c.Params {
			if strings.HasPrefix(strings.ToLower(key), "vault_") {
				t.Errorf("%q: the server would get %s", dsn, key)
			}
		}
		again, err := mysqlvault.ParseConfig(c.FormatDSN())
		if err != nil {
			return // the driver does not write everything as it reads it
		}
		if again.Vault != c.Vault || again.Rotation != c.Rotation {
			t.Errorf("%q: written as %q and read back: %+v %+v, not %+v %+v", dsn, c.FormatDSN(), again.Vault, again.Rotation, c.Vault, c.Rotation)
		}
	})
}
