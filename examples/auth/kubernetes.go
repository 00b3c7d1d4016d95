package main

import (
	"context"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/kubernetes"
)

// serviceAccount is for a pod: it proves itself with its service account's token, which the kubelet keeps up to date in
// a file that is read anew at each login.
//
//	vault auth enable kubernetes
//	vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc
//	vault write auth/kubernetes/role/app bound_service_account_names=app bound_service_account_namespaces=prod \
//	  token_policies=app token_ttl=20m
func serviceAccount(role string) (api.AuthMethod, error) { return fresh{role}, nil }

// fresh makes the method anew for each login: kubernetes.NewKubernetesAuth reads the service account's token when it is
// called, and that one is good for an hour or so only.
type fresh struct{ role string }

// Login reads the token and logs in.
func (f fresh) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	auth, err := kubernetes.NewKubernetesAuth(f.role)
	if err != nil {
		return nil, err
	}
	return auth.Login(ctx, client)
}
