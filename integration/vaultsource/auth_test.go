package vaultsource_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
	"github.com/hashicorp/vault/api/auth/userpass"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// logins is an auth method that was mounted for one test.
type logins struct {
	*fixture
	mount string
	auth  api.AuthMethod
}

// mount enables an auth method and disables it after the test.
func (f *fixture) mount(kind string) (mount string) {
	f.Helper()
	mount = kind + "-" + f.role.Name
	sys := bed.Vault.Client.Sys()
	f.must(sys.EnableAuthWithOptionsWithContext(f.Context(), mount, &api.EnableAuthOptions{Type: kind}))
	f.Cleanup(func() { f.must(sys.DisableAuthWithContext(context.Background(), mount)) })
	return mount
}

// rules writes a policy and returns its name.
func (f *fixture) rules(hcl string) string {
	f.Helper()
	name := "rules-" + f.role.Name
	f.must(bed.Vault.Client.Sys().PutPolicyWithContext(f.Context(), name, hcl))
	f.Cleanup(func() { f.must(bed.Vault.Client.Sys().DeletePolicyWithContext(context.Background(), name)) })
	return name
}

// appRole makes one whose tokens have these properties, token_ttl and so on.
func (f *fixture) appRole(hcl string, tokens map[string]any) *logins {
	f.Helper()
	mount := f.mount("approle")
	role := "auth/" + mount + "/role/app"
	tokens["token_policies"] = f.rules(hcl)
	f.root(role, tokens)
	id, err := bed.Vault.Client.Logical().ReadWithContext(f.Context(), role+"/role-id")
	f.must(err)
	secret, err := bed.Vault.Client.Logical().WriteWithContext(f.Context(), role+"/secret-id", nil)
	f.must(err)
	f.secret(secret.Data["secret_id"].(string))
	auth, err := approle.NewAppRoleAuth(id.Data["role_id"].(string),
		&approle.SecretID{FromString: secret.Data["secret_id"].(string)}, approle.WithMountPath(mount))
	f.must(err)
	return &logins{f, mount, auth}
}

func (f *fixture) userPass(hcl string) *logins {
	f.Helper()
	mount := f.mount("userpass")
	f.secret("userpass-password-canary")
	f.root("auth/"+mount+"/users/app", map[string]any{"password": "userpass-password-canary", "token_policies": f.rules(hcl)})
	auth, err := userpass.NewUserpassAuth("app", &userpass.Password{FromString: "userpass-password-canary"}, userpass.WithMountPath(mount))
	f.must(err)
	return &logins{f, mount, auth}
}

// at makes a source that logs in at this address.
func (l *logins) at(address string, change ...func(*vaultsource.Config)) *vaultsource.Source {
	l.Helper()
	l.Setenv("VAULT_TOKEN", "")
	config := vaultsource.Config{Path: l.role.CredsPath, Address: address, Auth: l.auth}
	for _, c := range change {
		c(&config)
	}
	s, err := vaultsource.New(l.Context(), config)
	l.must(err)
	l.Cleanup(func() { l.must(s.Close(context.Background())) })
	return s
}

// tokens are those that Vault has from this auth method.
func (l *logins) tokens() (accessors []string) {
	l.Helper()
	list, err := bed.Vault.Client.Logical().ListWithContext(l.Context(), "auth/token/accessors")
	l.must(err)
	keys, _ := list.Data["keys"].([]any)
	for _, key := range keys {
		found, err := bed.Vault.Client.Auth().Token().LookupAccessorWithContext(l.Context(), key.(string))
		if err != nil { // another test's, which has ended meanwhile
			continue
		}
		if path, _ := found.Data["path"].(string); strings.HasPrefix(path, "auth/"+l.mount+"/") {
			accessors = append(accessors, key.(string))
		}
	}
	return accessors
}

func (l *logins) wantTokens(n int) {
	l.Helper()
	if got := l.tokens(); len(got) != n {
		l.Errorf("%d tokens from logins, want %d", len(got), n)
	}
}

func (l *logins) wantNothing() {
	l.Helper()
	eventually(l.T, "no lease, no user and no token is left", func() bool {
		leases, err := l.role.Leases(l.Context())
		l.must(err)
		users, err := l.role.Users(l.Context())
		l.must(err)
		return len(leases) == 0 && len(users) == 0 && len(l.tokens()) == 0
	})
}

func TestLogin(t *testing.T) {
	for kind, open := range map[string]func(f *fixture) *logins{
		"AppRole": func(f *fixture) *logins {
			return f.appRole(policy(f.role.CredsPath), map[string]any{"token_ttl": "1h"})
		},
		"userpass": func(f *fixture) *logins { return f.userPass(policy(f.role.CredsPath)) },
	} {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Minute})
			l, p := open(f), newProxy(t, false)
			s := l.at(p.URL)
			_, lease := f.issue(s)
			f.issue(s)
			l.wantTokens(1)
			asked := strings.Join(p.take(), ", ")
			if n := strings.Count(asked, "/login"); n != 1 || strings.Contains(asked, "lookup-self") {
				t.Errorf("asked %s", asked)
			}
			f.must(s.Check(t.Context(), lease))
			f.must(s.Revoke(t.Context(), lease))
			f.failed(s.Check(t.Context(), lease), rotation.ErrLeaseGone, lease.ID, "invalid lease")
			f.left(1)
			l.wantTokens(1)
			f.must(s.Close(t.Context()))
			l.wantNothing()
			f.must(s.Close(t.Context()))
			_, _, err := s.Issue(t.Context())
			f.failed(err, nil, "closed")
			l.wantTokens(0)
		})
	}
}

func TestLoginIsDenied(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	l := f.userPass(policy(f.role.CredsPath))
	try := func(user, mount, address string) error {
		auth, err := userpass.NewUserpassAuth(user, &userpass.Password{FromString: "wrong-password-canary"}, userpass.WithMountPath(mount))
		f.must(err)
		f.secret("wrong-password-canary")
		l.auth = auth
		_, _, err = l.at(address).Issue(t.Context())
		return err
	}
	f.failed(try("app", l.mount, bed.Vault.Addr), rotation.ErrDenied, "log in with a *userpass.UserpassAuth", "invalid username or password", "still valid")
	f.failed(try("app", "nowhere", bed.Vault.Addr), rotation.ErrDenied, "mount path")
	f.failed(try("app", l.mount, "http://127.0.0.1:1"), nil, "connection refused", "VAULT_ADDR")
	l.wantTokens(0)
}

// A token of our own is renewed with the lease that it would end, which is not shortened for it.
func TestLoginIsRenewed(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	l := f.appRole(policy(f.role.CredsPath), map[string]any{"token_ttl": "4s", "token_max_ttl": "1h"})
	s := l.at(bed.Vault.Addr)
	_, lease := f.issue(s)
	for range 3 {
		if lease.TTL < time.Second || lease.TTL > 5*time.Second || lease.Capped || !lease.Renewable {
			t.Fatalf("the lease: %+v", lease)
		}
		time.Sleep(2 * time.Second) // the token's clock is Vault's
		renewed, err := s.Renew(t.Context(), lease, lease.TTL)
		f.must(err)
		lease = renewed
	}
	l.wantTokens(1)
	found, err := bed.Vault.Client.Sys().LookupWithContext(t.Context(), lease.ID)
	f.must(err)
	if ttl, _ := found.TokenTTL(); ttl < 59*time.Minute {
		t.Errorf("the lease itself was shortened to %v", ttl)
	}
}

// hazard 32: at its token's ceiling a lease is to be replaced; the next one gets a new login, and the old token is
// revoked when nothing hangs from it any more.
func TestLoginAgain(t *testing.T) {
	for name, tokens := range map[string]map[string]any{
		"ceiling": {"token_ttl": "4s", "token_max_ttl": "5s"},
		"batch":   {"token_ttl": "5s", "token_type": "batch"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
			l := f.appRole(policy(f.role.CredsPath), tokens)
			p := newProxy(t, false)
			s := l.at(p.URL)
			_, old := f.issue(s)
			time.Sleep(3 * time.Second)
			old, err := s.Renew(t.Context(), old, old.TTL)
			f.must(err)
			if (name == "ceiling" && !old.Capped) || old.TTL > 3*time.Second {
				t.Errorf("the lease: %+v", old)
			}
			_, next := f.issue(s)
			if next.TTL < 3*time.Second {
				t.Errorf("the next lease: %+v", next)
			}
			if n := strings.Count(strings.Join(p.take(), " "), "/login"); n != 2 {
				t.Errorf("%d logins", n)
			}
			f.must(s.Revoke(t.Context(), old))
			f.left(1)
			if name == "ceiling" {
				l.wantTokens(1)
			}
			f.must(s.Revoke(t.Context(), next))
			f.left(0)
		})
	}
}

// A token of ours that somebody has revoked is replaced in the same call.
func TestLoginRevokedBehindUs(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	l := f.appRole(policy(f.role.CredsPath), map[string]any{"token_ttl": "1h"})
	s := l.at(bed.Vault.Addr)
	_, lease := f.issue(s)
	f.root("auth/token/revoke-accessor", map[string]any{"accessor": l.tokens()[0]})
	_, err := s.Renew(t.Context(), lease, time.Hour)
	f.failed(err, rotation.ErrDenied, "invalid token")
	f.issue(s)
	l.wantTokens(1)
	f.must(s.Revoke(t.Context(), lease))
	f.must(s.Close(t.Context()))
	l.wantNothing()
}

// hazard 54: where leases may not be revoked each has a login of its own and goes with that; it is said at the start.
func TestLoginThatMayNotRevoke(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	l := f.appRole(`path "`+f.role.CredsPath+`" { capabilities = ["read"] }`, map[string]any{"token_ttl": "1h"})
	var log syncBuffer
	s := l.at(bed.Vault.Addr, func(c *vaultsource.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	_, first := f.issue(s)
	if !strings.Contains(log.String(), "may not revoke leases") || !strings.Contains(log.String(), `sys/leases/revoke/`+f.role.CredsPath+`/*`) {
		t.Errorf("logged: %s", log.String())
	}
	_, second := f.issue(s)
	l.wantTokens(2)
	f.must(s.Revoke(t.Context(), first))
	l.wantTokens(1)
	eventually(t, "the first lease is gone", func() bool {
		leases, err := f.role.Leases(t.Context())
		f.must(err)
		return len(leases) == 1 && leases[0] == second.ID
	})
	if _, err := s.Renew(t.Context(), second, time.Hour); err != nil {
		t.Error(err)
	}
	_, third := f.issue(s)
	f.must(s.Revoke(t.Context(), third)) // the newest, which a failed proof gives back
	_, fourth := f.issue(s)
	f.must(s.Revoke(t.Context(), second))
	f.must(s.Revoke(t.Context(), fourth))
	l.wantNothing()
}

// The same where only a refusal shows it.
func TestLoginThatMayNotRevokeAfterAll(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	l := f.appRole(`path "`+f.role.CredsPath+`" { capabilities = ["read"] }`, map[string]any{"token_ttl": "1h"})
	p := newProxy(t, false)
	p.set(only("sys/capabilities-self", status(http.StatusServiceUnavailable, "Vault is sealed")))
	s := l.at(p.URL)
	_, first := f.issue(s)
	_, second := f.issue(s) // on the same token
	f.failed(s.Revoke(t.Context(), first), rotation.ErrDenied, "sys/leases/revoke")
	_, third := f.issue(s)
	f.must(s.Revoke(t.Context(), third))
	f.must(s.Close(t.Context()))
	f.must(s.Revoke(t.Context(), first)) // went with its token
	f.must(s.Revoke(t.Context(), second))
	l.wantNothing()
}

// Tokens that are given: kept alive where they can be, and left alone at the end.
func TestGivenTokens(t *testing.T) {
	with := func(change func(*api.TokenCreateRequest)) func(*api.TokenCreateRequest) { return change }
	for name, test := range map[string]struct {
		option func(*api.TokenCreateRequest)
		lives  bool // beyond its first end
		warns  bool
	}{
		"renewable":        {with(func(*api.TokenCreateRequest) {}), true, false},
		"periodic":         {with(func(r *api.TokenCreateRequest) { r.TTL, r.Period = "", "5s" }), true, false},
		"child":            {with(func(r *api.TokenCreateRequest) { r.NoParent = false }), true, false},
		"explicit ceiling": {with(func(r *api.TokenCreateRequest) { r.ExplicitMaxTTL = "5s" }), false, false},
		"not renewable":    {notRenewable, false, true},
		"batch":            {with(func(r *api.TokenCreateRequest) { r.Type = "batch" }), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
			var log syncBuffer
			token := f.newToken(policy(f.role.CredsPath), 5*time.Second, test.option)
			s := f.sourceAt(bed.Vault.Addr, token, func(c *vaultsource.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			begin := time.Now()
			_, lease := f.issue(s)
			for lease.TTL > 0 && time.Since(begin) < 8*time.Second {
				if lease.TTL > 6*time.Second { // from before the first of its requests
					t.Fatalf("%+v outlives its token", lease)
				}
				time.Sleep(lease.TTL / 2)
				renewed, err := s.Renew(t.Context(), lease, time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				if lease = renewed; lease.Capped {
					break
				}
			}
			late := name == "explicit ceiling" && lease.TTL < time.Second
			if lived := !lease.Capped; lived != test.lives || late {
				t.Errorf("%+v after %v", lease, time.Since(begin))
			}
			if warned := strings.Contains(log.String(), "cannot be renewed"); warned != test.warns {
				t.Errorf("warned %t: %s", warned, log.String())
			}
			f.noSecret(log.String())
			f.must(s.Close(t.Context()))
			if test.lives {
				f.must(s.Revoke(t.Context(), lease)) // it is not ours to end
			}
		})
	}
}

// What a crash leaves is gone after LeaseTTL: the lease is shortened as soon as it is there, and kept short.
func TestLeaseTTL(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	s := f.source(func(c *vaultsource.Config) { c.LeaseTTL = 3 * time.Second })
	_, lease := f.issue(s)
	for range 2 {
		if lease.TTL != 3*time.Second || lease.Capped || !lease.Renewable {
			t.Fatalf("%+v", lease)
		}
		time.Sleep(time.Second)
		renewed, err := s.Renew(t.Context(), lease, lease.TTL)
		f.must(err)
		lease = renewed
	}
	begin := time.Now() // and here the process dies
	eventually(t, "the lease and its user are gone", func() bool {
		leases, err := f.role.Leases(t.Context())
		f.must(err)
		users, err := f.role.Users(t.Context())
		f.must(err)
		return len(leases) == 0 && len(users) == 0
	})
	t.Logf("gone %v after the crash", time.Since(begin).Round(10*time.Millisecond))
}

// hazard 48: a source that is closed while a credential is being made gives the login back when the read is over, and
// what it has made with it.
func TestCloseWhileIssuing(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{
		DefaultTTL: time.Hour,
		Create:     []string{`SELECT pg_sleep(2); CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`},
		Revoke:     []string{`DROP ROLE IF EXISTS "{{name}}"`},
	})
	l := f.appRole(policy(f.role.CredsPath), map[string]any{"token_ttl": "1h"})
	p := newProxy(t, false)
	s := l.at(p.URL)
	issued := make(chan error, 1)
	go func() {
		_, _, err := s.Issue(context.Background())
		issued <- err
	}()
	eventually(t, "the read is on its way", func() bool {
		return strings.Contains(strings.Join(p.take(), " "), "/v1/"+f.role.CredsPath)
	})
	f.must(s.Close(t.Context()))
	l.wantTokens(1)
	if err := <-issued; err != nil { // either is right
		t.Log(err)
	}
	l.wantNothing()
}

// Two leases of a token that somebody has revoked went with it.
func TestLoginRevokedWithTwoLeases(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	l := f.appRole(`path "`+f.role.CredsPath+`" { capabilities = ["read"] }`, map[string]any{"token_ttl": "1h"})
	p := newProxy(t, false)
	p.set(only("sys/capabilities-self", status(http.StatusServiceUnavailable, "Vault is sealed")))
	s := l.at(p.URL)
	_, one := f.issue(s)
	_, two := f.issue(s)
	f.root("auth/token/revoke-accessor", map[string]any{"accessor": l.tokens()[0]})
	_, three := f.issue(s)
	f.must(s.Revoke(t.Context(), one))
	f.must(s.Revoke(t.Context(), two))
	f.must(s.Revoke(t.Context(), three))
	l.wantNothing()
}
