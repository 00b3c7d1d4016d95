package vaultsource_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

func TestLifeOfALease(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: 30 * time.Second, MaxTTL: time.Hour})
	s := f.source()

	credential, lease := f.issue(s)
	want := rotation.Lease{ID: lease.ID, TTL: 30 * time.Second, Renewable: true, Revocable: true}
	if lease != want || !strings.HasPrefix(lease.ID, f.role.CredsPath+"/") {
		t.Errorf("issued %+v", lease)
	}
	conn, err := pgx.Connect(t.Context(), bed.Postgres.URLFor(credential.Username(), credential.Password()))
	f.must(err)
	f.must(conn.Close(t.Context()))
	f.left(1)

	renewed, err := s.Renew(t.Context(), lease, 90*time.Second)
	f.must(err)
	if want.TTL = 90 * time.Second; renewed != want {
		t.Errorf("renewed %+v, want %+v", renewed, want)
	}

	// When Revoke returns the user is gone, not merely on a list.
	f.must(s.Revoke(t.Context(), renewed))
	f.left(0)
	f.must(s.Revoke(t.Context(), renewed)) // as is one that was gone before
	f.failed(s.Revoke(t.Context(), rotation.Lease{}), rotation.ErrInvalid, "no id")
}

// The role in the package's documentation, with Vault's own statements to revoke it.
func TestDocumentedRole(t *testing.T) {
	const group = "app_rw"
	f := newFixture(t, testbed.RoleOptions{
		Create: []string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE ` + group},
		Revoke: []string{},
	})
	f.must(bed.Postgres.Exec(t.Context(), `CREATE ROLE `+group+`; GRANT SELECT ON items TO `+group))
	t.Cleanup(func() { f.must(bed.Postgres.Exec(context.Background(), `DROP OWNED BY `+group+`; DROP ROLE `+group)) })
	s := f.source()
	credential, lease := f.issue(s)
	conn, err := pgx.Connect(t.Context(), bed.Postgres.URLFor(credential.Username(), credential.Password()))
	f.must(err)
	_, err = conn.Exec(t.Context(), "SELECT * FROM items")
	f.must(err)
	_, err = s.Renew(t.Context(), lease, time.Minute)
	f.must(err)
	f.must(s.Revoke(t.Context(), lease)) // under a live session
	f.left(0)
	f.must(conn.Close(t.Context()))
}

func TestAnyMountPath(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	ctx, vault := t.Context(), bed.Vault.Client
	const mount = "team/pg-7"
	f.must(vault.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "database"}))
	t.Cleanup(func() { f.must(vault.Sys().UnmountWithContext(context.Background(), mount)) })
	f.root(mount+"/config/pg", map[string]any{
		"plugin_name": "postgresql-database-plugin", "connection_url": bed.Postgres.SuperURL, "allowed_roles": "user-read",
	})
	f.root(mount+"/roles/user-read", map[string]any{
		"db_name": "pg", "default_ttl": "1m",
		"creation_statements": `CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
	})
	s := f.sourceAt(bed.Vault.Addr, f.newToken(policy(mount+"/creds/user-read"), time.Hour), func(c *vaultsource.Config) {
		c.Path = "/" + mount + "/creds/user-read/"
	})
	_, lease := f.issue(s)
	if _, err := s.Renew(ctx, lease, time.Minute); err != nil {
		t.Error(err)
	}
	f.must(s.Revoke(ctx, lease))
}

// The engine finds hazard 19's ceiling by what is returned here.
func TestRenewalAtTheCeiling(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: 5 * time.Second, MaxTTL: 10 * time.Second})
	s := f.source()
	_, lease := f.issue(s)
	if lease.Capped {
		t.Errorf("capped from the beginning: %+v", lease)
	}
	renewed, err := s.Renew(t.Context(), lease, 30*time.Second)
	f.must(err)
	if !renewed.Capped || renewed.TTL > 10*time.Second {
		t.Errorf("30 s of at most 10: %+v", renewed)
	}

	f.must(f.role.Update(t.Context(), testbed.RoleOptions{DefaultTTL: 20 * time.Second, MaxTTL: 10 * time.Second}))
	if _, lease = f.issue(s); !lease.Capped || lease.TTL > 10*time.Second {
		t.Errorf("issued at the ceiling: %+v", lease)
	}
}

// hazard 21
func TestLeaseGone(t *testing.T) {
	t.Run("revoked behind our back", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		s := f.source()
		_, lease := f.issue(s)
		f.revokeAsRoot(lease.ID)
		_, err := s.Renew(t.Context(), lease, time.Minute)
		f.failed(err, rotation.ErrLeaseGone, "renew the lease "+lease.ID, "lease not found", bed.Vault.Addr)
		f.answered(err, http.StatusBadRequest)
	})
	t.Run("past its ceiling", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Second, MaxTTL: 3 * time.Second})
		s := f.source()
		_, lease := f.issue(s)
		for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			_, err := s.Renew(t.Context(), lease, 2*time.Second)
			if err != nil { // which of three texts it is depends on the moment
				f.failed(err, rotation.ErrLeaseGone)
				break
			}
			if time.Since(begin) > time.Minute {
				t.Fatal("still renewed long after max_ttl")
			}
		}
	})
}

// hazard 22, and the same fault for the other two requests
func TestDatabaseFault(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	s := f.source()
	_, lease := f.issue(s)
	f.must(bed.Postgres.Stop(t.Context()))
	stopped := true
	t.Cleanup(func() {
		if stopped {
			f.must(bed.Postgres.Restart(context.Background()))
		}
	})

	_, err := s.Renew(t.Context(), lease, time.Minute)
	f.failed(err, nil, "renew the lease", "connect")
	f.answered(err, http.StatusBadRequest)
	_, _, err = s.Issue(t.Context())
	f.failed(err, nil, "issue a credential", "connect")
	f.answered(err, http.StatusInternalServerError)
	err = s.Revoke(t.Context(), lease)
	f.failed(err, nil, "revoke the lease", "connect")
	f.answered(err, http.StatusBadRequest)

	f.must(bed.Postgres.Restart(t.Context()))
	stopped = false
	_, err = s.Renew(t.Context(), lease, time.Minute)
	f.must(err)
	f.must(s.Revoke(t.Context(), lease))
	f.left(0)
}

// hazard 23: here only that a refusal is told from a lease that is gone
func TestRenewalDenied(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	allowed := f.source()
	_, lease := f.issue(allowed)

	denied := f.sourceAt(bed.Vault.Addr, f.newToken(policy(f.role.CredsPath), time.Hour, withoutDefaultPolicy))
	_, err := denied.Renew(t.Context(), lease, time.Minute)
	f.failed(err, rotation.ErrDenied, `path "sys/leases/renew" { capabilities = ["update"] }`)
	f.answered(err, http.StatusForbidden)

	f.root("auth/token/revoke", map[string]any{"token": f.token})
	_, err = allowed.Renew(t.Context(), lease, time.Minute)
	f.failed(err, rotation.ErrDenied, "the token has ended, was revoked")
	_, _, err = allowed.Issue(t.Context())
	f.failed(err, rotation.ErrDenied, "the token has ended, was revoked")
}

// hazard 24
func TestEmptyAnswer(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	p := newProxy(t, false)
	s := f.sourceAt(p.URL, f.token)
	_, lease := f.issue(s)
	p.set(empty)
	renewed, err := s.Renew(t.Context(), lease, time.Minute)
	if renewed != (rotation.Lease{}) {
		t.Errorf("renewed %+v", renewed)
	}
	f.failed(err, nil, "renew the lease", "the answer is empty")
	_, _, err = s.Issue(t.Context())
	f.failed(err, nil, "issue a credential", "the answer is empty")
}

// hazard 25: what the engine needs to be told
func TestVaultRefusesForNow(t *testing.T) {
	t.Run("sealed", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		s := f.source()
		_, lease := f.issue(s)
		f.must(bed.Vault.Seal(t.Context()))
		unseal := func() error { return bed.Vault.Unseal(context.Background()) }
		t.Cleanup(func() { f.must(unseal()) })

		_, _, err := s.Issue(t.Context())
		f.failed(err, nil, "issue a credential from "+f.role.CredsPath, bed.Vault.Addr, "503", "Vault is sealed")
		f.answered(err, http.StatusServiceUnavailable)
		_, err = s.Renew(t.Context(), lease, time.Minute)
		f.failed(err, nil, "renew the lease", "Vault is sealed")
		f.failed(s.Revoke(t.Context(), lease), nil, "revoke the lease", "Vault is sealed")

		f.must(unseal())
		for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) { // it takes a moment to restore its leases
			if _, err = s.Renew(t.Context(), lease, time.Minute); err == nil {
				break
			}
			if time.Since(begin) > time.Minute {
				t.Fatal(err)
			}
		}
	})
	t.Run("quota", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		f.root("sys/quotas/config", map[string]any{"enable_rate_limit_response_headers": true})
		quota := "sys/quotas/rate-limit/" + f.role.Name
		f.root(quota, map[string]any{"path": f.role.CredsPath, "rate": 1, "interval": "1h"})
		t.Cleanup(func() {
			_, err := bed.Vault.Client.Logical().DeleteWithContext(context.Background(), quota)
			f.must(err)
		})
		p := newProxy(t, false)
		s := f.sourceAt(p.URL, f.token)
		f.issue(s)
		p.take()
		_, _, err := s.Issue(t.Context())
		f.failed(err, nil, "429", "rate limit quota exceeded")
		f.answered(err, http.StatusTooManyRequests)
		if after := retryAfter(err); after < 50*time.Minute || after > time.Hour {
			t.Errorf("RetryAfter() = %v, although Vault wants an hour", after)
		}
		if asked := p.take(); len(asked) != 1 {
			t.Errorf("asked %v", asked)
		}
		f.left(1)
	})
	t.Run("not yet consistent", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		p := newProxy(t, false)
		p.set(status(http.StatusPreconditionFailed, "required index state not present"))
		_, _, err := f.sourceAt(p.URL, f.token).Issue(t.Context())
		f.failed(err, nil, "412", "required index state not present")
		if asked := p.take(); len(asked) != 1 {
			t.Errorf("asked %v", asked)
		}
	})
}

// hazard 33
func TestRevocationFails(t *testing.T) {
	t.Run("denied", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		token := f.newToken(`path "`+f.role.CredsPath+`" { capabilities = ["read"] }`, time.Hour)
		s := f.sourceAt(bed.Vault.Addr, token)
		_, lease := f.issue(s)
		err := s.Revoke(t.Context(), lease)
		line := `path "sys/leases/revoke/` + f.role.CredsPath + `/*" { capabilities = ["update"] }`
		f.failed(err, rotation.ErrDenied, "revoke the lease "+lease.ID, line)
		f.answered(err, http.StatusForbidden)
		f.left(1)

		// The line in the error is the one that was missing.
		granted := f.newToken(line, time.Hour)
		f.must(f.sourceAt(bed.Vault.Addr, granted).Revoke(t.Context(), lease))
		f.left(0)
	})
	t.Run("the user owns something", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		s := f.source()
		credential, lease := f.issue(s)
		schema := "owned_by_" + f.role.Name
		f.must(bed.Postgres.Exec(t.Context(), `CREATE SCHEMA `+schema+` AUTHORIZATION "`+credential.Username()+`"`))
		err := s.Revoke(t.Context(), lease)
		f.failed(err, nil, "revoke the lease", "cannot be dropped because some objects depend on it", "2BP01")
		f.answered(err, http.StatusBadRequest)
		f.left(1)
		f.must(bed.Postgres.Exec(t.Context(), `DROP SCHEMA `+schema))
		f.must(s.Revoke(t.Context(), lease))
		f.left(0)
	})
}

func TestNoSuchRole(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	mount := strings.TrimSuffix(f.role.CredsPath, "/creds/"+f.role.Name)
	at := func(path string) error {
		s := f.sourceAt(bed.Vault.Addr, f.newToken(policy(path), time.Hour), func(c *vaultsource.Config) { c.Path = path })
		_, _, err := s.Issue(t.Context())
		return err
	}
	t.Run("unknown role", func(t *testing.T) {
		err := at(mount + "/creds/nobody")
		f.failed(err, rotation.ErrInvalid, mount+"/creds/nobody", bed.Vault.Addr, "unknown role: nobody", "the role does not exist")
		f.answered(err, http.StatusBadRequest)
	})
	t.Run("nothing mounted", func(t *testing.T) {
		err := at("no-such-mount/creds/app")
		f.failed(err, rotation.ErrInvalid, "no-such-mount/creds/app", "no handler for route", "nothing is mounted there")
		f.answered(err, http.StatusNotFound)
	})
	t.Run("not a path of the engine", func(t *testing.T) {
		f.failed(at(mount+"/crds/app"), rotation.ErrInvalid, "unsupported path", "mount, creds and role")
	})
	t.Run("no such connection", func(t *testing.T) {
		f.root(mount+"/roles/dangling", map[string]any{"db_name": "nowhere", "creation_statements": "SELECT 1"})
		f.failed(at(mount+"/creds/dangling"), rotation.ErrInvalid, "db_name")
	})
	t.Run("path that no policy names", func(t *testing.T) {
		_, _, err := f.source(func(c *vaultsource.Config) { c.Path = mount + "/creds/other" }).Issue(t.Context())
		f.failed(err, rotation.ErrDenied, `path "`+mount+`/creds/other" { capabilities = ["read"] }`, "misspelt")
		f.answered(err, http.StatusForbidden)
	})
	t.Run("role itself rather than its creds", func(t *testing.T) {
		f.failed(at(mount+"/roles/"+f.role.Name), rotation.ErrInvalid, "no text in its fields username and password", "creation_statements, ", "default_ttl")
	})
}

// An answer with a lease and without a password leaves nothing behind.
func TestUnusableAnswer(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	p := newProxy(t, false)
	p.set(only(f.role.CredsPath, without("password")))

	_, _, err := f.sourceAt(p.URL, f.token).Issue(t.Context())
	f.failed(err, rotation.ErrInvalid, "no text in its fields username and password, but these fields: username")
	f.left(0)

	token := f.newToken(`path "`+f.role.CredsPath+`" { capabilities = ["read"] }`, time.Hour)
	_, _, err = f.sourceAt(p.URL, token).Issue(t.Context())
	if err == nil || !strings.Contains(err.Error(), "its lease could not be given back") {
		t.Errorf("got %v", err)
	}
	f.left(1)
}

func TestTokenFile(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	file := t.TempDir() + "/sink"
	f.must(os.WriteFile(file, []byte(f.token+"\n"), 0o600))
	s := f.sourceAt(bed.Vault.Addr, "not this one", func(c *vaultsource.Config) { c.TokenFile = file })
	_, lease := f.issue(s)
	if lease.Capped {
		t.Errorf("issued %+v", lease)
	}

	next := f.newToken(policy(f.role.CredsPath), time.Hour)
	f.must(os.WriteFile(file, []byte(next), 0o600))
	renewed, err := s.Renew(t.Context(), lease, time.Minute)
	f.must(err)
	if !renewed.Capped {
		t.Errorf("the lease of a token that was replaced will not last: %+v", renewed)
	}
	_, second := f.issue(s)
	f.root("auth/token/revoke", map[string]any{"token": f.token}) // and its lease
	if second, err = s.Renew(t.Context(), second, time.Minute); err != nil || second.Capped {
		t.Errorf("the lease of the new token: %+v, %v", second, err)
	}
}
