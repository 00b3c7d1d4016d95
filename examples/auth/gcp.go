package main

import (
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/gcp"
)

// gcpIdentity is for GCE, GKE and Cloud Run: it proves itself with the identity token of the machine's service account,
// which the metadata server issues for each login.
//
//	vault auth enable gcp
//	vault write auth/gcp/role/app type=gce bound_service_accounts=app@project.iam.gserviceaccount.com token_policies=app
func gcpIdentity(role string) (api.AuthMethod, error) {
	return gcp.NewGCPAuth(role, gcp.WithGCEAuth())
}
