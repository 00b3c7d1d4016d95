package vaultsource

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
)

// Kind is what a path has turned out to be. It is told from the answer and not from
// the path, which an operator chooses.
type Kind string

// What Vault hands out.
const (
	KindDynamic Kind = "dynamic role" // a user of our own, with a lease
	KindStatic  Kind = "static role"  // a user whose password Vault changes from time to time
	KindKV1     Kind = "KV version 1" // whatever somebody has written there
	KindKV2     Kind = "KV version 2"
)

// answer is a credential as it was read.
type answer struct {
	kind       Kind
	credential rotation.Credential
	ttl        time.Duration // KindStatic: until Vault changes the password, by its own account
}

// fields are the names of the user name and the password in an answer.
type fields struct{ user, password string }

// parse takes the answer to a read. Its errors name fields, and never what is in them.
func (f fields) parse(secret *api.Secret) (a answer, err error) {
	if secret.WrapInfo != nil {
		return a, errors.New("the answer is wrapped")
	}
	var data map[string]any
	a.kind, data = recognise(secret)
	user, _ := data[f.user].(string)
	password, _ := data[f.password].(string)
	switch {
	case len(data) == 0:
		return a, errors.New("the answer has no fields at all")
	case user == "" || password == "":
		return a, fmt.Errorf("the answer has no text in its fields %s and %s, but these fields: %s",
			f.user, f.password, strings.Join(slices.Sorted(maps.Keys(data)), ", "))
	}
	a.credential = rotation.NewCredential(user, password)
	switch a.kind {
	case KindDynamic:
		if secret.LeaseDuration < 1 {
			return a, errors.New("the lease lasts less than a second")
		}
	case KindStatic:
		seconds, err := number(data["ttl"])
		if err != nil {
			return a, errors.New("the answer of a static role has a ttl that is not a number")
		}
		a.ttl = time.Duration(seconds * float64(time.Second))
	default:
	}
	return a, nil
}

// recognise tells what was read, and returns its fields. A lease_duration alone means
// nothing: KV version 1 has one, and no lease.
func recognise(secret *api.Secret) (Kind, map[string]any) {
	if secret.LeaseID != "" {
		return KindDynamic, secret.Data
	}
	data, isMap := secret.Data["data"].(map[string]any)
	metadata, _ := secret.Data["metadata"].(map[string]any)
	if _, versioned := metadata["version"]; versioned && isMap {
		return KindKV2, data
	}
	if _, rotated := secret.Data["last_vault_rotation"]; rotated && secret.Data["ttl"] != nil {
		return KindStatic, secret.Data
	}
	return KindKV1, secret.Data
}

// number takes what JSON has, whole or not.
func number(v any) (float64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, errors.New("not a number")
	}
	return n.Float64()
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
