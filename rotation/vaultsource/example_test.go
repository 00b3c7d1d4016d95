package vaultsource_test

import (
	"context"
	"log"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// The address and the token come from VAULT_ADDR and VAULT_TOKEN. There is no
// output to compare, because a run takes a Vault.
func ExampleNew() {
	ctx := context.Background()
	source, err := vaultsource.New(ctx, vaultsource.Config{Path: "database/creds/app"})
	if err != nil {
		log.Fatal(err)
	}
	rotator, err := rotation.New(ctx, source, rotation.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rotator.Close(ctx)
	log.Print("logging in as ", rotator.Status().User)
}
