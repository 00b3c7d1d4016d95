package mysqlvault

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/internal/origin"
	"github.com/vaultpool/vaultpool/internal/vaultparams"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// Config is a mysql.Config and where its credentials come from: exactly one of
// Vault, Source and Rotator. Make it with [ParseConfig], or with mysql.NewConfig in
// Config.
//
// User and Passwd must be empty: every connection logs in with the credential that
// is current when it does. A hook set by mysql.BeforeConnect sees them and must leave
// them as they are. A network that was registered with mysql.RegisterDialContext
// cannot be seen from outside the driver: set DialFunc instead.
type Config struct {
	// The driver's own settings.
	*mysql.Config

	// Vault says which role of which Vault to ask. ParseConfig fills it from the
	// vault_* parameters; what they leave out comes from the VAULT_* environment.
	Vault vaultsource.Config
	// Source issues the credentials instead of Vault.
	Source rotation.Source
	// Rotator is shared with other pools instead. Whoever made it closes it, after
	// the pools. Rotation must be left zero then, since the Rotator has its own.
	Rotator *rotation.Rotator
	// Rotation tunes the Rotator that the connector makes. The zero value is good.
	Rotation rotation.Config
}

// ParseConfig reads a DSN as mysql.ParseDSN does and takes out the parameters that
// are ours:
//
//   - vault_path: where to read credentials: a dynamic role, "database/creds/app", a
//     static one, "database/static-creds/app", or a KV secret, "secret/data/app" ("%2F"
//     for "/" works too)
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
// DSN, since Vault issues both. No error shows the DSN or a secret.
func ParseConfig(dsn string) (*Config, error) {
	rest, params, err := cut(dsn)
	if err != nil {
		return nil, fmt.Errorf("mysqlvault: DSN: %w", err)
	}
	parsed, err := mysql.ParseDSN(rest)
	if err != nil {
		return nil, parseError(dsn, err)
	}
	config := &Config{Config: parsed}
	if err := config.checkLogin(); err != nil {
		return nil, err
	}
	if err := vaultparams.Take(params, &config.Vault, &config.Rotation); err != nil {
		return nil, fmt.Errorf("mysqlvault: DSN: %w", err)
	}
	return config, nil
}

// cut takes the vault_* parameters out of a DSN, which the driver would send to the
// server as system variables, and whose slashes it would take for the one before the
// database's name.
func cut(dsn string) (rest string, params map[string]string, err error) {
	head, query, ok := splitParams(dsn)
	params = make(map[string]string)
	if !ok {
		return dsn, params, nil
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		key, raw, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(key); err == nil && vaultparams.Ours(plain) && plain != key {
			return "", nil, fmt.Errorf("parameter %s: write its name without escapes", plain)
		}
		if !vaultparams.Ours(key) {
			kept = append(kept, pair)
			continue
		}
		if _, twice := params[key]; twice {
			return "", nil, fmt.Errorf("parameter %s is set twice", key)
		}
		value, err := url.QueryUnescape(raw)
		if err != nil {
			return "", nil, fmt.Errorf("parameter %s cannot be unescaped: write %%25 for a percent sign", key)
		}
		params[key] = value
	}
	if len(kept) > 0 {
		head += "?" + strings.Join(kept, "&")
	}
	return head, params, nil
}

// splitParams splits a DSN where its parameters begin: at the first question mark
// after the address, which stands in brackets and may hold one.
func splitParams(dsn string) (head, query string, ok bool) {
	from := 0
	if open := strings.IndexByte(dsn, '('); open >= 0 {
		if end := strings.Index(dsn[open:], ")/"); end >= 0 && !strings.ContainsAny(dsn[:open], "/?") {
			from = open + end
		}
	}
	i := strings.IndexByte(dsn[from:], '?')
	if i < 0 {
		return dsn, "", false
	}
	return dsn[:from+i], dsn[from+i+1:], true
}

// parseError is the driver's, but for DSNs that may hold a password: it shows parts
// of what it cannot parse.
func parseError(dsn string, err error) error {
	plain, undecodable := url.PathUnescape(dsn)
	first := strings.IndexAny(plain, ":(/") // "user:password/app" has neither network nor address
	if undecodable != nil || first >= 0 && plain[first] == ':' || strings.ContainsRune(plain, '@') || strings.Contains(strings.ToLower(plain), "pass") {
		return errors.New("mysqlvault: the DSN cannot be parsed; what is wrong with it is not shown, since it seems to hold a user or a password: remove them, Vault issues both")
	}
	return fmt.Errorf("mysqlvault: DSN: %w", err)
}

// netChars is what the name of a network is made of.
const netChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._"

// checkLogin finds a user or a password, also where one has become part of the network's
// name, as in "user:password(db)/app".
func (c *Config) checkLogin() error {
	if strings.Trim(c.Net, netChars) != "" {
		return errors.New("mysqlvault: DSN or Config: what stands before the address is no network such as tcp or unix; it is not shown, since it may be a user and a password: remove them, Vault issues both")
	}
	var field string
	switch {
	case c.Passwd != "":
		field = "password (Passwd)"
	case c.User != "":
		field = "user (User)"
	default:
		return nil
	}
	return fmt.Errorf("mysqlvault: the DSN or Config sets the %s; remove it: user and password are issued, by Vault or whatever the source is, and change while the pool is open", field)
}

// Clone returns a deep copy, as mysql.Config.Clone does. Source, Rotator and the
// Vault client are shared with the original.
func (c *Config) Clone() *Config {
	copied := *c
	if c.Config != nil {
		copied.Config = c.Config.Clone()
	}
	return &copied
}

// FormatDSN returns a DSN that [ParseConfig] reads back, without user and password.
// It leaves out what a DSN cannot say: hooks, a Vault client, Source and Rotator.
func (c *Config) FormatDSN() string {
	plain := &mysql.Config{}
	if c.Config != nil {
		plain = c.Config.Clone()
	}
	plain.User, plain.Passwd = "", ""
	dsn := plain.FormatDSN()
	separator := "?"
	if _, _, ok := splitParams(dsn); ok {
		separator = "&"
	}
	for _, p := range vaultparams.Format(c.Vault, c.Rotation) {
		dsn += separator + p[0] + "=" + url.QueryEscape(p[1])
		separator = "&"
	}
	return dsn
}

// check returns what is wrong with a config before anything is started.
func (c *Config) check() error {
	if c == nil || c.Config == nil {
		return errors.New("mysqlvault: config must be made by mysqlvault.ParseConfig, or hold one made by mysql.NewConfig: its mysql.Config is nil")
	}
	if err := c.checkLogin(); err != nil {
		return err
	}
	if err := c.origin().Check("vault_path=database/creds/app"); err != nil {
		return fmt.Errorf("mysqlvault: %w", err)
	}
	if _, err := mysql.NewConnector(c.Config); err != nil { // it finds a TLS config that is not registered
		return fmt.Errorf("mysqlvault: mysql.Config: %w", err)
	}
	if known := map[string]bool{"": true, "tcp": true, "tcp4": true, "tcp6": true, "unix": true}; c.DialFunc == nil && !known[c.Net] {
		return fmt.Errorf("mysqlvault: network %q: a dialer registered with mysql.RegisterDialContext cannot be reached from outside the driver: set Config.DialFunc to it", c.Net)
	}
	return nil
}

func (c *Config) origin() *origin.Origin {
	return &origin.Origin{Vault: c.Vault, Source: c.Source, Rotator: c.Rotator, Rotation: c.Rotation}
}
