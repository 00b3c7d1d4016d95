package vaultsource_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a source and the real Vault. It counts what is asked, and can spoil the answer
// after Vault has done what it was asked for.
type proxy struct {
	*httptest.Server

	mu    sync.Mutex
	asked []string // method and path
	spoil fault
	open  map[net.Conn]bool
}

// fault does something to an answer on its way.
type fault func(*http.Response) error

// lose closes the connection instead of answering.
func lose(*http.Response) error { return errors.New("the answer is lost") }

// empty answers 200 with nothing.
func empty(r *http.Response) error {
	replaceBody(r, nil)
	return nil
}

// status answers with another status and a text of Vault's.
func status(code int, text string) fault {
	return func(r *http.Response) error {
		r.StatusCode = code
		body, err := json.Marshal(map[string][]string{"errors": {text}})
		replaceBody(r, body)
		return err
	}
}

// without takes a field out of the data of the answer.
func without(field string) fault {
	return func(r *http.Response) error {
		var answer map[string]any
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
			return err
		}
		if data, ok := answer["data"].(map[string]any); ok {
			delete(data, field)
		}
		body, err := json.Marshal(answer)
		replaceBody(r, body)
		return err
	}
}

func replaceBody(r *http.Response, body []byte) {
	_ = r.Body.Close()
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Del("Content-Length")
}

// only spoils the answers to one path.
func only(path string, spoil fault) fault {
	return func(r *http.Response) error {
		if r.Request.URL.Path != "/v1/"+path {
			return nil
		}
		return spoil(r)
	}
}

func newProxy(t *testing.T, withTLS bool) *proxy {
	t.Helper()
	target, err := url.Parse(bed.Vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{open: make(map[net.Conn]bool)}
	transport := &http.Transport{DisableKeepAlives: true}
	forward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			p.mu.Lock()
			spoil := p.spoil
			p.mu.Unlock()
			if spoil == nil {
				return nil
			}
			return spoil(r)
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.Method+" "+r.URL.Path)
		p.mu.Unlock()
		forward.ServeHTTP(w, r)
	}))
	p.Config.ConnState = p.connState
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // handshakes that are meant to fail
	p.EnableHTTP2 = withTLS
	if withTLS {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) connState(c net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = true
	if state == http.StateClosed || state == http.StateHijacked {
		delete(p.open, c)
	}
}

func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

func (p *proxy) set(spoil fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil = spoil
}

// take returns what was asked since the last call, and forgets it.
func (p *proxy) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}
