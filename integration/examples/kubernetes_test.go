package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
)

// The pod, without Kubernetes: the program has the environment of the manifest but for addresses, the test is the kubelet,
// which replaces the service account's token and asks the manifest's probes, and it stands in for Vault at the one
// request that Vault would have Kubernetes review: the login.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	role := newRole(t)
	pod := readManifest(t)
	vault := newReviewer(t, role)
	tokenFile := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(tokenFile, []byte("jwt-1"), 0o600))
	p := start(t, "kubernetes", pod.environment(t, map[string]string{
		"VAULT_ADDR": vault.URL, "LISTEN_ADDR": "127.0.0.1:0", "VAULT_JWT_FILE": tokenFile,
		"DATABASE_URL": databaseURL(role.CredsPath),
	}))
	address := "http://" + p.distinct(t, 1, `"msg":"listening","address":"([^"]+)"`)[0]
	for name, probe := range pod.Containers[0].probes() {
		if code, body := get(t, address+probe.HTTPGet.Path); code != http.StatusOK {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if code, body := get(t, address+"/"); code != http.StatusOK || !strings.Contains(body, "logged in to the database as v-") {
		t.Errorf("/: %d %s", code, body)
	}
	if code, body := get(t, address+"/vaultpool/"); code != http.StatusNotFound {
		t.Errorf("the status page is there for everybody: %d %s", code, body)
	}

	kit.Check(t, os.WriteFile(tokenFile, []byte("jwt-2"), 0o600))
	kit.Eventually(t, "a login with the new token", func(context.Context) bool { return vault.has("app jwt-2") })
	if !vault.has("app jwt-1") {
		t.Error("the first login was with another role or token")
	}
	p.stop(t)
	if written := strings.Join(p.all(), "\n"); strings.Contains(written, "jwt-") {
		t.Error("a token was printed")
	}
}

func get(t *testing.T, address string) (code int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	kit.Check(t, err)
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	kit.Check(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	kit.Check(t, err)
	return answer.StatusCode, string(text)
}

// reviewer is Vault, but for the login, which gives a token to whomever asks.
type reviewer struct {
	*httptest.Server
	mu     sync.Mutex // guards logins
	logins []string   // role and token of each
}

func newReviewer(t *testing.T, role *testbed.Role) *reviewer {
	t.Helper()
	target, err := url.Parse(shared.Vault.Addr)
	kit.Check(t, err)
	v := &reviewer{}
	transport := &http.Transport{DisableKeepAlives: true}
	mux := http.NewServeMux()
	mux.Handle("/", &httputil.ReverseProxy{
		Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
	})
	const ttl = 5 * time.Second
	mux.HandleFunc("PUT /v1/auth/kubernetes/login", func(w http.ResponseWriter, r *http.Request) {
		var login struct {
			JWT  string `json:"jwt"`
			Role string `json:"role"`
		}
		if err := json.NewDecoder(r.Body).Decode(&login); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		token, err := role.Token(r.Context(), ttl)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		v.mu.Lock()
		v.logins = append(v.logins, login.Role+" "+login.JWT)
		v.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{
			"client_token": token, "lease_duration": int(ttl.Seconds()), "renewable": false,
		}})
	})
	v.Server = httptest.NewServer(mux)
	t.Cleanup(v.Close)
	return v
}

func (v *reviewer) has(login string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.logins {
		if l == login {
			return true
		}
	}
	return false
}

// pod is what the program has to agree with.
type pod struct {
	Containers []container `yaml:"containers"`
	Volumes    []struct {
		Name      string `yaml:"name"`
		Projected struct {
			Sources []struct {
				ServiceAccountToken struct {
					Path string `yaml:"path"`
				} `yaml:"serviceAccountToken"`
			} `yaml:"sources"`
		} `yaml:"projected"`
	} `yaml:"volumes"`
}

type container struct {
	Ports []struct {
		Name string `yaml:"name"`
		Port string `yaml:"containerPort"`
	} `yaml:"ports"`
	Env []struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	} `yaml:"env"`
	Startup      probe `yaml:"startupProbe"`
	Liveness     probe `yaml:"livenessProbe"`
	Readiness    probe `yaml:"readinessProbe"`
	VolumeMounts []struct {
		Name string `yaml:"name"`
		Path string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct {
		Path string `yaml:"path"`
		Port string `yaml:"port"`
	} `yaml:"httpGet"`
}

func (c *container) probes() map[string]probe {
	return map[string]probe{"startup": c.Startup, "liveness": c.Liveness, "readiness": c.Readiness}
}

// readManifest reads it, and looks that its parts fit each other.
func readManifest(t *testing.T) *pod {
	t.Helper()
	text, err := os.ReadFile("../../examples/kubernetes/deployment.yaml")
	kit.Check(t, err)
	var found *pod
	for documents := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document struct {
			Kind string `yaml:"kind"`
			Spec struct {
				Template struct {
					Spec *pod `yaml:"spec"`
				} `yaml:"template"`
			} `yaml:"spec"`
		}
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		kit.Check(t, err)
		if document.Kind == "Deployment" {
			found = document.Spec.Template.Spec
		}
	}
	if found == nil || len(found.Containers) != 1 || len(found.Volumes) != 1 || len(found.Containers[0].VolumeMounts) != 1 {
		t.Fatalf("not a Deployment of one container with one volume: %+v", found)
	}
	c, volume := found.Containers[0], found.Volumes[0]
	file := path.Join(c.VolumeMounts[0].Path, volume.Projected.Sources[0].ServiceAccountToken.Path)
	if c.VolumeMounts[0].Name != volume.Name || c.env("VAULT_JWT_FILE") != file {
		t.Errorf("the token is in %s, VAULT_JWT_FILE is %s", file, c.env("VAULT_JWT_FILE"))
	}
	if listen := c.env("LISTEN_ADDR"); listen != ":"+c.Ports[0].Port {
		t.Errorf("LISTEN_ADDR is %s, the port %s", listen, c.Ports[0].Port)
	}
	for name, probe := range c.probes() {
		if probe.HTTPGet.Path == "" || probe.HTTPGet.Port != c.Ports[0].Name {
			t.Errorf("the %s probe asks %+v", name, probe.HTTPGet)
		}
	}
	return found
}

func (c *container) env(name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

// environment is what the manifest sets, and nothing else, with other values here.
func (p *pod) environment(t *testing.T, instead map[string]string) (env []string) {
	t.Helper()
	for _, e := range p.Containers[0].Env {
		value := e.Value
		if other, ok := instead[e.Name]; ok {
			value = other
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}
