package vaultsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
)

var (
	_ rotation.Source  = (*Source)(nil)
	_ rotation.Renewer = (*Source)(nil)
	_ rotation.Revoker = (*Source)(nil)
)

// discardTimeout bounds giving back what an answer brought that cannot be used.
const discardTimeout = 10 * time.Second

// Source issues database credentials from a role of Vault's database secrets
// engine. It is safe for concurrent use, and has nothing to close: no connection
// and no goroutine outlives a call. (A Client that was given keeps the idle
// connections of its own transport.)
type Source struct {
	path string
	conn *connection
	log  *slog.Logger

	deafOnce sync.Once

	mu      sync.Mutex // guards what follows, and is not held across a request
	current *token     // the token of the last request
	leases  map[string]holding
}

// holding is a lease that is not known to be gone, and the token it hangs from,
// which need not be the one that requests are made with today.
type holding struct {
	token *token
	end   time.Time
}

// New checks the configuration and returns the source. It sends nothing: whether
// Vault is there and lets us in shows when the first credential is issued, and
// can be tried again then. Errors are those of the configuration: a path or an
// address that cannot be one, a file that cannot be read, no token.
func New(_ context.Context, config Config) (*Source, error) {
	path, err := cleanPath(config.Path)
	if err != nil {
		return nil, fmt.Errorf("set up the Vault source: %w", err)
	}
	conn, err := connect(config)
	if err != nil {
		return nil, fmt.Errorf("set up the Vault source: %w", err)
	}
	s := &Source{path: path, conn: conn, log: config.Logger, leases: make(map[string]holding)}
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

// Issue reads the path, once: nothing repeats a read whose answer was lost. Only
// the client's timeout ends it early, not ctx, unless that is done already. The
// TTL is the earlier of the lease's end and the token's.
//
// It returns an error with [rotation.ErrDenied] if the token may not read the
// path, with [rotation.ErrInvalid] if there is no such role, or the answer is
// not a leased user and password, and any other for what may pass. The lease of
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
	token, err := s.currentToken()
	if err != nil {
		return credential, lease, fmt.Errorf("%s %s: %w", issueCredential, s, err)
	}
	start := time.Now()
	secret, err := s.read(ctx, token)
	if err != nil {
		return credential, lease, err
	}
	credential, lease, err = parseIssue(secret)
	if err != nil {
		return credential, lease, s.unusable(ctx, secret, err)
	}
	s.bind(ctx, token, token, start, &lease)
	s.remember(lease, token, start)
	return credential, lease, nil
}

func (s *Source) read(ctx context.Context, t *token) (*api.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, s.conn.timeout)
	defer cancel()
	client, reply := s.conn.request(t.secret)
	fail := func(err error) error {
		return s.conn.failed(request{issueCredential, s.path}, err, reply)
	}
	// Raw, because Read makes nothing at all of a 404 and what it says.
	response, err := client.Logical().ReadRawWithContext(ctx, s.path)
	if response != nil {
		defer func() { _ = response.Body.Close() }()
	}
	if err != nil {
		return nil, fail(err)
	}
	secret, err := api.ParseSecret(response.Body)
	if err == nil && secret == nil {
		err = errEmpty
	}
	if err != nil {
		return nil, fail(err)
	}
	return secret, nil
}

// parseIssue takes the answer to a read of creds. Its errors name fields, and
// never what is in them.
func parseIssue(secret *api.Secret) (rotation.Credential, rotation.Lease, error) {
	user, _ := secret.Data["username"].(string)
	password, _ := secret.Data["password"].(string)
	lease := rotation.Lease{
		ID:        secret.LeaseID,
		TTL:       time.Duration(secret.LeaseDuration) * time.Second,
		Renewable: secret.Renewable,
		Revocable: true,
		Capped:    isCapped(secret.Warnings),
	}
	var problem string
	switch {
	case secret.WrapInfo != nil:
		problem = "the answer is wrapped"
	case user == "" || password == "":
		fields := slices.Sorted(maps.Keys(secret.Data))
		problem = fmt.Sprintf("the answer has no username and password, but these fields: %s", strings.Join(fields, ", "))
		if len(fields) == 0 {
			problem = "the answer has no fields at all"
		}
	case lease.ID == "":
		problem = "the answer has a username and a password but no lease: this is not a dynamic role"
	case lease.TTL < time.Second:
		problem = "the lease lasts less than a second"
	default:
		return rotation.NewCredential(user, password), lease, nil
	}
	return rotation.Credential{}, rotation.Lease{}, errors.New(problem)
}

// unusable gives back the lease of an answer that is not a credential, so that
// nothing is left behind, and says what is wrong with it.
func (s *Source) unusable(ctx context.Context, secret *api.Secret, problem error) error {
	f := &failure{
		request: request{issueCredential, s.path}, address: s.conn.address, namespace: s.conn.base.Namespace(),
		why: problem.Error(), cause: problem, kind: rotation.ErrInvalid,
		advice: "the path must be that of a dynamic database role, such as database/creds/app",
	}
	if secret.LeaseID == "" {
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, discardTimeout)
	defer cancel()
	if err := s.Revoke(ctx, rotation.Lease{ID: secret.LeaseID}); err != nil {
		return fmt.Errorf("%w; its lease could not be given back and ends by itself: %w", f, err)
	}
	return f
}

// Renew asks for the lease to last increment from now, in whole seconds, rounded
// up. What it returns is what Vault has granted, up to the end of the token that
// the lease was issued with.
//
// It returns an error with [rotation.ErrLeaseGone] if the lease has ended or can
// never be renewed again, with [rotation.ErrDenied] if the token may not renew,
// and any other for what may pass: a database that is down, a Vault that is
// sealed, an empty answer.
func (s *Source) Renew(ctx context.Context, lease rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	token, err := s.currentToken()
	if err != nil {
		return rotation.Lease{}, fmt.Errorf("%s %s: %w", renewLease, lease.ID, err)
	}
	client, reply := s.conn.request(token.secret)
	start := time.Now()
	secret, err := client.Sys().RenewWithContext(ctx, lease.ID, wholeSeconds(increment))
	if err == nil && (secret == nil || secret.LeaseID == "") {
		err = errEmpty
	}
	if err != nil {
		return rotation.Lease{}, s.conn.failed(request{renewLease, lease.ID}, err, reply)
	}
	granted := rotation.Lease{
		ID:        secret.LeaseID,
		TTL:       time.Duration(secret.LeaseDuration) * time.Second,
		Renewable: secret.Renewable,
		Revocable: lease.Revocable,
		Capped:    isCapped(secret.Warnings),
	}
	if granted.TTL <= 0 { // which would mean that it has no end
		return rotation.Lease{}, fmt.Errorf("%s %s: less than a second was granted: %w", renewLease, lease.ID, rotation.ErrLeaseGone)
	}
	holder := s.holderOf(lease.ID, token)
	s.bind(ctx, holder, token, start, &granted)
	s.forget(lease.ID)
	s.remember(granted, holder, start)
	return granted, nil
}

// Revoke ends the lease and returns when Vault has removed the user, or says why
// it could not: [rotation.ErrDenied] if the token may not revoke, or any other
// error, with the database's text, for what may pass. A lease that does not exist
// is revoked.
func (s *Source) Revoke(ctx context.Context, lease rotation.Lease) error {
	if lease.ID == "" {
		return fmt.Errorf("%s: it has no id: %w", revokeLease, rotation.ErrInvalid)
	}
	token, err := s.currentToken()
	if err != nil {
		return fmt.Errorf("%s %s: %w", revokeLease, lease.ID, err)
	}
	client, reply := s.conn.request(token.secret)
	// This call puts the id into the path, where a policy can restrict it. Without
	// Sync, Vault would say yes and try later.
	err = client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: lease.ID, Sync: true})
	if err != nil {
		return s.conn.failed(request{revokeLease, lease.ID}, err, reply)
	}
	s.forget(lease.ID)
	return nil
}

// bind shortens a lease that was granted by a request sent at start to what is
// left of the token it hangs from.
func (s *Source) bind(ctx context.Context, holder, current *token, start time.Time, lease *rotation.Lease) {
	b := s.boundOf(ctx, holder, start.Add(lease.TTL))
	if rest := left(start, b.end); !b.end.IsZero() && rest < lease.TTL {
		lease.TTL = max(rest, time.Millisecond) // 0 would mean that it has no end
		// Whoever keeps a renewable token alive moves the end; the next renewal
		// shows whether anybody does.
		lease.Capped = lease.Capped || !b.renewable
	}
	// A token that was replaced is not kept alive any more.
	lease.Capped = lease.Capped || holder != current
}

// holderOf returns the token that a lease hangs from; the current one if the
// lease is not one of ours.
func (s *Source) holderOf(id string, current *token) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.leases[id]; ok {
		return held.token
	}
	return current
}

// remember notes a lease, and drops those whose end has passed: they will not be
// renewed again, and not all are revoked.
func (s *Source) remember(lease rotation.Lease, holder *token, start time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.leases, func(_ string, h holding) bool { return left(start, h.end) < 0 })
	s.leases[lease.ID] = holding{holder, start.Add(lease.TTL)}
}

func (s *Source) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, id)
}

// isCapped looks for Vault's warning that max_ttl is reached.
func isCapped(warnings []string) bool {
	return slices.ContainsFunc(warnings, func(w string) bool {
		return strings.Contains(w, "exceeded the effective max_ttl")
	})
}

// wholeSeconds rounds up, and to no less than 1: Vault takes 0 for the role's
// default.
func wholeSeconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}
