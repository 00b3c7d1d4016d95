// Package vaultsource_test tries rotation/vaultsource on a real Vault and a real PostgreSQL, with tokens
// that may do no more than the package's documentation asks for.
package vaultsource_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

var bed *testbed.Bed

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	var err error
	if bed, err = testbed.Start(context.Background(), testbed.Options{Postgres: true, Progress: os.Stderr, Audit: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code = m.Run()
	for _, err := range []error{kit.CheckHeard(bed), bed.Close(), goleak.Find()} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// fixture is a role, a token that may do what the documentation says, and what must not show up anywhere.
type fixture struct {
	*testing.T
	role  *testbed.Role
	token string

	mu      sync.Mutex
	secrets []string
}

// policy is what the documentation of vaultsource asks for, beside Vault's default policy.
func policy(credsPath string) string {
	return fmt.Sprintf(`
		path "%[1]s" { capabilities = ["read"] }
		path "sys/leases/revoke/%[1]s/*" { capabilities = ["update"] }`, credsPath)
}

func newFixture(t *testing.T, options testbed.RoleOptions) *fixture {
	t.Helper()
	role, err := bed.PostgresRole(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, role: role}
	f.token = f.newToken(policy(role.CredsPath), time.Hour)
	f.secret(bed.Vault.RootToken)
	t.Cleanup(f.clean)
	return f
}

// clean takes back what the test has left, as root.
func (f *fixture) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	leases, err := f.role.Leases(ctx)
	for _, id := range leases {
		err = errors.Join(err, bed.Vault.Client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: id, Sync: true}))
	}
	if err != nil {
		f.Errorf("clean up: %v", err)
	}
}

func (f *fixture) newToken(hcl string, ttl time.Duration, options ...func(*api.TokenCreateRequest)) string {
	f.Helper()
	token, err := bed.Vault.Token(f.Context(), hcl, ttl, options...)
	f.must(err)
	f.secret(token)
	return token
}

func (f *fixture) secret(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secrets = append(f.secrets, s)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// source makes one with the fixture's token on a client of its own.
func (f *fixture) source(change ...func(*vaultsource.Config)) *vaultsource.Source {
	f.Helper()
	return f.sourceAt(bed.Vault.Addr, f.token, change...)
}

// sourceAt makes one from the environment and the address.
func (f *fixture) sourceAt(address, token string, change ...func(*vaultsource.Config)) *vaultsource.Source {
	f.Helper()
	f.Setenv("VAULT_TOKEN", token)
	config := vaultsource.Config{Path: f.role.CredsPath, Address: address}
	for _, c := range change {
		c(&config)
	}
	source, err := vaultsource.New(f.Context(), config)
	f.must(err)
	return source
}

// issue fails the test if there is no credential.
func (f *fixture) issue(s *vaultsource.Source) (rotation.Credential, rotation.Lease) {
	f.Helper()
	credential, lease, err := s.Issue(f.Context())
	f.must(err)
	f.secret(credential.Password())
	return credential, lease
}

// failed checks an error: that it is of that kind and no other (nil: one that may pass), that it says all
// of the parts, and that it shows no secret.
func (f *fixture) failed(err, kind error, parts ...string) {
	f.Helper()
	if err == nil {
		f.Fatal("no error")
	}
	kit.Heard(err)
	for _, k := range []error{rotation.ErrDenied, rotation.ErrInvalid, rotation.ErrLeaseGone} {
		if errors.Is(err, k) != (k == kind) { //nolint:errorlint // which of the three is meant
			f.Errorf("errors.Is(%q, %q) = %t", err, k, errors.Is(err, k))
		}
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			f.Errorf("the error does not say %q: %v", part, err)
		}
	}
	f.noSecret(fmt.Sprintf("%v %+v %#v", err, err, err))
	if response := new(api.ResponseError); errors.As(err, &response) {
		f.noSecret(fmt.Sprintf("%v %+v", response, *response))
	}
	f.Log(err)
}

func (f *fixture) noSecret(text string) {
	f.Helper()
	kit.Heard(text)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, secret := range f.secrets {
		if strings.Contains(text, secret) {
			f.Errorf("hazard 45: this shows a secret: %s", text)
		}
	}
}

// answered checks that Vault's own answer is in the chain.
func (f *fixture) answered(err error, status int) {
	f.Helper()
	response := new(api.ResponseError)
	if !errors.As(err, &response) || response.StatusCode != status {
		f.Errorf("no *api.ResponseError with status %d in %v", status, err)
	}
}

// left checks how many leases of the role Vault has, and users the database.
func (f *fixture) left(want int) {
	f.Helper()
	leases, err := f.role.Leases(f.Context())
	f.must(err)
	users, err := f.role.Users(f.Context())
	f.must(err)
	if len(leases) != want || len(users) != want {
		f.Errorf("%d leases and %d users are left, want %d: %v %v", len(leases), len(users), want, leases, users)
	}
}

func retryAfter(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return asked.RetryAfter()
	}
	return -1
}

// root does something as root that has to work.
func (f *fixture) root(path string, data map[string]any) {
	f.Helper()
	_, err := bed.Vault.Client.Logical().WriteWithContext(f.Context(), path, data)
	f.must(err)
}

func (f *fixture) revokeAsRoot(id string) {
	f.Helper()
	f.must(bed.Vault.Client.Sys().RevokeWithOptionsWithContext(f.Context(), &api.RevokeOptions{LeaseID: id, Sync: true}))
}

// caFile writes the certificate of a test server to a file.
func (f *fixture) caFile(server *httptest.Server) string {
	f.Helper()
	file := filepath.Join(f.TempDir(), "ca.pem")
	f.must(os.WriteFile(file, pemOf(server.Certificate()), 0o600))
	return file
}

func withoutDefaultPolicy(r *api.TokenCreateRequest) { r.NoDefaultPolicy = true }

func notRenewable(r *api.TokenCreateRequest) { r.Renewable = new(bool) }

// eventually waits for what the other side of a connection takes a moment to notice.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("not after a minute: %s", what)
		}
	}
}
