package vaultsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// How the token is kept alive: when the Rotator has a lease renewed or a credential read
// again, which it does well before the token ends, since that is the lease's end too.

// upkeepTimeout bounds each request about the token: a credential in hand waits for it.
const upkeepTimeout = 5 * time.Second

// ErrClosed is what a source that has been closed returns.
var ErrClosed = errors.New("the Vault source is closed")

// take waits for its turn to log in or to renew.
func (s *Source) take(ctx context.Context) (release func(), err error) {
	select {
	case s.upkeep <- struct{}{}:
		return func() { <-s.upkeep }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for another request about the Vault token: %w", context.Cause(ctx))
	}
}

// keep sees to it that t lives until then, if it can: it looks where the token ends, where
// that matters and is not known, and renews it if nobody else has.
func (s *Source) keep(ctx context.Context, t *token, until time.Time) {
	if !s.isDue(t, until) {
		return
	}
	release, err := s.take(ctx)
	if err != nil {
		return // it was under way
	}
	defer release()
	if !t.own && s.isDue(t, until) {
		s.look(ctx, t)
	}
	s.mu.Lock()
	now := time.Now()
	renew := t.due(now, until) && t.known && !t.fresh(now) && t.movable() && t.secret != "" && (t.own || t == s.current)
	s.mu.Unlock()
	if renew {
		s.renewToken(ctx, t)
	}
}

func (s *Source) isDue(t *token, until time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !t.deaf && t.due(time.Now(), until)
}

// look asks Vault for the token's end.
func (s *Source) look(ctx context.Context, t *token) {
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	asked := time.Now()
	found, err := s.lookup(ctx, t, asked)

	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && t.secret == "" && t.accessor != "" && t.accessor != found.accessor:
		// The Agent or Proxy has another token. What hangs from the last one ends with that.
		s.replace(t, &token{bound: found, known: true})
	case err == nil:
		if left(t.end, found.end) > 0 {
			t.capped = false // somebody has moved it
		}
		found.full = max(found.full, t.full)
		t.bound, t.known = found, true
	case tokenIsInvalid(err): // it has ended, or was revoked
		t.end, t.known, t.gone = asked, true, true
		if t.secret == "" {
			s.replace(t, nil) // there will be another one
		}
	case errors.Is(err, rotation.ErrDenied):
		t.deaf = true
		s.warn("deaf", "the Vault token may not look itself up, so its own end is not known; a lease that outlives it ends unexpectedly", "error", err)
	default:
		// What is known is not later than the truth. Next time it may be more.
		s.log.Warn("vaultsource: the end of the Vault token is not known for now", "error", err)
	}
}

// replace has requests made with next from now on, if they were with t; s.mu is held.
func (s *Source) replace(t, next *token) {
	if s.current == t {
		s.current = next
	}
}

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

// renewToken asks for as much as the token was made with. A token that is granted less
// has reached its ceiling.
func (s *Source) renewToken(ctx context.Context, t *token) {
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	client, reply := s.conn.request(t.secret)
	asked := time.Now()
	secret, err := client.Auth().Token().RenewSelfWithContext(ctx, 0)
	if err == nil && (secret == nil || secret.Auth == nil) {
		err = errEmpty
	}
	if err != nil {
		err = s.conn.failed(request{renewToken, "auth/token/renew-self"}, err, reply)
		s.log.Warn("vaultsource: the Vault token could not be renewed", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		ttl := time.Duration(secret.Auth.LeaseDuration) * time.Second
		t.end, t.renewable = asked.Add(ttl), secret.Auth.Renewable
		t.full = max(t.full, ttl)
		t.capped = isCapped(secret.Warnings) || ttl < t.full/10*9
	case tokenIsInvalid(err):
		t.end, t.gone = asked, true
	case errors.Is(err, rotation.ErrDenied), errors.Is(err, rotation.ErrInvalid):
		t.capped = true // it may not, or cannot
	default: // next time
	}
}

// logIn logs in, unless somebody else has replaced old meanwhile.
func (s *Source) logIn(ctx context.Context, old *token) (*token, error) {
	release, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	s.mu.Lock()
	current, closed := s.current, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case current != old:
		return current, nil
	}
	t, err := s.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.current, closed = t, s.closed
	if !t.batch {
		s.logins = append(s.logins, t)
	}
	s.mu.Unlock()
	if closed { // meanwhile; Close has not seen this one
		s.dropTokens(ctx)
		return nil, ErrClosed
	}
	s.dropTokens(ctx)
	return t, nil
}

// authenticate asks the auth method for a token.
func (s *Source) authenticate(ctx context.Context) (*token, error) {
	ctx, cancel := context.WithTimeout(ctx, s.conn.timeout)
	defer cancel()
	client, reply := s.conn.request("")
	asked := time.Now()
	secret, err := client.Auth().Login(ctx, s.auth)
	if err != nil {
		return nil, s.conn.failed(request{logIn, fmt.Sprintf("with a %T", s.auth)}, err, reply)
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, fmt.Errorf("%s with a %T in Vault at %s: the answer has no token (is multi-factor authentication demanded of a service?): %w",
			logIn, s.auth, s.conn.address, rotation.ErrInvalid)
	}
	ttl := time.Duration(secret.Auth.LeaseDuration) * time.Second
	t := &token{secret: secret.Auth.ClientToken, own: true, batch: isBatch(secret.Auth.ClientToken), known: true}
	if ttl > 0 {
		t.bound = bound{end: asked.Add(ttl), full: ttl, renewable: secret.Auth.Renewable}
	}
	return t, nil
}

// isBatch tells a batch token by its prefix, since api.SecretAuth has no field for it
// (https://developer.hashicorp.com/vault/docs/concepts/tokens#token-prefixes).
func isBatch(token string) bool {
	return strings.HasPrefix(token, "hvb.") || strings.HasPrefix(token, "b.")
}

// dropTokens revokes those of our own that nothing hangs from any more, all but the
// current one; that one too once the source is closed. Failures are logged: they end by
// themselves.
func (s *Source) dropTokens(ctx context.Context) {
	s.mu.Lock()
	var idle []*token
	for _, t := range s.logins {
		if t.issuing == 0 && (s.closed || t != s.current && s.holds(t) == 0) {
			idle = append(idle, t)
		}
	}
	s.mu.Unlock()
	for _, t := range idle {
		if err := s.revokeToken(ctx, t); err != nil {
			s.log.Warn("vaultsource: a Vault token of ours that is not needed any more could not be revoked and ends by itself", "error", err)
		}
	}
}

// revokeToken revokes a token of our own, and with it every lease that hangs from it.
func (s *Source) revokeToken(ctx context.Context, t *token) error {
	ctx, cancel := context.WithTimeout(ctx, discardTimeout)
	defer cancel()
	s.mu.Lock()
	gone := t.gone // that its time is over is not for our clock to say
	s.mu.Unlock()
	var err error
	if !gone {
		client, reply := s.conn.request(t.secret)
		if err = client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
			err = s.conn.failed(request{revokeToken, "auth/token/revoke-self"}, err, reply)
		}
	}
	if err != nil && !tokenIsInvalid(err) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.gone = true
	s.logins = slices.DeleteFunc(s.logins, func(x *token) bool { return x == t })
	return nil
}

// revokeWithToken ends a lease that may not be revoked, for the reason given, together
// with its token, if that is ours and has no other.
func (s *Source) revokeWithToken(ctx context.Context, h *holding, denied error) error {
	s.mu.Lock()
	t := h.token
	gone := t.own && t.gone
	alone := t.own && !t.batch && t.issuing == 0 && s.holds(t) == 1 && s.leases[h.id] == h
	t.noRevoke, t.rightsFor = t.own && !t.batch, true // the next lease gets a token of its own
	s.mu.Unlock()
	switch {
	case gone: // and the lease with it
		return nil
	case !alone:
		return denied
	}
	return s.revokeToken(ctx, t)
}

// learnRights asks, once for each token, whether it may revoke leases, so that nobody
// finds out at the first rotation.
func (s *Source) learnRights(ctx context.Context, t *token) {
	s.mu.Lock()
	asked := t.rightsFor
	t.rightsFor = true
	s.mu.Unlock()
	if asked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	client, _ := s.conn.request(t.secret)
	can, err := client.Sys().CapabilitiesSelfWithContext(ctx, "sys/leases/revoke/"+s.path+"/any")
	if err != nil || slices.Contains(can, "update") || slices.Contains(can, "root") {
		return // if nobody knows, the first revocation shows it
	}
	s.mu.Lock()
	t.noRevoke = t.own && !t.batch
	s.mu.Unlock()
	if t.own && !t.batch {
		s.warn("revoke", "the Vault token may not revoke leases, so each lease gets a login of its own, and is revoked with that", "allow", revokeRule(s.path))
		return
	}
	s.warn("revoke", "the Vault token may not revoke leases: database users that have been replaced stay until their leases end", "allow", revokeRule(s.path))
}

func (s *Source) mayNotRevoke(t *token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.noRevoke
}

// forever is when a credential without a lease ends.
const forever = 50 * 365 * 24 * time.Hour

// warnOfTheTokensEnd says that a given token ends before what was read with it, and cannot be renewed.
func (s *Source) warnOfTheTokensEnd(t *token, until time.Time) {
	s.mu.Lock()
	end, ends := t.end, !t.own && t.known && !t.end.IsZero() && !t.movable() && left(t.end, until) > 0
	s.mu.Unlock()
	if ends {
		s.warn("end "+t.secret, "the Vault token ends before the credential would, and cannot be renewed; without a new token there is no credential after that (give a periodic token, a vault_token_file that somebody keeps up to date, or Config.Auth)",
			"token_ends", end.Round(time.Second))
	}
}

// warn logs what is said only once.
func (s *Source) warn(key, message string, args ...any) {
	if _, said := s.warned.LoadOrStore(key, true); !said {
		s.log.Warn("vaultsource: "+message, args...)
	}
}

// Close revokes the tokens that the source has logged in for, and with them every lease
// that is left. A token that was given is left alone. Close the Rotator first. It returns
// what could not be revoked, and ends by itself. A token that reads a credential just now is
// revoked when that is over. Afterwards Issue, and whatever else would
// need a login, returns [ErrClosed]. Idempotent.
func (s *Source) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var idle []*token
	for _, t := range s.logins {
		if t.issuing == 0 { // otherwise the read that is under way gives it back
			idle = append(idle, t)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, t := range idle {
		errs = append(errs, s.revokeToken(ctx, t))
	}
	return errors.Join(errs...)
}
