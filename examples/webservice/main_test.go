package main

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

func TestLogEvent(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logEvent(logger, rotation.Event{Kind: rotation.Renewed, Generation: 2, TTL: 8 * time.Second})
	logEvent(logger, rotation.Event{Kind: rotation.RenewFailed, Generation: 2, Err: errors.New("vault is sealed")})
	var lines [2]struct {
		Level    string `json:"level"`
		Rotation struct {
			Event      string        `json:"event"`
			Generation uint64        `json:"generation"`
			TTL        time.Duration `json:"ttl"`
			Error      string        `json:"error"`
		} `json:"rotation"`
	}
	decoder := json.NewDecoder(strings.NewReader(log.String()))
	for i := range lines {
		if err := decoder.Decode(&lines[i]); err != nil {
			t.Fatalf("read line %d of %q: %v", i, log.String(), err)
		}
	}
	if lines[0].Level != "INFO" || lines[0].Rotation.Event != "renewed" || lines[0].Rotation.TTL != 8*time.Second {
		t.Errorf("a renewal was logged as %+v", lines[0])
	}
	if lines[1].Level != "WARN" || lines[1].Rotation.Error != "vault is sealed" {
		t.Errorf("a failure was logged as %+v", lines[1])
	}
}

func TestConfig(t *testing.T) {
	environment := map[string]string{"DATABASE_URL": "postgres://db/app", "LISTEN_ADDR": "127.0.0.1:9"}
	getenv := func(name string) string { return environment[name] }

	cfg, err := parseConfig([]string{"-request-timeout", "2s"}, getenv, io.Discard)
	if err != nil || cfg.databaseURL != "postgres://db/app" || cfg.listen != "127.0.0.1:9" || cfg.requestTimeout != 2*time.Second {
		t.Errorf("from the environment: %+v, %v", cfg, err)
	}
	cfg, err = parseConfig([]string{"-database-url", "postgres://other/app"}, getenv, io.Discard)
	if err != nil || cfg.databaseURL != "postgres://other/app" {
		t.Errorf("a flag goes before the environment: %+v, %v", cfg, err)
	}
	if cfg.database != postgresName {
		t.Errorf("without -db: got %q, want %q", cfg.database, postgresName)
	}
	environment["DB"] = "mysql"
	if cfg, err = parseConfig(nil, getenv, io.Discard); err != nil || cfg.database != mysqlName {
		t.Errorf("with DB=mysql: %+v, %v", cfg, err)
	}
	if cfg, err = parseConfig([]string{"-db", "postgres"}, getenv, io.Discard); err != nil || cfg.database != postgresName {
		t.Errorf("-db goes before DB: %+v, %v", cfg, err)
	}
	for want, args := range map[string][]string{
		"unexpected argument": {"serve"},
		"must be positive":    {"-pool-timeout", "0s"},
		"not defined":         {"-nonsense"},
		`-db is "oracle"`:     {"-db", "oracle"},
	} {
		if _, err := parseConfig(args, getenv, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want an error with %q", args, err, want)
		}
	}
	nothing := func(string) string { return "" }
	for name, example := range exampleURLs {
		_, err := parseConfig([]string{"-db", name}, nothing, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "DATABASE_URL") || !strings.Contains(err.Error(), example) {
			t.Errorf("%s without a URL: got %v, want an error that names DATABASE_URL with an example", name, err)
		}
	}
}

func TestPrintSchema(t *testing.T) {
	for name, own := range map[string]string{"postgres": "timestamptz", "mysql": "datetime(6)"} {
		var out strings.Builder
		if err := run(t.Context(), []string{"-print-schema", "-db", name}, func(string) string { return "" }, &out); err != nil {
			t.Fatalf("print the schema of %s: %v", name, err)
		}
		for _, want := range []string{"CREATE TABLE IF NOT EXISTS items", own} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in %q", name, want, out.String())
			}
		}
	}
}

// What keeps the service from starting says why; a URL for the other database is no URL.
func TestOpenFails(t *testing.T) {
	for want, args := range map[string][]string{
		"open the database: pgvault":    {"-database-url", "tcp(127.0.0.1:3306)/app?vault_path=database/creds/app"},
		"open the database: mysqlvault": {"-db", "mysql", "-database-url", "postgres://127.0.0.1/app?vault_path=database/creds/app"},
		"vault_path":                    {"-db", "mysql", "-database-url", "tcp(127.0.0.1:3306)/app"},
	} {
		err := run(t.Context(), args, func(string) string { return "" }, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want an error with %q", args, err, want)
		}
	}
}
