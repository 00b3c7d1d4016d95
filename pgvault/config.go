package pgvault

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/internal/origin"
	"github.com/vaultpool/vaultpool/internal/vaultparams"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// Config is a pgxpool.Config and where its credentials come from: exactly one of
// Vault, Source and Rotator. It must be made by [ParseConfig] and may then be
// changed.
//
// User and Password of ConnConfig are ignored, wherever they come from (PGUSER,
// PGPASSWORD, .pgpass, a service file): every connection logs in with the
// credential that is current when it does.
type Config struct {
	// The pool. Hooks that are set here all run: ours are chained to a copy.
	*pgxpool.Config

	// Vault says which role of which Vault to ask. ParseConfig fills it from the
	// vault_* parameters; what they leave out comes from the VAULT_* environment.
	Vault vaultsource.Config
	// Source issues the credentials instead of Vault.
	Source rotation.Source
	// Rotator is shared with other pools instead. Whoever made it closes it, after
	// the pools. Rotation must be left zero then, since the Rotator has its own.
	Rotator *rotation.Rotator
	// Rotation tunes the Rotator that the pool makes. The zero value is good.
	Rotation rotation.Config
}

// ParseConfig reads a connection string as pgxpool.ParseConfig does and takes out
// the parameters that are ours:
//
//   - vault_path: where to read credentials: a dynamic role, "database/creds/app", a
//     static one, "database/static-creds/app", or a KV secret, "secret/data/app"
//   - vault_addr, vault_namespace, vault_ca_cert: instead of VAULT_ADDR,
//     VAULT_NAMESPACE and VAULT_CACERT
//   - vault_token_file: a file that holds the token, instead of VAULT_TOKEN
//   - vault_lease_ttl: duration in whole seconds, how long a lease may last at most
//     (default: what the role grants)
//   - vault_username_field, vault_password_field: what the answer calls them (default
//     username and password)
//   - vault_refresh_interval: duration, how often a KV secret is read again (default 5m)
//   - vault_drain_timeout: duration (default 5m)
//   - vault_start_timeout: duration (default 30s)
//   - vault_close_timeout: duration (default 10s)
//   - vault_renew_increment: duration (default, and least: the TTL first granted)
//   - vault_max_unrevoked: integer of at least 2 (default 5)
//
// An unknown vault_* parameter is an error, and so is a user or a password in the
// string, since Vault issues both. No error shows the string or a secret.
func ParseConfig(connString string) (*Config, error) {
	if field := loginIn(connString); field != "" {
		return nil, fmt.Errorf("pgvault: the connection string sets the %s; remove it: user and password are issued, by Vault or whatever the source is, and change while the pool is open", field)
	}
	pool, err := pgxpool.ParseConfig(connString)
	if err != nil {
		return nil, parseError(connString, err)
	}
	config := &Config{Config: pool}
	if err := vaultparams.Take(pool.ConnConfig.RuntimeParams, &config.Vault, &config.Rotation); err != nil {
		return nil, fmt.Errorf("pgvault: connection string: %w", err)
	}
	return config, nil
}

// parseError is pgx's, but for strings that may hold a password in a place where
// nobody expects it: pgx shows parts of what it cannot parse.
func parseError(connString string, err error) error {
	plain, undecodable := url.PathUnescape(connString)
	if undecodable != nil || strings.ContainsRune(plain, '@') || strings.Contains(strings.ToLower(plain), "pass") {
		return errors.New("pgvault: the connection string cannot be parsed; what is wrong with it is not shown, since it seems to hold a user or a password: remove them, Vault issues both")
	}
	return fmt.Errorf("pgvault: %w", err)
}

// loginIn returns which half of a login a connection string sets itself, "" if
// none. It reads the string as pgx does, and what is malformed as far as it goes.
func loginIn(connString string) string {
	_, uri, isURI := strings.Cut(connString, "://")
	if isURI && (strings.HasPrefix(connString, "postgres://") || strings.HasPrefix(connString, "postgresql://")) {
		return loginInURI(uri)
	}
	for key := range keywords(connString) {
		if key == "user" || key == "password" {
			return key
		}
	}
	return ""
}

// loginInURI takes what follows the scheme, which net/url and PostgreSQL read
// differently
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS).
func loginInURI(uri string) string {
	if i := strings.IndexAny(uri, "@/"); i >= 0 && uri[i] == '@' {
		user, password, _ := strings.Cut(uri[:i], ":")
		switch {
		case password != "":
			return "password"
		case user != "":
			return "user"
		}
	}
	_, query, _ := strings.Cut(uri, "?")
	for pair := range strings.SplitSeq(query, "&") {
		raw, _, _ := strings.Cut(pair, "=")
		if key, _ := url.PathUnescape(strings.Trim(raw, " ")); key == "user" || key == "password" {
			return key
		}
	}
	return ""
}

// keywords yields the keys of a keyword/value connection string, whose values may
// be quoted and escaped
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE).
func keywords(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for {
			key, rest, ok := strings.Cut(s, "=")
			if !ok || !yield(strings.TrimSpace(key)) {
				return
			}
			s = afterValue(strings.TrimLeft(rest, " \t\r\n\v\f"))
		}
	}
}

func afterValue(s string) string {
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case quoted && c == '\'', !quoted && strings.IndexByte(" \t\r\n\v\f", c) >= 0:
			return s[i+1:]
		}
	}
	return ""
}

// Copy returns a deep copy, as pgxpool.Config.Copy does. Source, Rotator and the
// Vault client are shared with the original.
func (c *Config) Copy() *Config {
	copied := *c
	if c.Config != nil {
		copied.Config = c.Config.Copy()
	}
	return &copied
}

// check returns what is wrong with a config before anything is started.
func (c *Config) check() error {
	if c == nil || c.Config == nil || c.ConnConfig == nil {
		return errors.New("pgvault: config must be made by pgvault.ParseConfig: its pgxpool.Config is nil")
	}
	if c.MaxConns < 1 {
		// What pgxpool.ParseConfig never leaves; pgxpool itself panics on a config
		// that it did not make.
		return fmt.Errorf("pgvault: MaxConns is %d: it must be at least 1; make the config with pgvault.ParseConfig", c.MaxConns)
	}
	if err := c.origin().Check("vault_path=database/creds/app"); err != nil {
		return fmt.Errorf("pgvault: %w", err)
	}
	return nil
}

func (c *Config) origin() *origin.Origin {
	return &origin.Origin{Vault: c.Vault, Source: c.Source, Rotator: c.Rotator, Rotation: c.Rotation}
}
