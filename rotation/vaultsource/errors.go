package vaultsource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
)

// errEmpty is an answer without a body, where there has to be one.
var errEmpty = errors.New("the answer is empty")

// operation is what a request is for.
type operation string

const (
	issueCredential operation = "issue a credential from"
	renewLease      operation = "renew the lease"
	revokeLease     operation = "revoke the lease"
	lookUpLease     operation = "look up the lease"
	lookupToken     operation = "look up the token"
	renewToken      operation = "renew the token"
	revokeToken     operation = "revoke the token"
	logIn           operation = "log in"
)

// request is what was asked of Vault: the operation, and the path or lease id.
type request struct {
	operation operation
	path      string
}

// failure is a request that failed. Its text holds no secret. It unwraps to the
// rotation error that says what to do about it, if one does, and to the cause.
type failure struct {
	request
	address    string
	namespace  string
	why        string // one line
	advice     string // for whoever can mend it; "" if that is nobody
	kind       error  // of package rotation; nil for a passing fault
	cause      error
	retryAfter time.Duration
}

// Error says what was being done, to what, where, why it failed and what to do.
func (f *failure) Error() string {
	s := fmt.Sprintf("%s %s in Vault at %s", f.operation, f.path, f.address)
	if f.namespace != "" {
		s += ", namespace " + f.namespace
	}
	s += ": " + f.why
	if f.advice != "" {
		s += " (" + f.advice + ")"
	}
	return s
}

// Unwrap returns the kind and the cause.
func (f *failure) Unwrap() []error {
	if f.kind == nil {
		return []error{f.cause}
	}
	return []error{f.kind, f.cause}
}

// RetryAfter is how long Vault asked to be left alone; 0 if it did not.
func (f *failure) RetryAfter() time.Duration { return f.retryAfter }

// failed makes a failure of what the api package returned.
func (c *connection) failed(r request, err error, answer *reply) error {
	f := &failure{
		request: r, address: c.address, namespace: c.base.Namespace(),
		retryAfter: answer.retryAfter, cause: err,
	}
	response := new(api.ResponseError)
	if errors.As(err, &response) {
		response.URL = displayed(response.URL)
		text := plain(response.Errors)
		f.why = fmt.Sprintf("Vault answers %d: %s", response.StatusCode, text)
		f.kind, f.advice = classify(r, response.StatusCode, text)
		return f
	}
	// The URL is known, and its user with it; what matters is inside.
	if u := new(url.Error); errors.As(err, &u) {
		f.cause = u.Err
	}
	f.why, f.advice = c.networkFault(r, f.cause)
	return f
}

// denied is a request that is not made, since the token is known not to be allowed to.
func (c *connection) denied(r request) *failure {
	cause := errors.New("the token's policy does not allow it")
	return &failure{
		request: r, address: c.address, namespace: c.base.Namespace(),
		why: cause.Error(), advice: deniedAdvice(r), kind: rotation.ErrDenied, cause: cause,
	}
}

// networkFault puts into words that there was no answer.
func (c *connection) networkFault(r request, err error) (why, advice string) {
	why = err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		why = "no answer in time: " + why
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		why = "the connection was closed before the answer was complete: " + why
	}
	if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
		return why, "is the address right, and Vault up? It is taken from VAULT_ADDR unless given"
	}
	switch {
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return why, "name the CA that signed Vault's certificate in VAULT_CACERT"
	case errors.As(err, new(tls.RecordHeaderError)), strings.Contains(why, "HTTP response to HTTPS client"):
		return why, "does Vault speak plain HTTP here? Then its address begins with http://"
	case r.operation == issueCredential:
		return why, "if Vault has made a user all the same, it removes it at the end of the lease"
	}
	return why, ""
}

// classify tells apart what Vault says. Most of what is wrong with a lease comes
// as 400, and most of what is wrong with a role as 500, so the text has to do.
// A nil kind is a fault that may pass.
func classify(r request, status int, text string) (kind error, advice string) {
	has := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case r.operation == logIn:
		return loginRefused(status)
	case status == http.StatusForbidden && isInvalidToken(text):
		return rotation.ErrDenied, "the token has ended, was revoked, or is not of this Vault and namespace: give a new one"
	case status == http.StatusForbidden:
		return rotation.ErrDenied, deniedAdvice(r)
	case r.operation == renewLease && status == http.StatusBadRequest:
		return renewalRefused(text), ""
	case r.operation == lookUpLease && status == http.StatusBadRequest && has("invalid lease"):
		return rotation.ErrLeaseGone, ""
	case r.operation == renewToken && status == http.StatusBadRequest:
		return rotation.ErrInvalid, "" // it cannot be renewed
	case r.operation != issueCredential:
		return nil, ""
	case status == http.StatusNotFound:
		return rotation.ErrInvalid, "nothing is mounted there, or nothing can be read, or it was deleted: the path must be mount, creds and role, as in database/creds/app, or mount, data and name of a KV version 2 secret, as in secret/data/app; look at the namespace too"
	case status == http.StatusMethodNotAllowed:
		return rotation.ErrInvalid, "this path cannot be read: it must be mount, creds and role, as in database/creds/app"
	case has("unknown role"):
		return rotation.ErrInvalid, "the role does not exist: create it, or mend the path's last part"
	case has("is not an allowed role"):
		return rotation.ErrInvalid, "add the role to allowed_roles of its database connection in Vault"
	case has("failed to find entry for connection"):
		return rotation.ErrInvalid, "the role's db_name must name a database connection that exists in Vault"
	case has("unsupported credential_type"):
		return rotation.ErrInvalid, "the role's credential_type must be password"
	}
	return nil, ""
}

// loginRefused tells a login that is not accepted from a Vault that cannot say.
func loginRefused(status int) (kind error, advice string) {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden:
		return rotation.ErrDenied, "are the auth method's role and secret right and still valid, and its mount path and namespace?"
	case http.StatusNotFound:
		return rotation.ErrInvalid, "no auth method is mounted there: look at its mount path and the namespace"
	}
	return nil, ""
}

// renewalRefused tells a lease that cannot be renewed any more from a database
// that could not be asked.
func renewalRefused(text string) error {
	for _, gone := range []string{
		"lease not found",
		"lease expired",
		"lease is not renewable",
		"lease is expired and has failed previous revocation attempts",
		"past the max TTL, cannot renew",
		"no valid associated token",
	} {
		if strings.Contains(text, gone) {
			return rotation.ErrLeaseGone
		}
	}
	return nil
}

// deniedAdvice is the policy that is missing.
func deniedAdvice(r request) string {
	switch r.operation {
	case issueCredential:
		return fmt.Sprintf(`the token's policy needs: path %q { capabilities = ["read"] }; Vault says the same of a path that is misspelt`, r.path)
	case revokeLease:
		return fmt.Sprintf(`the token's policy needs: %s; without it the lease lasts until its end`, revokeRule(path.Dir(r.path)))
	case renewLease:
		return `the token's policy needs: path "sys/leases/renew" { capabilities = ["update"] }, as Vault's default policy has it`
	case lookUpLease:
		return `the token's policy needs: path "sys/leases/lookup" { capabilities = ["update"] }, as Vault's default policy has it`
	case renewToken:
		return `the token's policy needs: path "auth/token/renew-self" { capabilities = ["update"] }, as Vault's default policy has it`
	case revokeToken:
		return `the token's policy needs: path "auth/token/revoke-self" { capabilities = ["update"] }, as Vault's default policy has it`
	default:
		return `the token's policy needs: path "auth/token/lookup-self" { capabilities = ["read"] }, as Vault's default policy has it`
	}
}

// revokeRule is what a policy has to say so that leases of a path may be revoked.
func revokeRule(path string) string {
	return fmt.Sprintf(`path "sys/leases/revoke/%s/*" { capabilities = ["update"] }`, path)
}

func isInvalidToken(text string) bool {
	return strings.Contains(text, "invalid token") || strings.Contains(text, "bad token")
}

// tokenIsInvalid tells a token that has ended from one that may not do something.
func tokenIsInvalid(err error) bool {
	response := new(api.ResponseError)
	return errors.As(err, &response) && response.StatusCode == http.StatusForbidden && isInvalidToken(plain(response.Errors))
}

// Vault's texts are lists over several lines, and wrap a Go value.
var (
	listHeader = regexp.MustCompile(`\d+ errors? occurred:`)
	goValue    = regexp.MustCompile(`resp: \(\*logical\.Response\)\([^)]*\) err: `)
)

// maxText is enough for every message of Vault's own; more is a proxy's web page.
const maxText = 500

// plain makes one line of what Vault says.
func plain(texts []string) string {
	s := strings.Join(texts, "; ")
	s = goValue.ReplaceAllString(listHeader.ReplaceAllString(s, ""), "")
	var items []string
	for item := range strings.SplitSeq(s, "* ") {
		if item = strings.Join(strings.Fields(item), " "); item != "" {
			items = append(items, item)
		}
	}
	s = strings.ReplaceAll(strings.Join(items, ", "), ":, ", ": ")
	if s == "" {
		return "no reason given"
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + " …"
	}
	return s
}
