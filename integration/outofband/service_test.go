package outofband_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// setup says what a test's service is like. The zero value is useful: a dynamic role with leases of an hour.
type setup struct {
	poolOptions
	role   testbed.RoleOptions
	path   string // to read, instead of a role made for the test
	params string // more of them

	policy func(string) string // what the token may do, instead of what it is given
	token  func(*api.TokenCreateRequest)
}

// service is a program with a pool, and a token that may do what the pool needs and no more.
type service struct {
	pool
	db     database
	role   *testbed.Role // nil where there are no leases
	path   string
	policy string
	set    setup
	vault  *kit.VaultProxy // between the pool and Vault
	events *kit.Recorder

	token, tokenFile string
}

// open opens a pool. At the end of the test it is closed, and nothing of a role may be left.
func open(t *testing.T, db database, set setup) *service {
	t.Helper()
	s := &service{db: db, set: set, path: set.path, events: kit.NewRecorder(), vault: kit.NewVaultProxy(t, bed.Vault.Addr)}
	s.policy = `path "` + s.path + `" { capabilities = ["read"] }`
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	var err error
	if s.path == "" {
		s.role, err = db.role(ctx, set.role)
		kit.Check(t, err)
		s.path, s.policy = s.role.CredsPath, s.role.Policy
	}
	if set.policy != nil {
		s.policy = set.policy(s.policy)
	}
	s.tokenFile = filepath.Join(t.TempDir(), "token")
	s.giveToken(t, s.newToken(t))
	if set.maxConns == 0 {
		set.maxConns = 4
	}
	if set.rotation.IssueInterval == 0 { // one round follows the other
		set.rotation.IssueInterval = time.Millisecond
	}
	params := "vault_path=" + s.path + "&vault_addr=" + s.vault.URL + "&vault_token_file=" + url.QueryEscape(s.tokenFile)
	if set.params != "" {
		params += "&" + set.params
	}
	s.pool, err = db.open(ctx, params, set.poolOptions)
	kit.Check(t, err)
	s.Rotator().Subscribe(s.events.Add)
	t.Cleanup(func() { s.shut(t) })
	if set.warm {
		kit.Eventually(t, "all connections open", func(context.Context) bool { return s.isWarm(set.maxConns) })
	}
	return s
}

// shut closes the pool and looks for what is left.
func (s *service) shut(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), kit.Patience)
	defer cancel()
	if err := s.close(ctx); err != nil {
		t.Errorf("closing: %v", err)
	}
	if s.role == nil {
		return
	}
	if leases, err := s.role.Leases(ctx); err != nil || len(leases) > 0 {
		t.Errorf("left in Vault: leases %v (error %v)", leases, err)
	}
	if users, err := s.role.Users(ctx); err != nil || len(users) > 0 {
		t.Errorf("left in the database: users %v (error %v)", users, err)
	}
}

// newToken makes another token of the same kind.
func (s *service) newToken(t *testing.T) string {
	t.Helper()
	options := []func(*api.TokenCreateRequest){}
	if s.set.token != nil {
		options = append(options, s.set.token)
	}
	token, err := bed.Vault.Token(t.Context(), s.policy, time.Hour, options...)
	kit.Check(t, err)
	return token
}

// giveToken puts a token where the pool finds it, as a Vault Agent does.
func (s *service) giveToken(t *testing.T, token string) {
	t.Helper()
	kit.Check(t, os.WriteFile(s.tokenFile+".new", []byte(token), 0o600))
	kit.Check(t, os.Rename(s.tokenFile+".new", s.tokenFile))
	s.token = token
}

func (s *service) status() rotation.Status { return s.Rotator().Status() }

// issues counts how often Vault was asked for a credential.
func (s *service) issues() int { return len(s.vault.Asked(s.path)) }

// checks counts how often it was asked whether a lease exists.
func (s *service) checks() int { return len(s.vault.Asked("sys/leases/lookup")) }

// published counts rotations, those after the subscription.
func (s *service) published() int { return len(s.events.Of(rotation.Published, 0)) }

// lease returns the only lease there is.
func (s *service) lease(t *testing.T) string {
	t.Helper()
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	if len(leases) != 1 {
		t.Fatalf("there are %d leases, not 1", len(leases))
	}
	return leases[0]
}

// revokeLease does what an operator does. It returns when the user is dropped.
func (s *service) revokeLease(t *testing.T) {
	t.Helper()
	kit.Check(t, bed.Vault.Client.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: s.lease(t), Sync: true}))
}

// noLeaseTouched fails the test if a lease was renewed, revoked or looked up, where there is none.
func (s *service) noLeaseTouched(t *testing.T) {
	t.Helper()
	if n := len(s.vault.Asked("sys/leases")); n > 0 {
		t.Errorf("%d requests about leases, where there is none", n)
	}
	s.events.None(t, rotation.Renewed, rotation.RenewFailed, rotation.Revoked, rotation.RevokeFailed, rotation.LeaseChecked)
}

// who returns a connection's id at the server, and its user.
func who(t *testing.T, h held) (id int, user string) {
	t.Helper()
	id, user, err := h.id(t.Context())
	kit.Check(t, err)
	return id, user
}

// whoIsNew returns the user that a new connection logs in as.
func (s *service) whoIsNew(t *testing.T) string {
	t.Helper()
	kit.Check(t, s.reconnect(t.Context()))
	h, err := s.hold(t.Context())
	kit.Check(t, err)
	defer h.release()
	_, user := who(t, h)
	return user
}

// uniqueName is for what outlives no test, on servers that others may use too.
func uniqueName() string { return "oob_" + strings.ToLower(rand.Text()[:10]) }
