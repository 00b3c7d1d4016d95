package vaultsource_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// autoAuth stands for a Vault Proxy with use_auto_auth_token: it adds a token to requests that have none. It remembers
// the namespaces and takes them off, since this Vault has none.
type autoAuth struct {
	http.Handler

	mu         sync.Mutex
	token      string
	namespaces []string
	asked      []string
}

func newAutoAuth(t *testing.T, token string) *autoAuth {
	t.Helper()
	target, err := url.Parse(bed.Vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	a := &autoAuth{token: token}
	transport := &http.Transport{DisableKeepAlives: true}
	a.Handler = &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, r.In.Method+" "+r.In.URL.Path)
		a.namespaces = append(a.namespaces, r.In.Header.Get("X-Vault-Namespace"))
		r.Out.Header.Del("X-Vault-Namespace")
		if r.In.Header.Get("X-Vault-Token") == "" && a.token != "" {
			r.Out.Header.Set("X-Vault-Token", a.token)
		}
	}}
	return a
}

func (a *autoAuth) set(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = token
}

// onSocket serves on a unix socket, whose address it returns.
func (a *autoAuth) onSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vp") // short: a socket's path may have some 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
	return "unix://" + socket
}

// A Proxy on a unix socket that adds its own token: from the environment, as a parameter, and as a client that was
// given. Nobody else needs one, and nobody renews what is the Proxy's.
func TestProxyOnASocket(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	given := func(address string) *api.Client {
		c := api.DefaultConfig()
		c.Address = address
		client, err := api.NewClient(c)
		f.must(err)
		client.ClearToken()
		return client
	}
	for name, configure := range map[string]func(t *testing.T, address string, c *vaultsource.Config){
		"VAULT_AGENT_ADDR": func(t *testing.T, address string, _ *vaultsource.Config) {
			t.Helper()
			t.Setenv("VAULT_AGENT_ADDR", address)
		},
		"address": func(_ *testing.T, address string, c *vaultsource.Config) { c.Address = address },
		"client":  func(_ *testing.T, address string, c *vaultsource.Config) { c.Client = given(address) },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAutoAuth(t, f.newToken(policy(f.role.CredsPath), 10*time.Second))
			t.Setenv("VAULT_TOKEN", "")
			config := vaultsource.Config{Path: f.role.CredsPath}
			configure(t, a.onSocket(t), &config)
			s, err := vaultsource.New(t.Context(), config)
			f.must(err)
			_, lease := f.issue(s)
			if lease.TTL > 11*time.Second || lease.Capped {
				t.Errorf("%+v, although the Proxy's token ends in 10 s", lease)
			}
			time.Sleep(2 * time.Second)
			renewed, err := s.Renew(t.Context(), lease, time.Hour)
			f.must(err)
			if renewed.TTL > 9*time.Second {
				t.Errorf("%+v: it is not for us to renew the Proxy's token", renewed)
			}
			f.must(s.Check(t.Context(), lease))
			a.set(f.newToken(policy(f.role.CredsPath), time.Hour)) // it has logged in again; the lease hangs from its old login
			renewed, err = s.Renew(t.Context(), renewed, time.Hour)
			f.must(err)
			if renewed.TTL > 9*time.Second || !renewed.Capped {
				t.Errorf("%+v, although the lease ends with the token that it was issued with", renewed)
			}
			f.must(s.Revoke(t.Context(), renewed))
			f.must(s.Close(t.Context()))
			f.left(0)
			if strings.Contains(strings.Join(a.asked, " "), "renew-self") {
				t.Errorf("asked %v", a.asked)
			}
		})
	}
}

// hazard 30: what an Agent's cache answers is the same lease again.
func TestCachingAgent(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	a := newAutoAuth(t, f.token)
	var cached []byte
	cache := &cachingTransport{path: "/v1/" + f.role.CredsPath, cached: &cached}
	a.Handler.(*httputil.ReverseProxy).Transport = cache
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("VAULT_AGENT_ADDR", a.onSocket(t))
	var log syncBuffer
	s, err := vaultsource.New(t.Context(), vaultsource.Config{Path: f.role.CredsPath})
	f.must(err)
	r, err := rotation.New(t.Context(), s, rotation.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	f.must(err)
	err = r.Rotate(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a caching agent?") {
		t.Error(err)
	}
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "same lease") })
	f.left(1)
	if st := r.Status(); st.Generation != 1 || !st.Usable {
		t.Errorf("%+v", st)
	}
	cache.off()
	f.must(r.Rotate(t.Context()))
	f.must(r.Close(t.Context()))
	f.left(0)
}

// The namespace goes with every request, logins included.
func TestNamespace(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
	l := f.appRole(policy(f.role.CredsPath), map[string]any{"token_ttl": "1h"})
	a := newAutoAuth(t, "")
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	for name, configure := range map[string]func(c *vaultsource.Config){
		"parameter":   func(c *vaultsource.Config) { c.Namespace = "team/a" },
		"environment": func(*vaultsource.Config) { t.Setenv("VAULT_NAMESPACE", "team/a") },
		"client": func(c *vaultsource.Config) {
			conf := api.DefaultConfig()
			conf.Address = server.URL
			client, err := api.NewClient(conf)
			f.must(err)
			client.SetNamespace("team/a")
			c.Client, c.Address = client, ""
		},
	} {
		a.namespaces = nil
		s := l.at(server.URL, configure)
		_, lease := f.issue(s)
		_, err := s.Renew(t.Context(), lease, time.Hour)
		f.must(err)
		f.must(s.Check(t.Context(), lease))
		f.must(s.Revoke(t.Context(), lease))
		f.must(s.Close(t.Context()))
		t.Setenv("VAULT_NAMESPACE", "")
		if len(a.namespaces) < 6 {
			t.Errorf("%s: %d requests", name, len(a.namespaces))
		}
		for i, namespace := range a.namespaces {
			if namespace != "team/a" {
				t.Errorf("%s: %s without the namespace", name, a.asked[len(a.asked)-len(a.namespaces)+i])
			}
		}
	}
	l.wantNothing()
}

// Vault may ask for a client certificate (VAULT_CLIENT_CERT, VAULT_CLIENT_KEY, or a client that has one).
func TestClientCertificate(t *testing.T) {
	f := newFixture(t, testbed.RoleOptions{})
	server := httptest.NewUnstartedServer(newAutoAuth(t, ""))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Setenv("VAULT_CACERT", f.caFile(server))
	_, _, err := f.sourceAt(server.URL, f.token).Issue(t.Context())
	f.failed(err, nil, "certificate required")

	certificate, key := f.clientCertificate()
	t.Setenv("VAULT_CLIENT_CERT", certificate)
	t.Setenv("VAULT_CLIENT_KEY", key)
	f.issue(f.sourceAt(server.URL, f.token))
}

func (f *fixture) clientCertificate() (certificate, key string) {
	f.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	f.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	f.must(err)
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(f.TempDir(), name)
		f.must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
}

// cachingTransport answers requests for one path with the first answer.
type cachingTransport struct {
	http.Transport

	path string

	mu     sync.Mutex
	cached *[]byte
	closed bool
}

func (c *cachingTransport) off() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

func (c *cachingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path != c.path || c.closed {
		return c.Transport.RoundTrip(r)
	}
	if *c.cached == nil {
		response, err := c.Transport.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
		if err != nil {
			return nil, err
		}
		if *c.cached, err = httputil.DumpResponse(response, true); err != nil {
			return nil, err
		}
		_ = response.Body.Close()
	}
	return http.ReadResponse(bufio.NewReader(bytes.NewReader(*c.cached)), r)
}
