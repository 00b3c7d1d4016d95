package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// vaultProxy stands before Vault. It counts what is asked, remembers which leases were given to whom, and can answer
// for Vault. A request that has reached it reaches Vault, and is not cancelled there when whoever asked goes away.
type vaultProxy struct {
	server  *httptest.Server
	target  string
	client  *http.Client
	pending sync.WaitGroup

	mu       sync.Mutex // guards what follows
	status   int        // what to answer in Vault's place; 0: let Vault answer
	times    []time.Time
	byKind   map[string]int
	leases   map[string]string // id to user, of every answer with a credential
	secrets  []string          // the newest passwords and tokens
	faulty   int               // issues that have failed in Vault: it may have made a user for them
	underway int               // issues that Vault has not answered
}

func newVaultProxy(target string) *vaultProxy {
	p := &vaultProxy{
		target: target, byKind: make(map[string]int), leases: make(map[string]string),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	p.server = httptest.NewServer(p)
	return p
}

func (p *vaultProxy) address() string { return strings.TrimPrefix(p.server.URL, "http://") }

func (p *vaultProxy) close() {
	p.answer(0)
	p.server.Close()
	p.pending.Wait()
}

// answer makes the proxy answer with this status itself; 0 ends that.
func (p *vaultProxy) answer(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

// ServeHTTP passes a request on.
func (p *vaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.pending.Add(1)
	defer p.pending.Done()
	kind := kindOf(r.URL.Path)
	if status := p.arrived(kind); status != 0 {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"errors":["answered by the fault suite"]}`)
		return
	}
	answer, body, err := p.forward(r) //nolint:bodyclose // forward has read and closed it
	if kind == "issue" {
		p.issued(answer, body, err)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // cuts the connection, as Vault did
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(body) // who does not wait for it any more misses it
}

func (p *vaultProxy) arrived(kind string) (status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times = append(p.times, time.Now())
	p.byKind[kind]++
	if kind == "issue" && p.status == 0 {
		p.underway++
	}
	return p.status
}

func (p *vaultProxy) issued(answer *http.Response, body []byte, err error) {
	var secret struct {
		LeaseID string `json:"lease_id"`
		Data    struct {
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"data"`
	}
	given := err == nil && answer.StatusCode == http.StatusOK && json.Unmarshal(body, &secret) == nil && secret.LeaseID != ""
	p.mu.Lock()
	defer p.mu.Unlock()
	p.underway--
	if given {
		p.leases[secret.LeaseID] = secret.Data.Username
		p.remember(secret.Data.Password)
	} else {
		p.faulty++
	}
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

// remember keeps the newest secrets only: what is said of older ones is said when they are new.
func (p *vaultProxy) remember(secret string) {
	const most = 100
	if p.secrets = append(p.secrets, secret); len(p.secrets) > most {
		p.secrets = p.secrets[len(p.secrets)-most:]
	}
}

// addSecret adds to what shows looks for, beside the passwords that have passed.
func (p *vaultProxy) addSecret(secret string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remember(secret)
}

// shows reports whether a text holds a secret.
func (p *vaultProxy) shows(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.secrets, func(secret string) bool { return strings.Contains(text, secret) })
}

// kindOf names what a request is for.
func kindOf(path string) string {
	switch {
	case strings.Contains(path, "/creds/") && !strings.Contains(path, "/sys/"):
		return "issue"
	case strings.Contains(path, "/sys/leases/renew"):
		return "renew"
	case strings.Contains(path, "/sys/leases/revoke"):
		return "revoke"
	case strings.Contains(path, "/sys/leases/lookup"):
		return "lease lookup"
	case strings.Contains(path, "/auth/token/"):
		return "token"
	default:
		return "other"
	}
}

// requests is what was asked so far.
type requests struct {
	Total  int
	ByKind map[string]int
	Most   int // in any 10 s
	Faulty int // issues that Vault has failed
}

const rateWindow = 10 * time.Second

func (p *vaultProxy) counts() requests {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := requests{Total: len(p.times), ByKind: make(map[string]int), Most: mostWithin(p.times, rateWindow), Faulty: p.faulty + p.underway}
	for kind, n := range p.byKind {
		r.ByKind[kind] = n
	}
	return r
}

// mostWithin is the largest number of times, which are in order, in any window.
func mostWithin(times []time.Time, window time.Duration) (most int) {
	first := 0
	for i, t := range times {
		for t.Sub(times[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// userOf returns whom a lease was given to, "" if that is not known.
func (p *vaultProxy) userOf(lease string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leases[lease]
}
