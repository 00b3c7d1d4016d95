package vaultsource_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// expiry asks Vault, whose clock is ours, when a token ends.
func (f *fixture) expiry(token string) time.Time {
	f.Helper()
	secret, err := bed.Vault.Client.Auth().Token().LookupWithContext(f.Context(), token)
	f.must(err)
	text, _ := secret.Data["expire_time"].(string)
	end, err := time.Parse(time.RFC3339Nano, text)
	f.must(err)
	return end
}

// hazard 31
func TestTokenEndsFirst(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour})

	t.Run("never later than the truth", func(t *testing.T) {
		// Vault rounds, so it depends on where in a second the token ends and where it is looked up.
		for i := range 12 {
			token := f.newToken(policy(f.role.CredsPath), time.Minute, notRenewable)
			time.Sleep(time.Duration(i%4) * 90 * time.Millisecond)
			s := f.sourceAt(bed.Vault.Addr, token)
			before := time.Now()
			_, lease := f.issue(s)
			end := f.expiry(token)
			if by := before.Add(lease.TTL); by.After(end) || by.Before(end.Add(-3*time.Second)) {
				t.Errorf("the lease is said to end %v after its token", by.Sub(end))
			}
			if !lease.Capped {
				t.Errorf("a token that cannot be renewed is a ceiling: %+v", lease)
			}
			before = time.Now()
			renewed, err := s.Renew(t.Context(), lease, 2*time.Hour)
			f.must(err)
			if by := before.Add(renewed.TTL); by.After(end) || !renewed.Capped {
				t.Errorf("renewed: %+v, %v after the end of its token", renewed, by.Sub(end))
			}
		}
	})
	t.Run("somebody renews the token", func(t *testing.T) {
		token := f.newToken(policy(f.role.CredsPath), time.Minute)
		s := f.sourceAt(bed.Vault.Addr, token)
		_, lease := f.issue(s)
		if lease.TTL > time.Minute || lease.Capped {
			t.Errorf("issued %+v", lease)
		}
		f.root("auth/token/renew", map[string]any{"token": token, "increment": "10m"})
		before := time.Now()
		renewed, err := s.Renew(t.Context(), lease, time.Hour)
		f.must(err)
		end := f.expiry(token)
		if by := before.Add(renewed.TTL); by.After(end) || by.Before(end.Add(-3*time.Second)) || renewed.Capped {
			t.Errorf("%+v, which is %v after the end of its token", renewed, by.Sub(end))
		}
	})
	t.Run("a batch token", func(t *testing.T) {
		token := f.newToken(policy(f.role.CredsPath), time.Minute, func(r *api.TokenCreateRequest) { r.Type = "batch" })
		s := f.sourceAt(bed.Vault.Addr, token)
		if _, lease := f.issue(s); lease.TTL > time.Minute || !lease.Capped {
			t.Errorf("issued %+v", lease)
		}
	})
	t.Run("the lease is gone when we say so", func(t *testing.T) {
		token := f.newToken(policy(f.role.CredsPath), 3*time.Second, notRenewable)
		s := f.sourceAt(bed.Vault.Addr, token)
		begin := time.Now()
		_, lease := f.issue(s)
		for { // it is Vault that ends it
			leases, err := f.role.Leases(t.Context())
			f.must(err)
			if !slices.Contains(leases, lease.ID) {
				break
			}
			if time.Since(begin) > time.Minute {
				t.Fatal("the lease outlives its token")
			}
			time.Sleep(20 * time.Millisecond)
		}
		if early := time.Since(begin); lease.TTL > early {
			t.Errorf("gone after %v, said to last %v", early, lease.TTL)
		}
	})
}

func TestTokenIsLookedUpSparingly(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Minute, MaxTTL: 24 * time.Hour})
	p := newProxy(t, false)
	creds, renew, lookup := "GET /v1/"+f.role.CredsPath, "PUT /v1/sys/leases/renew", "GET /v1/auth/token/lookup-self"
	rights := "POST /v1/sys/capabilities-self" // once for each token
	expect := func(want ...string) {
		t.Helper()
		if got := strings.Join(p.take(), ", "); got != strings.Join(want, ", ") {
			t.Errorf("asked %s\nwant %s", got, strings.Join(want, ", "))
		}
	}
	renewFor := func(s *vaultsource.Source, lease rotation.Lease, d time.Duration) rotation.Lease {
		t.Helper()
		lease, err := s.Renew(t.Context(), lease, d)
		f.must(err)
		return lease
	}

	s := f.sourceAt(p.URL, f.token) // one hour
	_, lease := f.issue(s)
	expect(creds, rights, lookup)
	f.issue(s)
	expect(creds)
	renewFor(s, lease, 30*time.Minute)
	expect(renew)
	if lease = renewFor(s, lease, 2*time.Hour); lease.TTL > time.Hour {
		t.Errorf("%+v, although the token has an hour", lease)
	}
	expect(renew, lookup)

	root := f.sourceAt(p.URL, bed.Vault.RootToken)
	_, lease = f.issue(root)
	expect(creds, rights, lookup)
	if lease = renewFor(root, lease, 20*time.Hour); lease.TTL != 20*time.Hour || lease.Capped {
		t.Errorf("a root token has no end: %+v", lease)
	}
	expect(renew)

	// A fault while the token is looked up costs no credential.
	p.set(only("auth/token/lookup-self", status(http.StatusServiceUnavailable, "Vault is sealed")))
	hurt := f.sourceAt(p.URL, f.newToken(policy(f.role.CredsPath), time.Hour))
	if _, lease = f.issue(hurt); lease.TTL != time.Minute {
		t.Errorf("issued %+v", lease)
	}
	expect(creds, rights, lookup)
	p.set(nil)
	f.issue(hurt)
	expect(creds, lookup)
}

func TestTokenMayNotLookItselfUp(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	p := newProxy(t, false)
	var log syncBuffer
	token := f.newToken(policy(f.role.CredsPath), time.Minute, withoutDefaultPolicy)
	s := f.sourceAt(p.URL, token, func(c *vaultsource.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 3 {
		if _, lease := f.issue(s); lease.TTL != time.Hour || lease.Capped {
			t.Errorf("issued %+v", lease)
		}
	}
	if got := strings.Count(log.String(), "may not look itself up"); got != 1 {
		t.Errorf("logged %d times: %s", got, log.String())
	}
	if !strings.Contains(log.String(), "auth/token/lookup-self") {
		t.Errorf("the log does not say what to allow: %s", log.String())
	}
	f.noSecret(log.String())
	if got := len(p.take()); got != 5 {
		t.Errorf("%d requests, want three reads, one lookup and one question what is allowed", got)
	}
}

// syncBuffer may be written to by several goroutines.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
