package main

import (
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/aws"
)

// awsIAM is for EC2, ECS, EKS and Lambda: it proves itself by a signed request to AWS STS, which Vault sends for it. The
// credentials to sign with come from the usual places of the AWS SDK.
//
//	vault auth enable aws
//	vault write auth/aws/role/app auth_type=iam bound_iam_principal_arn=arn:aws:iam::123456789012:role/app token_policies=app
func awsIAM(role string) (api.AuthMethod, error) {
	return aws.NewAWSAuth(aws.WithRole(role), aws.WithIAMAuth())
}
