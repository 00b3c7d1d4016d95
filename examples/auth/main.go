// Command auth shows how a service logs in to Vault by itself, instead of being given a token: one file for each way.
// It opens a pool, asks the database who it is, and ends; Close gives back the lease and the login.
//
//	go run . -method=kubernetes -role=app 'postgres://db.internal/app?vault_path=database/creds/app'
//
// Address, namespace and CA of Vault come from the standard VAULT_* environment.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/pgvault"
)

// methods are the ways to log in, by name. Each takes the role that was made for the service in Vault.
var methods = map[string]func(role string) (api.AuthMethod, error){
	"approle":    appRole,
	"aws":        awsIAM,
	"azure":      azureIdentity,
	"cert":       certificate,
	"gcp":        gcpIdentity,
	"jwt":        jsonWebToken,
	"kubernetes": serviceAccount,
	"userpass":   userPassword,
}

func main() {
	names := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	method := flag.String("method", "approle", "how to log in: "+names)
	role := flag.String("role", "app", "the service's role in that auth method")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *method, *role, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // nothing is deferred that matters now
	}
}

func run(ctx context.Context, method, role, connString string) error {
	logIn, ok := methods[method]
	if !ok {
		return fmt.Errorf("there is no method %q", method)
	}
	auth, err := logIn(role)
	if err != nil {
		return err
	}
	config, err := pgvault.ParseConfig(connString)
	if err != nil {
		return err
	}
	config.Vault.Auth = auth // all that is needed: it logs in now, and again whenever it has to
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	var user string
	if err := pool.QueryRow(ctx, "SELECT current_user").Scan(&user); err != nil {
		return err
	}
	fmt.Println("logged in to the database as", user)
	return nil
}
