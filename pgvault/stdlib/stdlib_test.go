package stdlib_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pgxstdlib "github.com/jackc/pgx/v5/stdlib"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

// counter is a source that counts what it is asked.
type counter struct{ issued, revoked atomic.Int32 }

func (c *counter) Issue(context.Context) (rotation.Credential, rotation.Lease, error) {
	c.issued.Add(1)
	return rotation.NewCredential("alice", "hunter2"), rotation.Lease{ID: "l", TTL: time.Hour, Revocable: true}, nil
}

func (c *counter) Revoke(context.Context, rotation.Lease) error {
	c.revoked.Add(1)
	return nil
}

// newConfig is of a database that is not there, with that source.
func newConfig(t *testing.T, source rotation.Source) *pgvault.Config {
	t.Helper()
	config, err := pgvault.ParseConfig("postgres://127.0.0.1:1/app?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.Source = source
	return config
}

var names atomic.Int32

// register registers a driver under a name that is returned: one that was never used before.
func register(t *testing.T, config *pgvault.Config) string {
	t.Helper()
	name := fmt.Sprint("pgvault-test-", names.Add(1))
	if err := stdlib.RegisterDriver(name, config); err != nil {
		t.Fatal(err)
	}
	return name
}

// sql.Open refuses what is wrong at once, and no error shows a password.
func TestOpen_Wrong(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "none")
	for connString, says := range map[string]string{
		"postgres://alice:hunter2@db/app?vault_path=a/creds/b":         "sets the password",
		"postgres://alice@db/app?vault_path=a/creds/b":                 "sets the user",
		"host=db password=hunter2 vault_path=a/creds/b":                "sets the password",
		"postgres://alice:hunter2@db:x/app?vault_path=a/creds/b":       "sets the password",
		"postgres://alice%3Ahunter2%40db:x/app?vault_path=a/creds/b":   "cannot be parsed",
		"postgres://db/app?sslpassword=hunter2&sslmode=sometimes":      "cannot be parsed",
		"postgres://db/app?vault_pth=x":                                "unknown parameter vault_pth",
		"postgres://db/app?vault_path=a/creds/b&vault_max_unrevoked=1": "at least 2",
		"postgres://db/app": "vault_path",
		"postgres://db/app?vault_path=a/creds/b&vault_ca_cert=/nowhere": "/nowhere",
		"postgres://db/app?vault_path=a/creds/b&vault_addr=nowhere":     "https://",
	} {
		db, err := sql.Open("pgvault", connString)
		if err == nil {
			t.Errorf("%s: no error", connString)
			_ = db.Close()
			continue
		}
		if !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "pgvault: ") {
			t.Errorf("%s: the error does not say %q: %v", connString, says, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the password: %v", connString, err)
		}
	}
}

// A DB that is never used asks nobody for anything, and closing it is nothing.
func TestOpen_NeverUsed(t *testing.T) {
	source := &counter{}
	db, err := sql.Open(register(t, newConfig(t, source)), "")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := db.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	if stdlib.RotatorOf(db) != nil {
		t.Error("a closed DB that was never used has a rotator")
	}
	if n := source.issued.Load(); n != 0 {
		t.Errorf("the source was asked %d times", n)
	}
}

// connectorOf opens a connector as sql.Open does.
func connectorOf(t *testing.T, driverName, connString string) *stdlib.Connector {
	t.Helper()
	db, err := sql.Open(driverName, connString)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	c, err := db.Driver().(driver.DriverContext).OpenConnector(connString)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*stdlib.Connector)
}

// A DB whose database is not there has its lease, gives it back, and is closed for good.
func TestConnector_Closed(t *testing.T) {
	source := &counter{}
	connector := connectorOf(t, register(t, newConfig(t, source)), "vault_close_timeout=20s")
	db := sql.OpenDB(connector)
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the ping's error: %v", err)
	}
	if r := stdlib.RotatorOf(db); r == nil || r != connector.Rotator() || r.Status().User != "alice" {
		t.Errorf("the rotator is %v", r)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if _, err := connector.Connect(t.Context()); err == nil {
		t.Error("a closed connector connects")
	}
	if issued, revoked := source.issued.Load(), source.revoked.Load(); issued != 1 || revoked != 1 {
		t.Errorf("%d leases were issued and %d revoked", issued, revoked)
	}
}

// A connector that is closed before it is used does not start any more.
func TestConnector_ClosedUnused(t *testing.T) {
	source := &counter{}
	connector := connectorOf(t, register(t, newConfig(t, source)), "")
	if err := connector.Close(); err != nil {
		t.Error(err)
	}
	if _, err := connector.Connect(t.Context()); !errors.Is(err, rotation.ErrClosed) {
		t.Errorf("Connect returned %v", err)
	}
	if n := source.issued.Load(); n != 0 {
		t.Errorf("the source was asked %d times", n)
	}
}

func TestRegisterDriver(t *testing.T) {
	config := newConfig(t, &counter{})
	taken := register(t, config)
	config.Source = nil // the copy has it
	for name, says := range map[string]string{taken: "cannot be given back", "pgvault": "cannot be given back", "": "empty"} {
		err := stdlib.RegisterDriver(name, newConfig(t, &counter{}))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "pgvault: ") {
			t.Errorf("registering %q: %v", name, err)
		}
	}
	for name, unusable := range map[string]*pgvault.Config{"nil": nil, "empty": {}, "no origin": newConfig(t, nil)} {
		if err := stdlib.RegisterDriver("unusable", unusable); err == nil {
			t.Errorf("a config that is not usable (%s) was registered", name)
		}
	}
	for connString, says := range map[string]string{
		"":                       "",
		"vault_drain_timeout=1m": "",
		"vault_drain_timeout=1m&vault_max_unrevoked=3": "",
		"vault_drain_timeout=x":                        "vault_drain_timeout",
		"vault_path=a/creds/b":                         "set one", // beside a Source
		"postgres://db/app":                            "set everything else in the Config",
		"postgres://alice:hunter2@db/app":              "set everything else in the Config",
		"vault_path=%zz&password=hunter2":              "set everything else in the Config",
		"pool_max_conns=3":                             "set everything else in the Config",
	} {
		db, err := sql.Open(taken, connString)
		switch {
		case err == nil && says == "":
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		case err == nil || says == "" || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2"):
			t.Errorf("opening %q: %v", connString, err)
		}
	}
}

func TestRotatorOf_OtherDB(t *testing.T) {
	db, err := sql.Open("pgx", "postgres://127.0.0.1:1/app")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if stdlib.RotatorOf(db) != nil {
		t.Error("another driver's DB has a rotator")
	}
}

func TestDriver_Open(t *testing.T) {
	if _, err := (&stdlib.Driver{}).Open("postgres://db/app?vault_path=a/creds/b"); err == nil || !strings.Contains(err.Error(), "sql.Open") {
		t.Errorf("Open returned %v", err)
	}
}

// Whatever pgx's connection can do, ours can: an optional interface that pgx adds must not get lost.
func TestConn_HasAllMethods(t *testing.T) {
	theirs, ours := reflect.TypeFor[*pgxstdlib.Conn](), reflect.TypeFor[*stdlib.Conn]()
	for i := range theirs.NumMethod() {
		m := theirs.Method(i)
		got, ok := ours.MethodByName(m.Name)
		if !ok {
			t.Errorf("Conn has no %s", m.Name)
			continue
		}
		if got.Type.NumIn() != m.Type.NumIn() || got.Type.NumOut() != m.Type.NumOut() {
			t.Errorf("%s is %v, not %v", m.Name, got.Type, m.Type)
		}
	}
}
