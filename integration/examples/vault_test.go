package examples_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// The login to Vault is replaced as the credential is.
func TestAppRole(t *testing.T) {
	t.Parallel()
	role := newRole(t)
	id, secretID := appRole(t, role)
	file := filepath.Join(t.TempDir(), "secret-id")
	kit.Check(t, os.WriteFile(file, []byte(secretID), 0o600))
	p := start(t, "approle", []string{
		"VAULT_ADDR=" + shared.Vault.Addr, "ROLE_ID=" + id, "SECRET_ID_FILE=" + file,
		"DATABASE_URL=" + databaseURL(role.CredsPath),
	})
	p.distinct(t, 4, `^logged in as (v-approle-\S+)$`)
	p.stop(t)
	p.only(t, `^logged in as v-approle-`)
	if strings.Contains(strings.Join(p.all(), "\n"), secretID) {
		t.Error("the secret id was printed")
	}
}

// appRole makes one as the example's first lines say, with tokens of seconds.
func appRole(t *testing.T, role *testbed.Role) (id, secretID string) {
	t.Helper()
	sys, logical := shared.Vault.Client.Sys(), shared.Vault.Client.Logical()
	kit.Check(t, sys.EnableAuthWithOptionsWithContext(t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"}))
	kit.Check(t, sys.PutPolicyWithContext(t.Context(), role.Name, role.Policy))
	t.Cleanup(func() {
		kit.Check(t, sys.DisableAuthWithContext(context.Background(), "approle"))
		kit.Check(t, sys.DeletePolicyWithContext(context.Background(), role.Name))
	})
	_, err := logical.WriteWithContext(t.Context(), "auth/approle/role/app", map[string]any{
		"token_policies": role.Name, "token_ttl": "4s", "token_max_ttl": "10s",
	})
	kit.Check(t, err)
	found, err := logical.ReadWithContext(t.Context(), "auth/approle/role/app/role-id")
	kit.Check(t, err)
	made, err := logical.WriteWithContext(t.Context(), "auth/approle/role/app/secret-id", nil)
	kit.Check(t, err)
	id, _ = found.Data["role_id"].(string)
	secretID, _ = made.Data["secret_id"].(string)
	return id, secretID
}

// The password changes, and the session stays.
func TestStaticRole(t *testing.T) {
	t.Parallel()
	role := newRole(t) // its name is unique; nothing is issued by it
	name := "static_" + role.Name
	newUser(t, name, "until Vault changes it")
	definition := shared.Vault.Mount + "/static-roles/" + name
	_, err := shared.Vault.Client.Logical().WriteWithContext(t.Context(), definition, map[string]any{
		"db_name": "postgres", "username": name, "rotation_period": "5s",
	})
	kit.Check(t, err)
	t.Cleanup(func() {
		_, err := shared.Vault.Client.Logical().DeleteWithContext(context.Background(), definition)
		kit.Check(t, err)
	})
	path := shared.Vault.Mount + "/static-creds/" + name
	token, err := shared.Vault.Token(t.Context(), `path "`+path+`" { capabilities = ["read"] }`, time.Hour)
	kit.Check(t, err)

	p := start(t, "staticrole", []string{
		"VAULT_ADDR=" + shared.Vault.Addr, "VAULT_TOKEN=" + token, "DATABASE_URL=" + databaseURL(path),
	})
	p.distinct(t, 3, `msg="new connections log in with another password" generation=(\d+)$`)
	p.stop(t)
	if logins := p.find(`msg="logged in" user=(` + name + `) session=\d+$`); len(logins) != 1 {
		t.Errorf("%d logins, want 1", len(logins))
	}
	p.only(t, `msg="(new connections|logged in)`)
}

// One credential at a time serves the primary and the replica.
func TestReplicas(t *testing.T) {
	t.Parallel()
	role := newRole(t)
	replica, err := shared.PostgresReplica(t.Context())
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, replica.Close(context.Background())) })
	p := start(t, "replicas", append(vaultEnv(t, role),
		"VAULT_PATH="+role.CredsPath, "PRIMARY_URL="+shared.Postgres.URL("app"), "REPLICA_URL="+replica.URL()))
	writing := p.distinct(t, 3, `"logged in","user":"([^"]+)","standby":false`)
	reading := p.distinct(t, 3, `"logged in","user":"([^"]+)","standby":true`)
	for i := range 3 {
		if writing[i] != reading[i] {
			t.Errorf("the primary had %v, the replica %v", writing, reading)
			break
		}
	}
	p.stop(t)
	if failed := p.find(`"msg":"(query)"`); len(failed) > 0 {
		t.Errorf("%d queries failed", len(failed))
	}
}
