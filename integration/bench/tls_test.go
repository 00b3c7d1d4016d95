package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// With -tls all that log in do so over TLS: every contender's pool, and those beside the floor's.
func TestTLS(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		e := encrypted(t, "postgres")
		for _, c := range contenders(e.db) {
			open(t, e, c, func() {
				var all, plain int
				err := e.bed.Postgres.Superuser.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE NOT ssl)
					FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename LIKE $1`, "v-%-"+e.role.Name+"-%").Scan(&all, &plain)
				if err != nil || all < e.conns || plain > 0 {
					t.Errorf("%s: %d of %d sessions are not encrypted, error %v", c.name, plain, all, err)
				}
			})
		}
		if url := e.bed.Postgres.URL("app"); !strings.Contains(url, "sslmode=verify-full") { // what logins beside the floor use
			t.Errorf("logins outside of pools use %s", url)
		}
	})
	t.Run("mysql", func(t *testing.T) {
		e := encrypted(t, "mysql")
		plain := *e
		plain.tls = false
		logIn, err := e.db.logIn(&plain, e.static)
		if err != nil {
			t.Fatal(err)
		}
		if err := logIn(t.Context()); err == nil {
			t.Error("the server lets in who does not encrypt: that a pool logs in shows nothing")
		}
		if logIn, err = e.db.logIn(e, e.static); err != nil {
			t.Fatal(err)
		}
		if err := logIn(t.Context()); err != nil {
			t.Errorf("a login beside the floor: %v", err)
		}
		for _, c := range contenders(e.db) {
			open(t, e, c, func() {})
		}
	})
}

// encrypted is what all contenders share, with -tls.
func encrypted(t *testing.T, db string) *env {
	t.Helper()
	o, err := parseOptions([]string{"-db=" + db, "-tls", "-conns=3"})
	if err != nil {
		t.Fatal(err)
	}
	bed, err := testbed.Start(t.Context(), o.db.servers(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	e, err := newEnv(t.Context(), bed, o, new(bytes.Buffer), new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// open opens a contender, fills it, looks at it, and closes it.
func open(t *testing.T, e *env, c contender, look func()) {
	t.Helper()
	ctx := as(t.Context(), upkeep)
	s, err := c.open(ctx, e, new(logins))
	if err != nil {
		t.Errorf("%s: %v", c.name, err)
		return
	}
	if err := s.fill(ctx, e.conns); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
	look()
	if err := s.close(ctx); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
}
