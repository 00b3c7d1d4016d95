package vaultsource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// environmentToken returns what reads the token: from the file if one is named,
// else from VAULT_TOKEN as it is now. A Vault Agent or Proxy may add its own to
// requests that have none.
func environmentToken(config Config, agent bool) (func() (string, error), error) {
	if config.TokenFile != "" {
		file := &tokenFile{path: config.TokenFile}
		_, err := file.read()
		return file.read, err
	}
	token := os.Getenv(api.EnvVaultToken)
	if token == "" && !agent {
		return nil, errors.New("no Vault token: set VAULT_TOKEN, or vault_token_file to a file that holds one, or Config.Auth to log in, or VAULT_AGENT_ADDR to a Vault Agent or Proxy that adds its own")
	}
	return func() (string, error) { return token, nil }, nil
}

// tokenFile is a file that somebody else keeps up to date.
type tokenFile struct {
	path string

	mu   sync.Mutex // guards last
	last string
}

// read returns what the file holds now. While that is nothing, for example
// because it is being replaced, it returns what was there last.
func (f *tokenFile) read() (string, error) {
	text, err := os.ReadFile(f.path)
	token := strings.TrimSpace(string(text))
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case token != "":
		f.last = token
	case f.last != "":
	case err != nil:
		return "", fmt.Errorf("read the Vault token: %w", err)
	default:
		return "", fmt.Errorf("read the Vault token: %s is empty", f.path)
	}
	return f.last, nil
}

// token is a Vault token and what is known of its end, which is also the end of
// every lease that it asked for.
type token struct {
	secret string // never changes; "": a Vault Agent or Proxy adds its own
	own    bool   // never changes: from our own login
	batch  bool   // never changes: cannot be renewed or revoked

	// Guarded by Source.mu.
	bound
	known     bool // where it ends was looked up, or said at the login
	deaf      bool // it may not look itself up, and is not asked again
	capped    bool // a renewal does not move its end any further
	gone      bool // it was revoked, or Vault does not know it any more
	proven    bool // it has read a credential
	issuing   int  // reads under way
	noRevoke  bool // it may not revoke leases
	rightsFor bool // noRevoke was asked for
}

// bound is where a token ends.
type bound struct {
	end       time.Time     // zero: never, or not known
	full      time.Duration // the most it was granted, the measure of what is left
	renewable bool          // its end may be moved
	accessor  string        // whose end it is; "" if it was not looked up
}

// movable reports whether a renewal, ours or another's, may move the end.
func (t *token) movable() bool { return t.renewable && !t.capped && !t.gone }

// alive reports whether the token is good at now, as far as is known.
func (t *token) alive(now time.Time) bool {
	return !t.gone && (t.end.IsZero() || left(now, t.end) > 0)
}

// due reports whether something is to be done for the token to live until then: it would
// not, or most of its time is gone.
func (t *token) due(now, until time.Time) bool {
	if !t.known {
		return true
	}
	if t.end.IsZero() || t.gone {
		return false
	}
	return left(t.end, until) > 0 || left(now, t.end) < t.full/3
}

// fresh reports that a renewal would bring next to nothing.
func (t *token) fresh(now time.Time) bool { return left(now, t.end) > t.full/10*9 }

// worn reports that what is left of a token of ours is not worth a new lease: it cannot be
// prolonged, and half of it is gone.
func (t *token) worn(now time.Time) bool {
	return !t.alive(now) || !t.end.IsZero() && !t.movable() && left(now, t.end) < t.full/2
}

// parseBound reads what Vault says of a token. Vault rounds its clock to the second
// before it subtracts, so the ttl that it gives can be half a second more than is left.
func parseBound(data map[string]any, asked time.Time) (bound, error) {
	if data["expire_time"] == nil {
		return bound{}, nil // a root token
	}
	whole, _ := data["ttl"].(json.Number)
	seconds, err := whole.Int64()
	if err != nil {
		return bound{}, errors.New("look up the token: the answer has no ttl")
	}
	full := seconds
	for _, name := range []string{"creation_ttl", "period"} {
		n, _ := data[name].(json.Number)
		granted, _ := n.Int64() // 0 if it is not there
		full = max(full, granted)
	}
	renewable, _ := data["renewable"].(bool)
	accessor, _ := data["accessor"].(string)
	return bound{
		end:       asked.Add(time.Duration(seconds)*time.Second - time.Second/2),
		full:      time.Duration(full) * time.Second,
		renewable: renewable,
		accessor:  accessor,
	}, nil
}

// left is the time from now until end: the shorter of what the monotonic and the
// wall clock say, since the former stands still while the machine is suspended.
func left(now, end time.Time) time.Duration {
	return min(end.Sub(now), end.Round(0).Sub(now.Round(0)))
}

// givenToken returns the token to use for the next request, where it is given.
func (s *Source) givenToken() (*token, error) {
	secret, err := s.conn.token()
	if err != nil {
		return nil, err
	}
	if secret == "" && !s.conn.agent {
		return nil, errors.New("the Vault client has lost its token")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.secret != secret {
		s.current = &token{secret: secret}
	}
	return s.current, nil
}

// tokenToIssue returns the token to read a credential with. Of our own a lease needs one
// with some life left; and one of its own where leases can be given back with their
// tokens only.
func (s *Source) tokenToIssue(ctx context.Context) (*token, error) {
	if s.auth == nil {
		return s.givenToken()
	}
	s.mu.Lock()
	t := s.current
	good := t != nil && !t.worn(time.Now()) && (!t.noRevoke || s.holds(t) == 0)
	s.mu.Unlock()
	if good {
		return t, nil
	}
	return s.logIn(ctx, t)
}

// using counts the reads under way, and reports that the source was closed meanwhile.
func (s *Source) using(t *token, by int) (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.issuing += by
	return s.closed
}

// wasGood reports whether a token of ours that was denied a read may have been good before, so
// that another login helps: Vault says that it is not valid, or it has read already.
func (s *Source) wasGood(t *token, denied error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.own && (t.proven || tokenIsInvalid(denied))
}

// failed is the connection's, and notes a token of ours that Vault does not know any more.
func (s *Source) failed(t *token, r request, err error, answer *reply) error {
	f := s.conn.failed(r, err, answer)
	if t.own && tokenIsInvalid(f) {
		s.mu.Lock()
		t.gone = true
		s.mu.Unlock()
	}
	return f
}

// tokenFor returns the token for a request about a lease: the one it hangs from if that is
// our own and alive, else the current one, or one from a new login.
func (s *Source) tokenFor(ctx context.Context, h *holding) (*token, error) {
	if s.auth == nil {
		return s.givenToken()
	}
	s.mu.Lock()
	t, now := s.current, time.Now()
	if h != nil && h.token.alive(now) {
		t = h.token
	}
	good := t != nil && t.alive(now)
	s.mu.Unlock()
	if good {
		return t, nil
	}
	return s.logIn(ctx, t)
}
