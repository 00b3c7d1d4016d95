package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Requests that are about a lease are of these kinds; all others are of one named after their path.
const (
	kindIssue  = "issue"
	kindRenew  = "renew"
	kindRevoke = "revoke"
)

// vaultRequest is one that has passed.
type vaultRequest struct {
	kind    string
	at, end time.Time
	ok      bool
}

// vaultCounter stands before Vault and passes on what it counts.
type vaultCounter struct {
	server    *http.Server
	listener  net.Listener
	proxy     *httputil.ReverseProxy
	credsPath string

	mu       sync.Mutex // guards requests
	requests []vaultRequest
}

func newVaultCounter(vault, credsPath string) (*vaultCounter, error) {
	target, err := url.Parse(vault)
	if err != nil {
		return nil, fmt.Errorf("read the address of Vault: %w", err)
	}
	c := &vaultCounter{credsPath: credsPath, proxy: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}}
	if c.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen before Vault: %w", err)
	}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute}
	go func() { _ = c.server.Serve(c.listener) }() // until close
	return c, nil
}

func (c *vaultCounter) address() string { return "http://" + c.listener.Addr().String() }
func (c *vaultCounter) close()          { _ = c.server.Close() }

// ServeHTTP passes a request on and notes it when it was answered.
func (c *vaultCounter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := vaultRequest{kind: c.kind(strings.TrimPrefix(r.URL.Path, "/v1/")), at: time.Now()}
	answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	c.proxy.ServeHTTP(answer, r)
	request.end, request.ok = time.Now(), answer.status < 300
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, request)
}

func (c *vaultCounter) kind(path string) string {
	switch {
	case path == c.credsPath:
		return kindIssue
	case path == "sys/leases/renew":
		return kindRenew
	case path == "sys/leases/revoke", strings.HasPrefix(path, "sys/leases/revoke/"):
		return kindRevoke
	default:
		return path
	}
}

// lifetimes returns all requests once that many leases have been revoked.
func (c *vaultCounter) lifetimes(ctx context.Context, terms leases) ([]vaultRequest, error) {
	patience := time.Duration(terms.lifetimes+1) * terms.ceiling * 2
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		requests := c.seen()
		if n := len(lifetimesOf(requests)); n >= terms.lifetimes {
			return requests, nil
		} else if ctx.Err() != nil {
			return nil, fmt.Errorf("waiting for %d leases to be revoked: %d were: %w", terms.lifetimes, n, ctx.Err())
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// seen returns the requests in the order in which they came.
func (c *vaultCounter) seen() []vaultRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	requests := slices.Clone(c.requests)
	slices.SortStableFunc(requests, func(a, b vaultRequest) int { return a.at.Compare(b.at) })
	return requests
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
