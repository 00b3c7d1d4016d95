// Package vaultparams reads and writes the vault_* parameters that both adapters take
// in connection strings. None of them holds a secret.
package vaultparams

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// prefix is what every parameter of ours begins with.
const prefix = "vault_"

// Ours reports whether a parameter is one of ours, or means to be.
func Ours(name string) bool { return strings.HasPrefix(strings.ToLower(name), prefix) }

// param is one parameter; get returns "" for what is not set.
type param struct {
	set func(v *vaultsource.Config, r *rotation.Config, value string) error
	get func(v *vaultsource.Config, r *rotation.Config) string
}

var known = map[string]param{
	"vault_path":       text(func(v *vaultsource.Config) *string { return &v.Path }),
	"vault_addr":       text(func(v *vaultsource.Config) *string { return &v.Address }),
	"vault_namespace":  text(func(v *vaultsource.Config) *string { return &v.Namespace }),
	"vault_ca_cert":    text(func(v *vaultsource.Config) *string { return &v.CACert }),
	"vault_token_file": text(func(v *vaultsource.Config) *string { return &v.TokenFile }),

	"vault_username_field":   text(func(v *vaultsource.Config) *string { return &v.UsernameField }),
	"vault_password_field":   text(func(v *vaultsource.Config) *string { return &v.PasswordField }),
	"vault_refresh_interval": duration(func(v *vaultsource.Config, _ *rotation.Config) *time.Duration { return &v.RefreshInterval }),
	"vault_lease_ttl":        duration(func(v *vaultsource.Config, _ *rotation.Config) *time.Duration { return &v.LeaseTTL }),

	"vault_drain_timeout":   duration(func(_ *vaultsource.Config, r *rotation.Config) *time.Duration { return &r.DrainTimeout }),
	"vault_start_timeout":   duration(func(_ *vaultsource.Config, r *rotation.Config) *time.Duration { return &r.StartTimeout }),
	"vault_close_timeout":   duration(func(_ *vaultsource.Config, r *rotation.Config) *time.Duration { return &r.CloseTimeout }),
	"vault_renew_increment": duration(func(_ *vaultsource.Config, r *rotation.Config) *time.Duration { return &r.RenewIncrement }),
	"vault_max_unrevoked": {
		set: func(_ *vaultsource.Config, r *rotation.Config, value string) error {
			n, err := strconv.Atoi(value)
			if err != nil || n < 2 {
				return fmt.Errorf("%q is not a whole number of at least 2", value)
			}
			r.MaxUnrevoked = n
			return nil
		},
		get: func(_ *vaultsource.Config, r *rotation.Config) string {
			if r.MaxUnrevoked == 0 {
				return ""
			}
			return strconv.Itoa(r.MaxUnrevoked)
		},
	},
}

func text(field func(*vaultsource.Config) *string) param {
	return param{
		set: func(v *vaultsource.Config, _ *rotation.Config, value string) error {
			if value == "" {
				return errors.New("it is empty")
			}
			*field(v) = value
			return nil
		},
		get: func(v *vaultsource.Config, _ *rotation.Config) string { return *field(v) },
	}
}

func duration(field func(*vaultsource.Config, *rotation.Config) *time.Duration) param {
	return param{
		set: func(v *vaultsource.Config, r *rotation.Config, value string) error {
			d, err := time.ParseDuration(value)
			if err != nil || d <= 0 {
				return fmt.Errorf("%q is not a positive duration such as 30s or 5m", value)
			}
			*field(v, r) = d
			return nil
		},
		get: func(v *vaultsource.Config, r *rotation.Config) string {
			if d := *field(v, r); d > 0 {
				return d.String()
			}
			return ""
		},
	}
}

// Take removes every parameter with our prefix from params and sets what it
// stands for. An unknown one is an error that lists those there are.
func Take(params map[string]string, v *vaultsource.Config, r *rotation.Config) error {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if !Ours(name) {
			continue
		}
		p, ok := known[name]
		if !ok {
			return fmt.Errorf("unknown parameter %s; there are %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if err := p.set(v, r, params[name]); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
		delete(params, name)
	}
	return nil
}

// Override is Take for a connection string that may consist of our parameters only,
// "vault_path=a/creds/b&vault_drain_timeout=1m", or be empty.
func Override(s string, v *vaultsource.Config, r *rotation.Config) error {
	params := make(map[string]string)
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" {
			continue
		}
		key, raw, ok := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(raw)
		if !ok || !Ours(key) || err != nil {
			return errors.New("it may hold vault_* parameters only, as in vault_path=database/creds/app&vault_drain_timeout=1m, or be empty: set everything else in the Config")
		}
		params[key] = value
	}
	return Take(params, v, r)
}

// Format returns the parameters that are set, name and value, by name.
func Format(v vaultsource.Config, r rotation.Config) (set [][2]string) {
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if value := known[name].get(&v, &r); value != "" {
			set = append(set, [2]string{name, value})
		}
	}
	return set
}
