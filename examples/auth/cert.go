package main

import (
	"context"

	"github.com/hashicorp/vault/api"
)

// certificate is for machines that have a client certificate: it goes with every connection to Vault
// (VAULT_CLIENT_CERT, VAULT_CLIENT_KEY), and logging in says only which role is meant.
//
//	vault auth enable cert
//	vault write auth/cert/certs/app certificate=@ca.pem allowed_common_names=app.internal token_policies=app
func certificate(role string) (api.AuthMethod, error) { return cert(role), nil }

type cert string

// Login has nothing to send but the role.
func (c cert) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	return client.Logical().WriteWithContext(ctx, "auth/cert/login", map[string]any{"name": string(c)})
}
