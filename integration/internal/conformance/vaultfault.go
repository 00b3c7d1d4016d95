package conformance

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// vaultFaults stands before a real Vault and answers some requests in its place.
type vaultFaults struct {
	url  string
	next http.Handler

	mu     sync.Mutex // guards faults
	faults []vaultFault
}

type vaultFault struct {
	prefix string // of the path, without /v1/
	status int
	body   string
	header map[string]string
}

func newVaultFaults(t *testing.T, target string) *vaultFaults {
	t.Helper()
	u, err := url.Parse(target)
	kit.Check(t, err)
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	f := &vaultFaults{next: proxy}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// ServeHTTP answers a request or passes it on.
func (f *vaultFaults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	f.mu.Lock()
	faults := f.faults
	f.mu.Unlock()
	for _, fault := range faults {
		if strings.HasPrefix(path, fault.prefix) {
			for key, value := range fault.header {
				w.Header().Set(key, value)
			}
			w.WriteHeader(fault.status)
			_, _ = w.Write([]byte(fault.body)) // who does not wait for it misses it
			return
		}
	}
	f.next.ServeHTTP(w, r)
}

// set makes these the faults there are.
func (f *vaultFaults) set(faults ...vaultFault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// sealed is what a sealed Vault says to everything.
var sealed = vaultFault{status: http.StatusServiceUnavailable, body: `{"errors":["Vault is sealed"]}`}
