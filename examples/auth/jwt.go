package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"
)

// jsonWebToken is for any platform that gives its workloads signed tokens in a file (Nomad, GitHub Actions, SPIFFE): an
// auth method is one function, so that what has no package of its own takes a few lines.
//
//	vault auth enable jwt
//	vault write auth/jwt/config oidc_discovery_url=https://issuer.example
//	vault write auth/jwt/role/app role_type=jwt bound_audiences=vault user_claim=sub token_policies=app
func jsonWebToken(role string) (api.AuthMethod, error) {
	return jwt{role: role, file: os.Getenv("JWT_FILE")}, nil
}

type jwt struct{ role, file string }

// Login reads the token as it is now and exchanges it for one of Vault's.
func (j jwt) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	signed, err := os.ReadFile(j.file)
	if err != nil {
		return nil, fmt.Errorf("read the signed token: %w", err)
	}
	return client.Logical().WriteWithContext(ctx, "auth/jwt/login", map[string]any{
		"role": j.role, "jwt": strings.TrimSpace(string(signed)),
	})
}
