package main

import (
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/azure"
)

// azureIdentity is for Azure VMs and AKS: it proves itself with the managed identity's token, which the machine's metadata
// service issues for each login.
//
//	vault auth enable azure
//	vault write auth/azure/role/app bound_service_principal_ids=… token_policies=app
func azureIdentity(role string) (api.AuthMethod, error) { return azure.NewAzureAuth(role) }
