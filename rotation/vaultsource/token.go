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

	"github.com/vaultpool/vaultpool/rotation"
)

// lookupTimeout bounds a look at the token's end: a credential in hand waits for
// it.
const lookupTimeout = 5 * time.Second

// environmentToken returns what reads the token: from the file if one is named,
// else from VAULT_TOKEN as it is now.
func environmentToken(config Config) (func() (string, error), error) {
	if config.TokenFile != "" {
		file := &tokenFile{path: config.TokenFile}
		_, err := file.read()
		return file.read, err
	}
	token := os.Getenv(api.EnvVaultToken)
	if token == "" {
		return nil, errors.New("no Vault token: set VAULT_TOKEN, or vault_token_file to a file that holds one")
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
	secret string // never changes

	// Guarded by Source.mu.
	bound
	known bool // it was looked up
	deaf  bool // it may not look itself up, and is not asked again
}

// bound is where a token ends.
type bound struct {
	end       time.Time // zero: never, or not known
	renewable bool      // somebody may move the end
}

// currentToken returns the token to use for the next request.
func (s *Source) currentToken() (*token, error) {
	secret, err := s.conn.token()
	if err != nil {
		return nil, err
	}
	if secret == "" {
		return nil, errors.New("the Vault client has lost its token")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.secret != secret {
		s.current = &token{secret: secret}
	}
	return s.current, nil
}

// boundOf returns where the token ends. It asks Vault only where that could
// matter to a lease that ends at until: not if the token is known to last longer.
func (s *Source) boundOf(ctx context.Context, t *token, until time.Time) bound {
	s.mu.Lock()
	b, known, deaf := t.bound, t.known, t.deaf
	s.mu.Unlock()
	if deaf || known && (b.end.IsZero() || left(until, b.end) >= 0) {
		return b
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	asked := time.Now()
	found, err := s.lookup(ctx, t, asked)

	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		t.bound, t.known = found, true
	case tokenIsInvalid(err): // it has ended, or was revoked
		t.bound, t.known = bound{end: asked}, true
	case errors.Is(err, rotation.ErrDenied):
		t.deaf = true
		s.warnDeaf(err)
	default:
		// What is known is not later than the truth. Next time it may be more.
		s.log.Warn("vaultsource: the end of the Vault token is not known for now", "error", err)
	}
	return t.bound
}

// lookup asks Vault for the token's end.
func (s *Source) lookup(ctx context.Context, t *token, asked time.Time) (bound, error) {
	client, reply := s.conn.request(t.secret)
	secret, err := client.Auth().Token().LookupSelfWithContext(ctx)
	if err == nil && secret == nil {
		err = errEmpty
	}
	if err != nil {
		return bound{}, s.conn.failed(request{lookupToken, "auth/token/lookup-self"}, err, reply)
	}
	return parseBound(secret.Data, asked)
}

// parseBound reads the answer. Vault rounds its clock to the second before it
// subtracts, so the ttl that it gives can be half a second more than is left.
func parseBound(data map[string]any, asked time.Time) (bound, error) {
	if data["expire_time"] == nil {
		return bound{}, nil // a root token
	}
	number, _ := data["ttl"].(json.Number)
	seconds, err := number.Int64()
	if err != nil {
		return bound{}, errors.New("look up the token: the answer has no ttl")
	}
	renewable, _ := data["renewable"].(bool)
	return bound{
		end:       asked.Add(time.Duration(seconds)*time.Second - time.Second/2),
		renewable: renewable,
	}, nil
}

// left is the time from now until end: the shorter of what the monotonic and the
// wall clock say, since the former stands still while the machine is suspended.
func left(now, end time.Time) time.Duration {
	return min(end.Sub(now), end.Round(0).Sub(now.Round(0)))
}

func (s *Source) warnDeaf(err error) {
	s.deafOnce.Do(func() {
		s.log.Warn("vaultsource: the Vault token may not look itself up, so its own end is not known; a lease that outlives it ends unexpectedly", "error", err)
	})
}
