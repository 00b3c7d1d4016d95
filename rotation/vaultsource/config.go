package vaultsource

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// Config says what to read and how to reach Vault. Path is all that is needed
// where the standard VAULT_* environment says the rest. No field holds a secret.
type Config struct {
	// Path is what to read for a new credential: the mount of the database
	// secrets engine, "creds", and the role, as in "database/creds/app". Slashes
	// at either end are ignored.
	Path string

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
	// token that was read last goes on being used. "" means VAULT_TOKEN. The
	// vault command's ~/.vault-token is never used: a service should not run on
	// the login of whoever started it.
	TokenFile string

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
