package pgvault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
)

// everyWay prints a value in each way that a program may.
func everyWay(v any) string {
	encoded, err := json.Marshal(v)
	text := fmt.Sprintf("%v\n%+v\n%#v\n%s\n%q\n%s (%v)\n", v, v, v, v, v, encoded, err)
	if err, ok := v.(error); ok {
		text += everyWayDown(err)
	}
	return text
}

// everyWayDown prints what an error wraps, and what it points to.
func everyWayDown(err error) string {
	text := fmt.Sprintf("%v\n%+v\n%#v\n", err, err, err)
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		text += fmt.Sprintf("%+v\n%#v\n", *connect.Config, *connect.Config)
	}
	switch wrapper := err.(type) { //nolint:errorlint // walks the tree
	case interface{ Unwrap() error }:
		if below := wrapper.Unwrap(); below != nil {
			text += everyWayDown(below)
		}
	case interface{ Unwrap() []error }:
		for _, below := range wrapper.Unwrap() {
			text += everyWayDown(below)
		}
	}
	return text
}

// hazard 45: neither passwords nor the token show in logs, errors, events, status, or however a pool and
// its config are printed.
func TestHazard45_NoSecretShows(t *testing.T) {
	t.Parallel()
	s := open(t, setup{params: "pool_max_conns=3", configure: func(c *pgvault.Config) {
		c.Rotation.DrainTimeout = time.Second
	}})
	var shown strings.Builder
	show := func(what string, v any) { fmt.Fprintf(&shown, "== %s\n%s\n", what, everyWay(v)) }
	show("ParseConfig's config", s.config)
	show("ParseConfig's config, dereferenced", *s.config)
	show("Vault config", s.config.Vault)
	show("the pool's config", s.Config())
	show("the raw pool's config", *s.Pool.Pool.Config())
	show("the raw pool's connection config", *s.Pool.Pool.Config().ConnConfig)
	show("pool", s.Pool)
	fmt.Fprintf(&shown, "%+v\n%#v\n", s.Pool.Pool, s.Pool.Pool) // which go on into its fields
	show("rotator", s.Rotator())

	// A refused login, on the pool that shows it.
	s.dropRole(t, s.Rotator().Status().User)
	_, err := s.Pool.Pool.Acquire(t.Context())
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		t.Fatalf("the refused login returned %v", err)
	}
	show("refused login", err)
	s.acquire(t).Release()

	// A new login that is refused, and a revocation that fails.
	s.updateRole(t, testbed.RoleOptions{Create: createUser(s.bed, "NOLOGIN"), Revoke: []string{"SELECT 1 / 0"}})
	err = s.Rotate(t.Context())
	if err == nil {
		t.Error("rotated to a credential that cannot log in")
	}
	show("rejected rotation", err)
	s.updateRole(t, testbed.RoleOptions{})

	// A connect that fails after the login was set.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failing := s.parseAgain(t)
	failing.ConnConfig.AfterNetConnect = func(_ context.Context, c *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return conn, errors.New("the test fails it")
	}
	pool, err := pgvault.NewWithConfig(ctx, failing)
	check(t, err)
	_, err = pool.Acquire(ctx)
	show("failed connect", err)
	pool.Close()

	s.rotate(t)
	events, _ := s.events.All()
	for _, e := range events {
		show("event", e)
		show("event's error", e.Err)
		show("event's log value", e.LogValue())
	}
	show("status", s.Rotator().Status())
	s.Close()
	show("status at the end", s.Rotator().Status())
	_, err = s.Acquire(t.Context())
	show("closed", err)
	shown.WriteString(s.logs.String())

	if n := s.vault.SecretsIn(shown.String()); n > 0 {
		t.Errorf("%d secrets are shown", n)
	}
	if n := s.vault.Secrets(); n < 4 {
		t.Errorf("only %d secrets were there to be shown", n)
	}
}

// parseAgain returns a config like that of the service's pool as a program gets it.
func (s *service) parseAgain(t *testing.T) *pgvault.Config {
	t.Helper()
	config, err := pgvault.ParseConfig(s.connString(""))
	check(t, err)
	config.Rotation = s.rotation()
	return config
}
