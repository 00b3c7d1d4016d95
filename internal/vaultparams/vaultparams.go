// Package vaultparams reads the vault_* parameters that both adapters take in
// connection strings. None of them holds a secret.
package vaultparams

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// prefix is what every parameter of ours begins with.
const prefix = "vault_"

type setter func(v *vaultsource.Config, r *rotation.Config, value string) error

var known = map[string]setter{
	"vault_path":       text(func(v *vaultsource.Config) *string { return &v.Path }),
	"vault_addr":       text(func(v *vaultsource.Config) *string { return &v.Address }),
	"vault_namespace":  text(func(v *vaultsource.Config) *string { return &v.Namespace }),
	"vault_ca_cert":    text(func(v *vaultsource.Config) *string { return &v.CACert }),
	"vault_token_file": text(func(v *vaultsource.Config) *string { return &v.TokenFile }),

	"vault_drain_timeout":   duration(func(r *rotation.Config) *time.Duration { return &r.DrainTimeout }),
	"vault_start_timeout":   duration(func(r *rotation.Config) *time.Duration { return &r.StartTimeout }),
	"vault_close_timeout":   duration(func(r *rotation.Config) *time.Duration { return &r.CloseTimeout }),
	"vault_renew_increment": duration(func(r *rotation.Config) *time.Duration { return &r.RenewIncrement }),
	"vault_max_unrevoked": func(_ *vaultsource.Config, r *rotation.Config, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 2 {
			return fmt.Errorf("%q is not a whole number of at least 2", value)
		}
		r.MaxUnrevoked = n
		return nil
	},
}

func text(field func(*vaultsource.Config) *string) setter {
	return func(v *vaultsource.Config, _ *rotation.Config, value string) error {
		if value == "" {
			return fmt.Errorf("it is empty")
		}
		*field(v) = value
		return nil
	}
}

func duration(field func(*rotation.Config) *time.Duration) setter {
	return func(_ *vaultsource.Config, r *rotation.Config, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a positive duration such as 30s or 5m", value)
		}
		*field(r) = d
		return nil
	}
}

// Take removes every parameter with our prefix from params and sets what it
// stands for. An unknown one is an error that lists those there are.
func Take(params map[string]string, v *vaultsource.Config, r *rotation.Config) error {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if !strings.HasPrefix(strings.ToLower(name), prefix) {
			continue
		}
		set, ok := known[name]
		if !ok {
			return fmt.Errorf("unknown parameter %s; there are %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if err := set(v, r, params[name]); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
		delete(params, name)
	}
	return nil
}
