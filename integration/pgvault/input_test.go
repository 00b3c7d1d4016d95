package pgvault_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// newFails calls New and returns its error, in time, after which nothing may be left.
func (s *service) newFails(t *testing.T, connString string) error {
	t.Helper()
	const deadline = 5 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var pool *pgvault.Pool
	var err error
	within(t, deadline, "New", func() { pool, err = pgvault.New(ctx, connString) })
	if err == nil {
		pool.Close()
		t.Fatal("New succeeded")
	}
	if n := s.vault.SecretsIn(everyWay(err)); n > 0 {
		t.Errorf("the error shows %d secrets", n)
	}
	s.checkNothingLeft(t)
	return err
}

// Each mistake that one can make on the first day is answered within New's context by an error that says
// what to do.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for _, mistake := range []struct {
		name   string
		change func(t *testing.T, s *service) (connString string)
		is     error    // in the error's tree
		says   []string // in the error's text
	}{
		{
			name: "no vault_path",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				return s.bed.Postgres.URL("app")
			},
			says: []string{"vault_path", "database/creds/app"},
		},
		{
			name:   "unknown parameter",
			change: func(_ *testing.T, s *service) string { return s.connString("vault_pth=x") },
			says:   []string{"unknown parameter vault_pth", "vault_path", "vault_drain_timeout"},
		},
		{
			name: "user in the string",
			change: func(_ *testing.T, s *service) string {
				return strings.Replace(s.connString(""), "://", "://alice@", 1)
			},
			says: []string{"sets the user", "remove it"},
		},
		{
			name: "password in the string",
			change: func(_ *testing.T, s *service) string {
				s.vault.AddSecret("hunter2")
				return strings.Replace(s.connString(""), "://", "://alice:hunter2@", 1)
			},
			says: []string{"sets the password", "remove it"},
		},
		{
			name: "Vault unreachable",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				return strings.Replace(s.connString(""), s.vault.URL, "http://"+closedPort(t), 1)
			},
			says: []string{"connection refused", "VAULT_ADDR", "/creds/"},
		},
		{
			name: "Vault silent",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				return strings.Replace(s.connString(""), s.vault.URL, "http://"+silentPort(t), 1)
			},
			is:   context.DeadlineExceeded,
			says: []string{"no credential was issued in time"},
		},
		{
			name: "path of another role",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				other, err := s.bed.PostgresRole(t.Context(), testbed.RoleOptions{})
				check(t, err)
				return strings.Replace(s.connString(""), s.role.CredsPath, other.CredsPath, 1)
			},
			is:   rotation.ErrDenied,
			says: []string{"403", "permission denied", `capabilities = ["read"]`, "misspelt"},
		},
		{
			name: "path that does not exist",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				s.mayRead(t, "nowhere/creds/app")
				return strings.Replace(s.connString(""), s.role.CredsPath, "nowhere/creds/app", 1)
			},
			is:   rotation.ErrInvalid,
			says: []string{"404", "nothing is mounted there", "nowhere/creds/app"},
		},
		{
			name: "unknown role",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				path := s.bed.Vault.Mount + "/creds/nobody"
				s.mayRead(t, path)
				return strings.Replace(s.connString(""), s.role.CredsPath, path, 1)
			},
			is:   rotation.ErrInvalid,
			says: []string{"unknown role", "nobody"},
		},
		{
			name: "role that cannot be created",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				s.updateRole(t, testbed.RoleOptions{Create: []string{`CREATE ROLE "{{name}}" IN ROLE missing`}})
				return s.connString("vault_start_timeout=1s")
			},
			is:   context.DeadlineExceeded,
			says: []string{"500", `role "missing" does not exist`},
		},
		{
			name: "database refuses",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				s.updateRole(t, testbed.RoleOptions{Create: createUser(s.bed, "NOLOGIN")})
				return s.connString("")
			},
			is:   rotation.ErrRefused,
			says: []string{"is not permitted to log in", "28000", "newly issued credential"},
		},
		{
			name: "bad token",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				s.giveToken(t, "hvs.not-a-token")
				return s.connString("")
			},
			is:   rotation.ErrDenied,
			says: []string{"403", "give a new one"},
		},
		{
			name: "no token",
			change: func(t *testing.T, s *service) string {
				t.Helper()
				s.tokenFile = filepath.Join(t.TempDir(), "empty")
				check(t, os.WriteFile(s.tokenFile, nil, 0o600))
				return s.connString("")
			},
			says: []string{"token", "is empty"},
		},
	} {
		t.Run(mistake.name, func(t *testing.T) {
			t.Parallel()
			s := prepare(t, setup{})
			err := s.newFails(t, mistake.change(t, s))
			if mistake.is != nil && !errors.Is(err, mistake.is) {
				t.Errorf("the error is not %q: %v", mistake.is, err)
			}
			for _, part := range mistake.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
			if !strings.HasPrefix(err.Error(), "pgvault: ") {
				t.Errorf("the error does not say where it comes from: %v", err)
			}
			if n := len(s.vault.Asked("")); n > 1 && (errors.Is(err, rotation.ErrDenied) || errors.Is(err, rotation.ErrInvalid)) {
				t.Errorf("Vault was asked %d times for what it will not do", n)
			}
		})
	}
}

// mayRead gives the service a token that may read another path.
func (s *service) mayRead(t *testing.T, path string) {
	t.Helper()
	token, err := s.bed.Vault.Token(t.Context(), `path "`+path+`" { capabilities = ["read"] }`, time.Hour)
	check(t, err)
	s.giveToken(t, token)
}

// closedPort returns an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer func() { check(t, listener.Close()) }()
	return listener.Addr().String()
}

// silentPort returns an address at which connections are accepted and never answered.
func silentPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { check(t, listener.Close()) })
	return listener.Addr().String()
}

// Exactly one place may say where credentials come from.
func TestBadInput_Sources(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	_, _, r := twoPools(t, s)
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		t.Error("the source was asked")
		return rotation.Credential{}, rotation.Lease{}, errors.New("not to be asked")
	})
	for name, change := range map[string]func(c *pgvault.Config){
		"Vault and Source":       func(c *pgvault.Config) { c.Source = source },
		"Vault and Rotator":      func(c *pgvault.Config) { c.Rotator, c.Rotation = r, rotation.Config{} },
		"Source and Rotator":     func(c *pgvault.Config) { c.Vault.Path, c.Source, c.Rotator = "", source, r },
		"client and Rotator":     func(c *pgvault.Config) { c.Vault.Path, c.Vault.Client, c.Rotator = "", &api.Client{}, r },
		"none":                   func(c *pgvault.Config) { c.Vault.Path = "" },
		"Rotator and Rotation":   func(c *pgvault.Config) { c.Vault.Path, c.Rotator = "", r },
		"no pool":                func(c *pgvault.Config) { c.Config = nil },
		"a pool of one's own":    func(c *pgvault.Config) { c.MaxConns = 0 },
		"a negative duration":    func(c *pgvault.Config) { c.Rotation.DrainTimeout = -1 },
		"a bound that cannot be": func(c *pgvault.Config) { c.Rotation.MaxUnrevoked = 1 },
	} {
		c := s.parseAgain(t)
		change(c)
		pool, err := pgvault.NewWithConfig(t.Context(), c)
		if err == nil {
			pool.Close()
			t.Errorf("%s: New succeeded", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), "pgvault: ") {
			t.Errorf("%s: the error does not say where it comes from: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}

// A shared rotator that is closed is an error, and so is a pool that is.
func TestBadInput_ClosedRotator(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	a, b, r := twoPools(t, s)
	a.Close()
	b.Close()
	check(t, r.Close(t.Context()))
	c, err := pgvault.ParseConfig(s.bed.Postgres.URL("app"))
	check(t, err)
	c.Rotator = r
	if _, err := pgvault.NewWithConfig(t.Context(), c); !errors.Is(err, rotation.ErrClosed) {
		t.Errorf("New on a closed rotator returned %v", err)
	}
}
