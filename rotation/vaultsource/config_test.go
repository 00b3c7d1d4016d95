package vaultsource

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// canary is a secret that must not appear anywhere.
const canary = "hvs.canary-0123456789"

// clearEnvironment takes away what the machine's own environment says of a Vault.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "VAULT_") {
			t.Setenv(name, "")
		}
	}
}

func TestCleanPath(t *testing.T) {
	for path, want := range map[string]string{
		"database/creds/app":                     "database/creds/app",
		"/pg/creds/user-read/":                   "pg/creds/user-read",
		" team/a/db/creds/app\n":                 "team/a/db/creds/app",
		"v1db/creds/app":                         "v1db/creds/app",
		"":                                       "ERR no Vault path",
		" / ":                                    "ERR no Vault path",
		"app":                                    "ERR names no role",
		"v1/database/creds/app":                  `ERR write "database/creds/app"`,
		"/v1/database/creds/app":                 `ERR write "database/creds/app"`,
		"https://u:secret@vault:8200/v1/db/x":    "ERR is a URL",
		"database//creds":                        "ERR segment",
		"database/../sys/creds":                  "ERR segment",
		"database/creds/app?version=1":           "ERR holds one of",
		"database%2Fcreds%2Fapp":                 "ERR holds one of",
		"database/creds/my app":                  "ERR white space",
		"database/creds/app\x00":                 "ERR control",
		"postgres:secret@db/creds?password=nope": "ERR holds one of",
	} {
		got, err := cleanPath(path)
		if wanted, fails := strings.CutPrefix(want, "ERR "); fails {
			if err == nil || !strings.Contains(err.Error(), wanted) {
				t.Errorf("cleanPath(%q) = %q, %v; want an error with %q", path, got, err, wanted)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("cleanPath(%q) shows what may be a password: %v", path, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("cleanPath(%q) = %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	clearEnvironment(t)
	client := func(token string) *api.Client {
		c, err := api.NewClient(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.SetToken(token)
		return c
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const path = "database/creds/app"
	for name, test := range map[string]struct {
		environment map[string]string
		config      Config
		want        []string
	}{
		"no path":                    {config: Config{Client: client("t")}, want: []string{"no Vault path", "database/creds/app"}},
		"one field for both":         {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, UsernameField: "x", PasswordField: "x"}, []string{"UsernameField and PasswordField"}},
		"negative refresh":           {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, RefreshInterval: -1}, []string{"RefreshInterval"}},
		"lease of half a second":     {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, LeaseTTL: time.Second / 2}, []string{"LeaseTTL", "whole seconds"}},
		"login and token file":       {config: Config{Path: path, Auth: noAuth{}, TokenFile: "a"}, want: []string{"both Auth and TokenFile"}},
		"no token":                   {config: Config{Path: path}, want: []string{"VAULT_TOKEN", "vault_token_file"}},
		"client without token":       {config: Config{Path: path, Client: client("")}, want: []string{"no token", "SetToken"}},
		"client and address":         {config: Config{Path: path, Client: client("t"), Address: "http://x"}, want: []string{"both Client and"}},
		"client and namespace":       {config: Config{Path: path, Client: client("t"), Namespace: "a"}, want: []string{"both Client and"}},
		"client and CA":              {config: Config{Path: path, Client: client("t"), CACert: "a"}, want: []string{"both Client and"}},
		"client and token file":      {config: Config{Path: path, Client: client("t"), TokenFile: "a"}, want: []string{"both Client and"}},
		"token file missing":         {config: Config{Path: path, TokenFile: "/nonexistent/token"}, want: []string{"/nonexistent/token", "no such file"}},
		"token file empty":           {config: Config{Path: path, TokenFile: empty}, want: []string{empty, "is empty"}},
		"CA file missing":            {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, CACert: "/nonexistent/ca"}, []string{"/nonexistent/ca", "no such file"}},
		"CA file is none":            {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, CACert: empty}, []string{empty}},
		"address without scheme":     {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, Address: "vault:8200"}, []string{"VAULT_ADDR", "https://"}},
		"address without host":       {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, Address: "https://"}, []string{"VAULT_ADDR"}},
		"address is no URL":          {map[string]string{"VAULT_TOKEN": "t", "VAULT_ADDR": "https://u:" + canary + "@h:port"}, Config{Path: path}, []string{"VAULT_ADDR"}},
		"address with a password":    {map[string]string{"VAULT_TOKEN": "t"}, Config{Path: path, Address: "https://u:" + canary + "@vault"}, []string{"no parameter may hold a secret"}},
		"agent address is no URL":    {map[string]string{"VAULT_TOKEN": "t", "VAULT_AGENT_ADDR": "agent:" + canary}, Config{Path: path}, []string{"VAULT_AGENT_ADDR"}},
		"proxy is no URL":            {map[string]string{"VAULT_TOKEN": "t", "VAULT_PROXY_ADDR": "http://u:" + canary + "@h:port"}, Config{Path: path}, []string{"VAULT_* environment"}},
		"environment names a bad CA": {map[string]string{"VAULT_TOKEN": "t", "VAULT_CACERT": "/nonexistent/ca"}, Config{Path: path}, []string{"VAULT_* environment", "/nonexistent/ca"}},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.environment {
				t.Setenv(key, value)
			}
			source, err := New(t.Context(), test.config)
			if err == nil {
				t.Fatalf("got %v and no error", source)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("error %q holds a secret", err)
			}
		})
	}
}

// noAuth is an auth method that is never used.
type noAuth struct{ api.AuthMethod }

// Nobody has to give a token where the source logs in, or an Agent or a Proxy adds its own.
func TestNoTokenIsNeeded(t *testing.T) {
	clearEnvironment(t)
	client, err := api.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	client.ClearToken()
	for name, config := range map[string]Config{
		"login":                {Auth: noAuth{}},
		"login, with a client": {Auth: noAuth{}, Client: client},
		"unix socket":          {Address: "unix:///run/vault/agent.sock"},
	} {
		config.Path = "database/creds/app"
		if _, err := New(t.Context(), config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("VAULT_AGENT_ADDR", "http://127.0.0.1:8100")
	if _, err := New(t.Context(), Config{Path: "database/creds/app"}); err != nil {
		t.Errorf("agent: %v", err)
	}
}

func TestNewTakesTheEnvironment(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("VAULT_ADDR", "https://user:"+canary+"@vault.example:8200")
	t.Setenv("VAULT_TOKEN", canary)
	t.Setenv("VAULT_NAMESPACE", "team-a")
	t.Setenv("VAULT_WRAP_TTL", "60s")
	t.Setenv("VAULT_MAX_RETRIES", "7")
	s, err := New(t.Context(), Config{Path: "database/creds/app"})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.String(); got != "database/creds/app in Vault at https://vault.example:8200" {
		t.Errorf("String() = %q", got)
	}
	if got := s.conn.base.Namespace(); got != "team-a" {
		t.Errorf("namespace %q", got)
	}
	if got := s.conn.base.MaxRetries(); got != 0 {
		t.Errorf("%d automatic retries", got)
	}
	if got := s.conn.base.NewRequest("GET", "/v1/x").WrapTTL; got != "" {
		t.Errorf("answers would be wrapped for %q", got)
	}
	if s.conn.timeout != time.Minute {
		t.Errorf("timeout %v", s.conn.timeout)
	}

	s, err = New(t.Context(), Config{Path: "database/creds/app", Address: "http://127.0.0.1:8100", Namespace: "team-b"})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.conn.base.Address() + " " + s.conn.base.Namespace(); got != "http://127.0.0.1:8100 team-b" {
		t.Errorf("the configuration does not override the environment: %s", got)
	}
}

func TestAddressOverridesAgent(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("VAULT_TOKEN", "t")
	t.Setenv("VAULT_AGENT_ADDR", "http://127.0.0.1:8007")
	for address, want := range map[string]string{"": "http://127.0.0.1:8007", "http://127.0.0.1:8100": "http://127.0.0.1:8100"} {
		s, err := New(t.Context(), Config{Path: "database/creds/app", Address: address})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.conn.base.Address(); got != want {
			t.Errorf("with Address %q: %s, want %s", address, got, want)
		}
	}
}

func TestGivenClientIsNotChanged(t *testing.T) {
	clearEnvironment(t)
	client, err := api.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.SetAddress("http://127.0.0.1:8100"); err != nil {
		t.Fatal(err)
	}
	client.SetToken("its own")
	client.SetNamespace("its-namespace")
	client.AddHeader("X-Custom", "kept")
	client.SetMaxRetries(5)
	client.SetClientTimeout(0)
	transport := client.CloneConfig().HttpClient.Transport
	t.Setenv("VAULT_TOKEN", "somebody else's")
	t.Setenv("VAULT_NAMESPACE", "elsewhere")

	s, err := New(t.Context(), Config{Path: "database/creds/app", Client: client})
	if err != nil {
		t.Fatal(err)
	}
	if client.MaxRetries() != 5 || client.ClientTimeout() != 0 || client.CloneConfig().HttpClient.Transport != transport {
		t.Error("the client was changed")
	}
	ours := s.conn.base
	if got := ours.Address() + " " + ours.Namespace() + " " + ours.Headers().Get("X-Custom"); got != "http://127.0.0.1:8100 its-namespace kept" {
		t.Errorf("got %s", got)
	}
	if ours.MaxRetries() != 0 || ours.ClientTimeout() != defaultTimeout {
		t.Errorf("%d retries, timeout %v", ours.MaxRetries(), ours.ClientTimeout())
	}
	for _, want := range []string{"its own", "its next"} { // a login kept up elsewhere
		client.SetToken(want)
		current, err := s.givenToken()
		if err != nil || current.secret != want {
			t.Errorf("token %q, %v; want %q", current.secret, err, want)
		}
	}
	client.ClearToken()
	if _, err := s.givenToken(); err == nil || !strings.Contains(err.Error(), "lost its token") {
		t.Errorf("without a token: %v", err)
	}
}

func TestTokenFileIsReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := &tokenFile{path: path}
	check := func(want string) {
		t.Helper()
		if got, err := file.read(); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	write("  first\n")
	check("first")
	write("second")
	check("second")
	write("") // caught while it is being rewritten
	check("second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("second")
	write("third\n")
	check("third")
}

// hazard 45
func TestNothingShowsTheToken(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("VAULT_TOKEN", canary)
	t.Setenv("VAULT_ADDR", "http://user:"+canary+"@vault.example")
	client, err := api.NewClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{Path: "database/creds/app"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.givenToken(); err != nil {
		t.Fatal(err)
	}
	s.remember(&holding{id: "lease", token: s.current, end: time.Now().Add(time.Hour)}, time.Now())
	type holder struct {
		Source *Source
		Value  any
		Config Config
		hidden *Source
	}
	config := Config{Path: "database/creds/app", Client: client}
	for _, value := range []any{s, config, &config, holder{s, s, config, s}, []*Source{s}, map[string]any{"source": s}} {
		shown := []string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			shown = append(shown, fmt.Sprintf(verb, value))
		}
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range append(shown, string(text)) {
			if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
				t.Errorf("%T shows the token: %s", value, text)
			}
		}
	}
	if got := fmt.Sprintf("%#v", s); got != s.String() {
		t.Errorf("%%#v shows %s", got)
	}
}
