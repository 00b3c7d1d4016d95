package main

import (
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/userpass"
)

// userPassword is for development; LDAP looks the same, with github.com/hashicorp/vault/api/auth/ldap.
//
//	vault auth enable userpass
//	vault write auth/userpass/users/app password=… token_policies=app
func userPassword(role string) (api.AuthMethod, error) {
	return userpass.NewUserpassAuth(role, &userpass.Password{FromEnv: "USERPASS_PASSWORD"})
}
