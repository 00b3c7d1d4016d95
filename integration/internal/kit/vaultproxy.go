package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// VaultProxy stands before a real Vault. It counts what is asked, knows the secrets that pass, and can
// keep answers back or lose them. A request that has reached it reaches Vault, and is not cancelled
// there when whoever asked goes away.
type VaultProxy struct {
	URL     string
	target  string
	client  *http.Client
	pending sync.WaitGroup

	mu       sync.Mutex // guards what follows
	requests []VaultRequest
	secrets  []string
	faults   []*fault
}

// VaultRequest is one that was passed on.
type VaultRequest struct {
	at     time.Time
	method string
	path   string // without /v1/
	status int    // 0 if Vault did not answer
}

// fault is what happens to requests whose path begins with prefix.
type fault struct {
	prefix string
	before func() // called before they are passed on, if not nil
	hold   *Gate  // they wait here, if not nil
	lose   int    // this many are lost: the connection is cut

	from, to string // what to replace in them
}

// NewVaultProxy starts one before target, until the end of the test.
func NewVaultProxy(t *testing.T, target string) *VaultProxy {
	t.Helper()
	p := &VaultProxy{target: target, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	server := httptest.NewServer(p)
	p.URL = server.URL
	t.Cleanup(func() {
		p.Heal()
		server.Close()
		p.pending.Wait()
	})
	return p
}

// ServeHTTP passes a request on.
func (p *VaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.pending.Add(1)
	defer p.pending.Done()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	for _, f := range p.faultsOf(path) {
		if f.before != nil {
			f.before()
		}
	}
	answer, body, err := p.forward(r) //nolint:bodyclose // forward has read and closed it
	entry := VaultRequest{at: time.Now(), method: r.Method, path: path}
	if err == nil {
		entry.status = answer.StatusCode
		p.addPassword(body)
	}
	p.mu.Lock()
	p.requests = append(p.requests, entry)
	p.mu.Unlock()
	for _, f := range p.faultsOf(path) {
		if f.from != "" {
			body = bytes.ReplaceAll(body, []byte(f.from), []byte(f.to))
		}
	}
	if p.isLost(path) || err != nil {
		panic(http.ErrAbortHandler) // cuts the connection
	}
	for key, values := range answer.Header {
		w.Header()[key] = values
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(body) // who does not wait for it any more misses it
}

func (p *VaultProxy) forward(r *http.Request) (*http.Response, []byte, error) {
	asked, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil, err
	}
	request, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, p.target+r.URL.RequestURI(), bytes.NewReader(asked))
	if err != nil {
		return nil, nil, err
	}
	request.Header = r.Header.Clone()
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	return answer, body, err
}

func (p *VaultProxy) faultsOf(path string) (found []*fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if strings.HasPrefix(path, f.prefix) {
			found = append(found, f)
		}
	}
	return found
}

// isLost waits where an answer is held, and reports whether it is to be lost.
func (p *VaultProxy) isLost(path string) bool {
	for _, f := range p.faultsOf(path) {
		if f.hold != nil {
			_ = f.hold.Pass(context.Background()) // opened by heal at the latest
		}
		p.mu.Lock()
		lost := f.lose > 0
		f.lose--
		p.mu.Unlock()
		if lost {
			return true
		}
	}
	return false
}

// Before calls f with every such request before Vault gets it.
func (p *VaultProxy) Before(prefix string, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, before: f})
}

// Hold keeps back the answers of requests whose path begins with prefix, which Vault has carried out.
// Whoever opens the gate lets them go.
func (p *VaultProxy) Hold(prefix string) *Gate {
	g := &Gate{}
	g.Shut()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, hold: g})
	return g
}

// Lose loses the next n answers of such requests.
func (p *VaultProxy) Lose(prefix string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, lose: n})
}

// Rewrite changes such answers.
func (p *VaultProxy) Rewrite(prefix, from, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, from: from, to: to})
}

// Heal ends all faults.
func (p *VaultProxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.hold != nil {
			f.hold.Open()
		}
	}
	p.faults = nil
}

// Asked returns the requests whose path begins with prefix.
func (p *VaultProxy) Asked(prefix string) (found []VaultRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		if strings.HasPrefix(r.path, prefix) {
			found = append(found, r)
		}
	}
	return found
}

func (p *VaultProxy) addPassword(answer []byte) {
	var secret struct {
		Data struct {
			Password string `json:"password"`
		} `json:"data"`
	}
	if json.Unmarshal(answer, &secret) == nil && secret.Data.Password != "" {
		p.AddSecret(secret.Data.Password)
	}
}

// AddSecret adds to what SecretsIn looks for, beside the passwords that have passed.
func (p *VaultProxy) AddSecret(secret string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.secrets = append(p.secrets, secret)
}

// SecretsIn returns how many secrets that have passed are in a text.
func (p *VaultProxy) SecretsIn(text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, secret := range p.secrets {
		if strings.Contains(text, secret) {
			n++
		}
	}
	return n
}

// Secrets returns how many secrets have passed.
func (p *VaultProxy) Secrets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.secrets)
}
