package vaultsource_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// hazard 27
func TestLostAnswer(t *testing.T) {
	given := func(f *fixture, address string) *vaultsource.Source {
		client := bed.Vault.ClientWithToken(f.token) // which retries twice, and keeps its connections
		f.must(client.SetAddress(address))
		s, err := vaultsource.New(f.Context(), vaultsource.Config{Path: f.role.CredsPath, Client: client})
		f.must(err)
		return s
	}
	own := func(f *fixture, address string) *vaultsource.Source { return f.sourceAt(address, f.token) }
	for name, build := range map[string]func(*fixture, string) *vaultsource.Source{"client given": given, "client of our own": own} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, testbed.RoleOptions{})
			p := newProxy(t, false)
			s := build(f, p.URL)
			f.issue(s) // so that a connection is used for the second time, where net/http repeats a GET
			f.left(1)
			p.take()
			p.set(lose)
			_, _, err := s.Issue(t.Context())
			f.failed(err, nil, "issue a credential from "+f.role.CredsPath, p.URL, "EOF", "if Vault has made a user all the same")
			if asked := p.take(); len(asked) != 1 {
				t.Errorf("asked %v", asked)
			}
			f.left(2)
			p.set(nil)
			f.issue(s)
			f.left(3)
		})
	}
	t.Run("answer with a fault of the server's", func(t *testing.T) { // which the client would repeat by itself
		f := newFixture(t, testbed.RoleOptions{})
		p := newProxy(t, false)
		p.set(status(http.StatusBadGateway, "bad gateway"))
		_, _, err := given(f, p.URL).Issue(t.Context())
		f.failed(err, nil, "502")
		if asked := p.take(); len(asked) != 1 {
			t.Errorf("asked %v", asked)
		}
		f.left(1)
	})
}

// hazard 48, as far as the source is concerned: an issue in flight is not cancelled.
func TestIssueIsNotCancelled(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	p := newProxy(t, false)
	s := f.sourceAt(p.URL, f.token)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.set(func(*http.Response) error { cancel(); return nil })
	credential, _, err := s.Issue(ctx)
	f.must(err)
	f.secret(credential.Password())
	f.left(1)

	p.take()
	_, _, err = s.Issue(ctx) // nor is one begun that nobody wants
	f.failed(err, nil, f.role.CredsPath)
	if !errors.Is(err, context.Canceled) || len(p.take()) != 0 {
		t.Errorf("got %v", err)
	}
}

func TestVaultDoesNotAnswer(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		s := f.source()
		_, lease := f.issue(s)
		t.Setenv("VAULT_CLIENT_TIMEOUT", "1s")
		impatient := f.source()
		f.must(bed.Vault.Pause())
		resumed := false
		t.Cleanup(func() {
			if !resumed {
				f.must(bed.Vault.Resume())
			}
		})
		_, _, err := impatient.Issue(t.Context()) // bounded by the client, although the context is not
		f.failed(err, nil, bed.Vault.Addr, "no answer in time", "if Vault has made a user all the same")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("not a context.DeadlineExceeded: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = s.Renew(ctx, lease, time.Minute)
		f.failed(err, nil, "renew the lease", "no answer in time")
		if err := s.Revoke(ctx, lease); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("not a context.DeadlineExceeded: %v", err)
		}
		f.must(bed.Vault.Resume())
		resumed = true
		_, err = s.Renew(t.Context(), lease, time.Minute)
		f.must(err)
	})
	t.Run("at all", func(t *testing.T) {
		f := newFixture(t, testbed.RoleOptions{})
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		f.must(err)
		f.must(listener.Close())
		f.secret("user-canary")
		f.secret("password-canary")
		t.Setenv("VAULT_ADDR", "http://user-canary:password-canary@"+listener.Addr().String())
		s := f.sourceAt("", f.token)
		_, _, err = s.Issue(t.Context())
		f.failed(err, nil, "http://"+listener.Addr().String(), "connection refused", "VAULT_ADDR")
		f.failed(s.Revoke(t.Context(), rotation.Lease{ID: "x/y"}), nil, "connection refused")
	})
	t.Run("with the password in the address", func(t *testing.T) { // but then it does
		f := newFixture(t, testbed.RoleOptions{})
		u, err := url.Parse(bed.Vault.Addr)
		f.must(err)
		f.secret("password-canary")
		u.User = url.UserPassword("user", "password-canary")
		t.Setenv("VAULT_ADDR", u.String())
		_, _, err = f.sourceAt("", "hvs.unknown").Issue(t.Context())
		f.failed(err, rotation.ErrDenied, bed.Vault.Addr)
	})
}

func TestTLS(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	p := newProxy(t, true)
	ca := f.caFile(p.Server)

	s := f.sourceAt(p.URL, f.token, func(c *vaultsource.Config) { c.CACert = ca })
	_, issued := f.issue(s)
	f.must(s.Revoke(t.Context(), issued))
	eventually(t, "no connection stays open", func() bool { return p.connections() == 0 })

	t.Setenv("VAULT_CACERT", ca)
	f.issue(f.sourceAt(p.URL, f.token))
	t.Setenv("VAULT_CACERT", "")

	_, _, err := f.sourceAt(p.URL, f.token).Issue(t.Context())
	f.failed(err, nil, p.URL, "x509", "VAULT_CACERT")
	_, _, err = f.sourceAt(strings.Replace(bed.Vault.Addr, "http:", "https:", 1), f.token).Issue(t.Context())
	f.failed(err, nil, "begins with http://")
}

// hazard 27, over HTTP/2
func TestLostAnswerTLS(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	p := newProxy(t, true)
	ca := f.caFile(p.Server)
	s := f.sourceAt(p.URL, f.token, func(c *vaultsource.Config) { c.CACert = ca })
	f.issue(s)
	p.take()
	p.set(lose)
	_, _, err := s.Issue(t.Context())
	f.failed(err, nil, "issue a credential")
	if asked := p.take(); len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
	f.left(2)
}

func TestNothingStaysOpen(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	p := newProxy(t, false)
	s := f.sourceAt(p.URL, f.token)
	_, lease := f.issue(s)
	_, err := s.Renew(t.Context(), lease, time.Minute)
	f.must(err)
	f.must(s.Revoke(t.Context(), lease))
	eventually(t, "no connection stays open", func() bool { return p.connections() == 0 })
}

// VAULT_WRAP_TTL would have Vault put the lease into a wrapping.
func TestAnswersAreNotWrapped(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	t.Setenv("VAULT_WRAP_TTL", "60s")
	f.issue(f.source())
	t.Setenv("VAULT_WRAP_TTL", "") // or it would apply to those who look
	f.left(1)
}

func TestConcurrentUse(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	client := bed.Vault.ClientWithToken(f.token)
	s, err := vaultsource.New(t.Context(), vaultsource.Config{Path: f.role.CredsPath, Client: client})
	f.must(err)
	tokens := []string{f.token, f.newToken(policy(f.role.CredsPath), time.Hour)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			client.SetToken(tokens[i%2]) // as somebody who keeps a login up would
			credential, lease, err := s.Issue(t.Context())
			if err == nil {
				f.secret(credential.Password())
				lease, err = s.Renew(t.Context(), lease, time.Minute)
			}
			if err == nil {
				err = s.Revoke(t.Context(), lease)
			}
			if err != nil {
				t.Error(err)
			}
			f.noSecret(fmt.Sprintf("%v %+v %#v", s, s, s))
		})
	}
	wg.Wait()
	f.left(0)
}
