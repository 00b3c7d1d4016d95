package vaultsource

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// Config says what to read and how to reach Vault. Path is all that is needed
// where the standard VAULT_* environment says the rest. No field holds a secret.
type Config struct {
	// Path is what to read for a credential: of the database secrets engine, mounted
	// at "database", "database/creds/app" for the dynamic role app and
	// "database/static-creds/app" for a static one; of KV, mounted at "secret",
	// "secret/data/app" in version 2 and "secret/app" in version 1. What it is shows
	// in the answer ([Source.Kind]). Slashes at either end are ignored.
	Path string
	// UsernameField and PasswordField are what the answer calls them. Default
	// "username" and "password".
	UsernameField, PasswordField string
	// RefreshInterval is how often a KV secret is read again, to see whether it has
	// changed, beside the times when the database refuses it. Default 5 minutes.
	RefreshInterval time.Duration
	// LeaseTTL is how long a lease may last from its issue, and from each renewal, where
	// the role grants more: what a crash leaves behind is gone after that. It costs
	// a request for each issue, more renewals, and as much of the time that an outage of
	// Vault can last. Default: what the role grants. Whole seconds.
	LeaseTTL time.Duration

	// Client is used as given and never changed: requests are made with its
	// address, headers, namespace, TLS, limits and timeout, but without its
	// automatic retries. Its token is read anew for each request, so a login
	// kept up elsewhere is followed. Nil makes a client from the VAULT_*
	// environment and the fields below, which must be empty otherwise.
	Client *api.Client

	// Address of Vault, such as "https://vault.example:8200". "" means
	// VAULT_AGENT_ADDR, else VAULT_ADDR, else https://127.0.0.1:8200.
	Address string
	// Namespace of Vault Enterprise and HCP. "" means VAULT_NAMESPACE.
	Namespace string
	// CACert is a file of PEM certificates to verify Vault's with. "" means
	// VAULT_CACERT and its kin, else the system's.
	CACert string
	// TokenFile is a file that holds the token, such as the sink of a Vault
	// Agent. It is read anew for each request; while it is missing or empty the
	// token that was read last goes on being used. "" means VAULT_TOKEN, which may
	// be missing where VAULT_AGENT_ADDR is set or the address is a unix socket: then the
	// Agent or Proxy there adds its own. The vault command's ~/.vault-token is never
	// used: a service should not run on the login of whoever started it.
	TokenFile string
	// Auth logs in, instead of a token that is given: one of the methods of
	// github.com/hashicorp/vault/api/auth (AppRole, Kubernetes, AWS, GCP, Azure,
	// userpass, LDAP) or of your own. The source logs in when it first needs to and
	// again before its token ends, renews the token in between, revokes each once the
	// leases that hang from it are gone, and the last one in [Source.Close].
	Auth api.AuthMethod

	// Logger gets warnings that no error can carry. Nil discards them.
	Logger *slog.Logger
}

// Format writes the path and where it is read, under every verb: some verbs
// would show what the client holds, its token included.
func (c Config) Format(f fmt.State, _ rune) {
	from := "the address in the environment"
	switch {
	case c.Client != nil:
		from = displayed(c.Client.Address())
	case c.Address != "":
		from = displayed(c.Address)
	}
	_, _ = fmt.Fprintf(f, "%s in Vault at %s", c.Path, from)
}

// defaultRefresh is the default of Config.RefreshInterval.
const defaultRefresh = 5 * time.Minute

func (c Config) fields() fields {
	return fields{cmp.Or(c.UsernameField, "username"), cmp.Or(c.PasswordField, "password")}
}

// check returns what is wrong with the fields that nothing else looks at.
func (c Config) check() error {
	f := c.fields()
	switch {
	case f.user == f.password:
		return fmt.Errorf("UsernameField and PasswordField are both %q", f.user)
	case c.RefreshInterval < 0:
		return fmt.Errorf("RefreshInterval is %v: it must not be negative; 0 means %v", c.RefreshInterval, defaultRefresh)
	case c.LeaseTTL < 0, c.LeaseTTL%time.Second != 0:
		return fmt.Errorf("LeaseTTL is %v: it must be whole seconds; 0 means what the role grants", c.LeaseTTL)
	case c.Auth != nil && c.TokenFile != "":
		return errors.New("both Auth and TokenFile are set: one logs in, the other is somebody's login")
	}
	return nil
}

// cleanPath returns the path without slashes around it, or says what is wrong.
func cleanPath(path string) (string, error) {
	cleaned := strings.Trim(strings.TrimSpace(path), "/")
	segments := strings.Split(cleaned, "/")
	problem := ""
	switch {
	case cleaned == "":
		return "", errors.New("no Vault path is given: set it to where credentials are read, such as database/creds/app")
	case strings.Contains(cleaned, "://"):
		problem = "is a URL: give the path alone, such as database/creds/app, and the address in VAULT_ADDR"
	case segments[0] == "v1":
		problem = fmt.Sprintf("begins with v1, which belongs to the HTTP API: write %q", strings.TrimPrefix(cleaned, "v1/"))
	case strings.ContainsAny(cleaned, "?#%\\"):
		problem = "holds one of ? # % \\, which no path of Vault's does"
	case strings.ContainsFunc(cleaned, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		problem = "holds white space or a control character"
	case len(segments) < 2:
		problem = "names no role: give mount, creds and role, such as database/creds/app"
	case slices.Contains(segments, "") || slices.Contains(segments, ".") || slices.Contains(segments, ".."):
		problem = "holds an empty, . or .. segment"
	}
	if problem != "" {
		// A URL may hold a password, and need not be shown to be recognised.
		if strings.ContainsAny(cleaned, ":@?") {
			return "", errors.New("the Vault path " + problem)
		}
		return "", fmt.Errorf("the Vault path %q %s", path, problem)
	}
	return cleaned, nil
}

// checkAddress accepts what Vault's client can dial. The address is not shown,
// and neither is url.Parse's complaint, since either may hold a password.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	usable := err == nil && ((u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" ||
		u.Scheme == "unix" && u.Path != "")
	if !usable {
		return errors.New("the Vault address (VAULT_ADDR, VAULT_AGENT_ADDR or Config.Address) cannot be used: it must look like https://vault.example:8200, with its scheme")
	}
	return nil
}

// displayed is the address for messages: without user and password.
func displayed(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that is not a URL"
	}
	u.User = nil
	return u.String()
}
