package main

import (
	"os"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
)

// appRole is for anything that gets a file with a secret id, which is read anew at each login. A secret id that can
// be used once only (secret_id_num_uses=1) is good for one login: the next needs a new one in the file.
//
//	vault auth enable approle
//	vault write auth/approle/role/app token_policies=app token_ttl=20m token_max_ttl=24h
func appRole(string) (api.AuthMethod, error) {
	return approle.NewAppRoleAuth(os.Getenv("APPROLE_ROLE_ID"), &approle.SecretID{FromFile: os.Getenv("APPROLE_SECRET_ID_FILE")})
}
