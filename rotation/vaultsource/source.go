package vaultsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
)

var (
	_ rotation.Source  = (*Source)(nil)
	_ rotation.Renewer = (*Source)(nil)
	_ rotation.Revoker = (*Source)(nil)
	_ rotation.Checker = (*Source)(nil)
)

// discardTimeout bounds giving back what is of no use any more.
const discardTimeout = 10 * time.Second

// Source reads database credentials from Vault: from a role of the database secrets
// engine, dynamic or static, or from a KV secret. It is safe for concurrent use. No
// connection and no goroutine outlives a call, except for the idle connections of a
// Client's own transport. Call Close where it logs in by itself (Config.Auth).
type Source struct {
	path     string
	fields   fields
	refresh  time.Duration
	leaseTTL time.Duration
	auth     api.AuthMethod // nil: the token is given
	conn     *connection
	log      *slog.Logger
	upkeep   chan struct{} // holds one item; taken for a login and a renewal of the token
	warned   sync.Map      // what was said once

	mu      sync.Mutex // guards what follows, and is not held across a request
	current *token     // the token of the last request
	logins  []*token   // our own, not known to be gone
	leases  map[string]*holding
	kind    Kind
	closed  bool
}

// New checks the configuration and returns the source. It sends nothing: whether
// Vault is there and lets us in shows when the first credential is issued, and
// can be tried again then. Errors are those of the configuration: a path or an
// address that cannot be one, a file that cannot be read, no token.
func New(_ context.Context, config Config) (*Source, error) {
	path, err := cleanPath(config.Path)
	if err == nil {
		err = config.check()
	}
	if err != nil {
		return nil, fmt.Errorf("set up the Vault source: %w", err)
	}
	conn, err := connect(config)
	if err != nil {
		return nil, fmt.Errorf("set up the Vault source: %w", err)
	}
	s := &Source{
		path: path, fields: config.fields(), refresh: config.RefreshInterval, leaseTTL: config.LeaseTTL,
		auth: config.Auth, conn: conn, log: config.Logger,
		upkeep: make(chan struct{}, 1), leases: make(map[string]*holding),
	}
	if s.refresh == 0 {
		s.refresh = defaultRefresh
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// String names the path and the address.
func (s *Source) String() string { return s.path + " in Vault at " + s.conn.address }

// Format writes String under every verb, %#v included, since the fields hold the
// token.
func (s *Source) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// Kind returns what the path was at the last read; "" before the first.
func (s *Source) Kind() Kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kind
}

// Issue reads the path, once: nothing repeats a read whose answer was lost. Only
// the client's timeout ends it early, not ctx, unless that is done already. Where the
// source logs in by itself it does so first if need be, also when a token is denied
// that was good before.
//
// The TTL of a lease is the earlier of its own end and the token's. What has no lease
// has no TTL either, but a RefreshAfter: a second after Vault changes the password of a
// static role, or Config.RefreshInterval for KV.
//
// It returns an error with [rotation.ErrDenied] if the token may not read the
// path, or the login is denied, with [rotation.ErrInvalid] if there is no such role,
// or the answer is no user and password, and any other for what may pass. The lease of
// an answer that cannot be used is revoked.
func (s *Source) Issue(ctx context.Context) (rotation.Credential, rotation.Lease, error) {
	credential, lease, err := s.issue(ctx)
	if err != nil {
		return rotation.Credential{}, rotation.Lease{}, err
	}
	return credential, lease, nil
}

func (s *Source) issue(ctx context.Context) (credential rotation.Credential, lease rotation.Lease, err error) {
	if err := ctx.Err(); err != nil {
		return credential, lease, fmt.Errorf("%s %s: %w", issueCredential, s, err)
	}
	// A read that is cancelled can leave a user that has no lease, which Vault
	// never removes.
	ctx = context.WithoutCancel(ctx)
	t, err := s.tokenToIssue(ctx)
	if err != nil {
		return credential, lease, fmt.Errorf("%s %s: %w", issueCredential, s, err)
	}
	credential, lease, err = s.issueWith(ctx, t)
	if errors.Is(err, rotation.ErrDenied) && s.wasGood(t, err) { // somebody has revoked it
		if t, err = s.logIn(ctx, t); err != nil {
			return credential, lease, fmt.Errorf("%s %s: %w", issueCredential, s, err)
		}
		return s.issueWith(ctx, t)
	}
	return credential, lease, err
}

// issueWith reads with a token, which is not given back meanwhile: a lease that comes into
// being under a token that is gone would be nobody's.
func (s *Source) issueWith(ctx context.Context, t *token) (credential rotation.Credential, lease rotation.Lease, err error) {
	s.using(t, +1)
	defer func() {
		if s.using(t, -1) {
			s.dropTokens(ctx) // Close has left it to us
		}
	}()
	start := time.Now()
	secret, age, err := s.read(ctx, t)
	if err != nil {
		return credential, lease, err
	}
	a, err := s.fields.parse(secret)
	if err != nil {
		return credential, lease, s.unusable(ctx, t, secret, err)
	}
	s.mu.Lock()
	s.kind, t.proven = a.kind, true
	s.mu.Unlock()
	if a.kind != KindDynamic {
		s.keep(ctx, t, start)
		s.warnOfTheTokensEnd(t, start.Add(forever))
		return a.credential, s.unleased(a, t, start), nil
	}
	h := s.shorten(ctx, granted(secret, t, start.Add(-age)), start)
	s.remember(h, start)
	s.learnRights(ctx, t)
	s.keep(ctx, t, h.end)
	s.warnOfTheTokensEnd(t, h.end)
	return a.credential, s.lease(h, start), nil
}

// read also returns how old the answer is, where it comes out of a cache.
func (s *Source) read(ctx context.Context, t *token) (*api.Secret, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, s.conn.timeout)
	defer cancel()
	client, reply := s.conn.request(t.secret)
	fail := func(err error) (*api.Secret, time.Duration, error) {
		return nil, 0, s.failed(t, request{issueCredential, s.path}, err, reply)
	}
	// Raw, because Read makes nothing at all of a 404 and what it says.
	response, err := client.Logical().ReadRawWithContext(ctx, s.path)
	if response != nil {
		defer func() { _ = response.Body.Close() }()
	}
	if err != nil {
		return fail(err)
	}
	secret, err := api.ParseSecret(response.Body)
	if err == nil && secret == nil {
		err = errEmpty
	}
	if err != nil {
		return fail(err)
	}
	return secret, reply.age, nil
}

// unusable gives back the lease of an answer that is not a credential, so that
// nothing is left behind, and says what is wrong with it.
func (s *Source) unusable(ctx context.Context, t *token, secret *api.Secret, problem error) error {
	f := &failure{
		request: request{issueCredential, s.path}, address: s.conn.address, namespace: s.conn.base.Namespace(),
		why: problem.Error(), cause: problem, kind: rotation.ErrInvalid,
		advice: "the path must be that of a database role or of a secret with a user and a password; " +
			"if its fields have other names, give them (UsernameField and PasswordField, vault_username_field and vault_password_field)",
	}
	if secret.LeaseID == "" {
		return f
	}
	s.remember(granted(secret, t, time.Now()), time.Now())
	ctx, cancel := context.WithTimeout(ctx, discardTimeout)
	defer cancel()
	if err := s.Revoke(ctx, rotation.Lease{ID: secret.LeaseID}); err != nil {
		return fmt.Errorf("%w; its lease could not be given back and ends by itself: %w", f, err)
	}
	return f
}

// Renew asks for the lease to last increment from now, in whole seconds, rounded
// up, and for the token that it hangs from to last at least as long. What it returns
// is what Vault has granted.
//
// It returns an error with [rotation.ErrLeaseGone] if the lease has ended or can
// never be renewed again, with [rotation.ErrDenied] if the token may not renew,
// and any other for what may pass: a database that is down, a Vault that is
// sealed, an empty answer.
func (s *Source) Renew(ctx context.Context, lease rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	h := s.held(lease.ID)
	t, err := s.tokenFor(ctx, h)
	if err != nil {
		return rotation.Lease{}, fmt.Errorf("%s %s: %w", renewLease, lease.ID, err)
	}
	start := time.Now()
	if h == nil || h.renewable { // otherwise it is the token that can be renewed
		renewed, err := s.renewLease(ctx, t, lease.ID, s.increment(h, increment), start)
		if err != nil {
			return rotation.Lease{}, err
		}
		if renewed.granted <= 0 { // which would mean that it has no end
			return rotation.Lease{}, fmt.Errorf("%s %s: less than a second was granted: %w", renewLease, lease.ID, rotation.ErrLeaseGone)
		}
		if h != nil {
			renewed.token = h.token
		}
		h = renewed
		s.renewed(lease.ID, h, start)
	}
	s.keep(ctx, h.token, h.end)
	return s.lease(h, start), nil
}

// increment is what to ask a renewal for: not less than before, since the Rotator may
// know of the token's end only, and a small one would shorten the lease.
func (s *Source) increment(h *holding, asked time.Duration) time.Duration {
	switch {
	case s.leaseTTL > 0:
		return s.leaseTTL
	case h != nil:
		return max(asked, h.granted)
	default:
		return asked
	}
}

// Revoke ends the lease and returns when Vault has removed the user, or says why
// it could not: [rotation.ErrDenied] if the token may not revoke, or any other
// error, with the database's text, for what may pass. A lease that does not exist
// is revoked. Where leases may not be revoked, but the token is our own and this is
// the only lease that hangs from it, the token is revoked, and the lease with it.
func (s *Source) Revoke(ctx context.Context, lease rotation.Lease) error {
	if lease.ID == "" {
		return fmt.Errorf("%s: it has no id: %w", revokeLease, rotation.ErrInvalid)
	}
	h := s.held(lease.ID)
	t, err := s.tokenFor(ctx, h)
	if errors.Is(err, ErrClosed) && h != nil && h.token.own && !h.token.batch {
		return nil // it went with its token
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", revokeLease, lease.ID, err)
	}
	err = s.revokeLease(ctx, t, lease.ID)
	if errors.Is(err, rotation.ErrDenied) && h != nil {
		err = s.revokeWithToken(ctx, h, err)
	}
	if err != nil {
		return err
	}
	s.forget(lease.ID)
	s.dropTokens(ctx)
	return nil
}

func (s *Source) revokeLease(ctx context.Context, t *token, id string) error {
	if s.mayNotRevoke(t) {
		return s.conn.denied(request{revokeLease, id})
	}
	client, reply := s.conn.request(t.secret)
	// This call puts the id into the path, where a policy can restrict it. Without
	// Sync, Vault would say yes and try later.
	err := client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: id, Sync: true})
	if err != nil {
		return s.failed(t, request{revokeLease, id}, err, reply)
	}
	return nil
}

// Check asks Vault whether the lease exists. It returns [rotation.ErrLeaseGone] if it
// does not, [rotation.ErrDenied] if the token may not ask, and any other error for what
// may pass.
func (s *Source) Check(ctx context.Context, lease rotation.Lease) error {
	t, err := s.tokenFor(ctx, s.held(lease.ID))
	if err != nil {
		return fmt.Errorf("%s %s: %w", lookUpLease, lease.ID, err)
	}
	client, reply := s.conn.request(t.secret)
	secret, err := client.Sys().LookupWithContext(ctx, lease.ID)
	if err == nil && secret == nil {
		err = errEmpty
	}
	if err != nil {
		return s.failed(t, request{lookUpLease, lease.ID}, err, reply)
	}
	if ttl, err := number(secret.Data["ttl"]); err == nil && ttl <= 0 {
		return fmt.Errorf("%s %s: it is being revoked: %w", lookUpLease, lease.ID, rotation.ErrLeaseGone)
	}
	return nil
}
