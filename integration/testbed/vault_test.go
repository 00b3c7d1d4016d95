package testbed_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// revoke revokes a lease and waits for it, in the way that the least policy of a role allows.
func revoke(t *testing.T, client *api.Client, leaseID string) {
	t.Helper()
	check(t, client.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: leaseID, Sync: true}))
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	var refusal *api.ResponseError
	if !errors.As(err, &refusal) || refusal.StatusCode != status {
		t.Errorf("want HTTP status %d, got: %v", status, err)
	}
}

// issues reports whether Vault issues a credential within the time.
func issues(t *testing.T, role *testbed.Role, within time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	_, err := role.Issue(ctx)
	return err
}

func TestLeastPolicy(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true})
	role, other := postgresRole(t, bed, testbed.RoleOptions{}), postgresRole(t, bed, testbed.RoleOptions{})
	notOurs := issue(t, other)
	token, err := bed.Vault.Token(t.Context(), role.Policy, time.Hour, func(r *api.TokenCreateRequest) {
		r.NoDefaultPolicy = true // which would allow renewals and lookups anyway
	})
	check(t, err)
	client := bed.Vault.ClientWithToken(token)

	secret, err := client.Logical().ReadWithContext(t.Context(), role.CredsPath)
	check(t, err)
	wantLeft(t, role, 1, 1)
	renewed, err := client.Sys().RenewWithContext(t.Context(), secret.LeaseID, 1800)
	check(t, err)
	if renewed.LeaseDuration != 1800 {
		t.Errorf("want the lease renewed for 1800 s, got %d", renewed.LeaseDuration)
	}
	lookup, err := client.Logical().WriteWithContext(t.Context(), "sys/leases/lookup", map[string]any{"lease_id": secret.LeaseID})
	check(t, err)
	if lookup.Data["id"] != secret.LeaseID {
		t.Errorf("looked up another lease: %v", lookup.Data["id"])
	}
	revoke(t, client, secret.LeaseID)
	wantLeft(t, role, 0, 0)

	_, err = client.Logical().ReadWithContext(t.Context(), other.CredsPath)
	wantStatus(t, err, http.StatusForbidden)
	err = client.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: notOurs.LeaseID, Sync: true})
	wantStatus(t, err, http.StatusForbidden)
	wantStatus(t, client.Sys().RevokePrefixWithContext(t.Context(), role.CredsPath), http.StatusForbidden)
	wantLeft(t, other, 1, 1)
}

func TestTokenEndsWithItsTTL(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true})
	role := postgresRole(t, bed, testbed.RoleOptions{})
	token, err := role.Token(t.Context(), time.Second)
	check(t, err)
	_, err = bed.Vault.ClientWithToken(token).Logical().ReadWithContext(t.Context(), role.CredsPath)
	check(t, err)
	wantLeft(t, role, 1, 1)
	eventually(t, "the end of the token's lease", func(ctx context.Context) (bool, error) {
		leases, err := role.Leases(ctx)
		return len(leases) == 0, err
	})
}

func TestSealAndPause(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true})
	role := postgresRole(t, bed, testbed.RoleOptions{})

	check(t, bed.Vault.Seal(t.Context()))
	wantStatus(t, issues(t, role, 10*time.Second), http.StatusServiceUnavailable)
	check(t, bed.Vault.Unseal(t.Context()))
	check(t, issues(t, role, 10*time.Second))

	check(t, bed.Vault.Pause())
	check(t, bed.Vault.Pause()) // again is nothing new
	if err := issues(t, role, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused Vault should not answer: %v", err)
	}
	check(t, bed.Vault.Resume())
	check(t, issues(t, role, 10*time.Second))

	if err := bed.Vault.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "VaultDir") {
		t.Errorf("Restart without VaultDir: %v", err)
	}
	check(t, bed.Vault.Pause()) // Close ends a paused one too
}

func TestKillAndRestartKeepsState(t *testing.T) {
	bed := start(t, testbed.Options{Postgres: true, VaultDir: t.TempDir()})
	role := postgresRole(t, bed, testbed.RoleOptions{})
	token, err := role.Token(t.Context(), time.Hour)
	check(t, err)
	credential := issue(t, role)

	check(t, bed.Vault.Kill())
	if err := issues(t, role, 10*time.Second); err == nil {
		t.Error("a killed Vault answered")
	}
	if err := bed.Vault.Pause(); err == nil {
		t.Error("a killed Vault was paused")
	}
	check(t, bed.Vault.Restart(t.Context()))
	wantLeft(t, role, 1, 1)
	client := bed.Vault.ClientWithToken(token)
	_, err = client.Sys().RenewWithContext(t.Context(), credential.LeaseID, 60)
	check(t, err)
	revoke(t, client, credential.LeaseID)
	wantLeft(t, role, 0, 0)

	check(t, bed.Vault.Restart(t.Context())) // gently, of a running one
	check(t, issues(t, role, 10*time.Second))
}

func TestStateOutlivesTheTestbed(t *testing.T) {
	dir := t.TempDir()
	first := start(t, testbed.Options{VaultDir: dir})
	check(t, first.Vault.Client.Sys().PutPolicyWithContext(t.Context(), "kept", `path "x" { capabilities = ["read"] }`))
	check(t, first.Close())
	second := start(t, testbed.Options{VaultDir: dir})
	policies, err := second.Vault.Client.Sys().ListPoliciesWithContext(t.Context())
	check(t, err)
	if !strings.Contains(strings.Join(policies, " "), "kept") {
		t.Errorf("the second Vault forgot: %q", policies)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Errorf("Close removed the caller's directory: %v %v", entries, err)
	}
}

func TestAuthAndKVAreThere(t *testing.T) {
	bed := start(t, testbed.Options{})
	for _, kind := range []string{"approle", "userpass"} {
		check(t, bed.Vault.Client.Sys().EnableAuthWithOptionsWithContext(t.Context(), kind, &api.EnableAuthOptions{Type: kind}))
	}
	for _, version := range []string{"1", "2"} {
		check(t, bed.Vault.Client.Sys().MountWithContext(t.Context(), "kv"+version,
			&api.MountInput{Type: "kv", Options: map[string]string{"version": version}}))
	}
	check(t, bed.Vault.Client.KVv1("kv1").Put(t.Context(), "db", map[string]any{"username": "u"}))
	secret, err := bed.Vault.Client.KVv1("kv1").Get(t.Context(), "db")
	check(t, err)
	if secret.Data["username"] != "u" {
		t.Errorf("KV has %v", secret.Data)
	}
}
