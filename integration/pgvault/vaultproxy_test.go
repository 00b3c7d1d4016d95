package pgvault_test

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

// vaultProxy stands before a real Vault. It counts what is asked, knows the secrets that pass, and can
// keep answers back or lose them. A request that has reached it reaches Vault, and is not cancelled
// there when whoever asked goes away.
type vaultProxy struct {
	URL     string
	target  string
	client  *http.Client
	pending sync.WaitGroup

	mu       sync.Mutex // guards what follows
	requests []vaultRequest
	secrets  []string
	faults   []*fault
}

type vaultRequest struct {
	at     time.Time
	method string
	path   string // without /v1/
	status int    // 0 if Vault did not answer
}

// fault is what happens to requests whose path begins with prefix.
type fault struct {
	prefix string
	before func() // called before they are passed on, if not nil
	hold   *gate  // they wait here, if not nil
	lose   int    // this many are lost: the connection is cut

	from, to string // what to replace in them
}

func newVaultProxy(t *testing.T, target string) *vaultProxy {
	t.Helper()
	p := &vaultProxy{target: target, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	server := httptest.NewServer(p)
	p.URL = server.URL
	t.Cleanup(func() {
		p.heal()
		server.Close()
		p.pending.Wait()
	})
	return p
}

func (p *vaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.pending.Add(1)
	defer p.pending.Done()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	for _, f := range p.faultsOf(path) {
		if f.before != nil {
			f.before()
		}
	}
	answer, body, err := p.forward(r) //nolint:bodyclose // forward has read and closed it
	entry := vaultRequest{at: time.Now(), method: r.Method, path: path}
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

func (p *vaultProxy) forward(r *http.Request) (*http.Response, []byte, error) {
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

func (p *vaultProxy) faultsOf(path string) (found []*fault) {
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
func (p *vaultProxy) isLost(path string) bool {
	for _, f := range p.faultsOf(path) {
		if f.hold != nil {
			_ = f.hold.pass(context.Background()) // opened by heal at the latest
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

// before calls f with every such request before Vault gets it.
func (p *vaultProxy) before(prefix string, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, before: f})
}

// hold keeps back the answers of requests whose path begins with prefix, which Vault has carried out.
// Whoever opens the gate lets them go.
func (p *vaultProxy) hold(prefix string) *gate {
	g := &gate{}
	g.shut()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, hold: g})
	return g
}

// lose loses the next n answers of such requests.
func (p *vaultProxy) lose(prefix string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, lose: n})
}

// rewrite changes such answers.
func (p *vaultProxy) rewrite(prefix, from, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{prefix: prefix, from: from, to: to})
}

// heal ends all faults.
func (p *vaultProxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.hold != nil {
			f.hold.open()
		}
	}
	p.faults = nil
}

// asked returns the requests whose path begins with prefix.
func (p *vaultProxy) asked(prefix string) (found []vaultRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		if strings.HasPrefix(r.path, prefix) {
			found = append(found, r)
		}
	}
	return found
}

func (p *vaultProxy) addPassword(answer []byte) {
	var secret struct {
		Data struct {
			Password string `json:"password"`
		} `json:"data"`
	}
	if json.Unmarshal(answer, &secret) == nil && secret.Data.Password != "" {
		p.addSecret(secret.Data.Password)
	}
}

func (p *vaultProxy) addSecret(secret string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.secrets = append(p.secrets, secret)
}

// secretsIn returns how many secrets that have passed are in a text.
func (p *vaultProxy) secretsIn(text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, secret := range p.secrets {
		if strings.Contains(text, secret) {
			n++
		}
	}
	return n
}
