package vaultsource_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// vault answers as Vault would, as far as these examples need it.
func vault() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/database/creds/app":
			_, _ = fmt.Fprint(w, `{"lease_id": "database/creds/app/1", "lease_duration": 3600, "renewable": true,
				"data": {"username": "v-app-1", "password": "s3cret"}}`)
		case "/v1/secret/data/app":
			_, _ = fmt.Fprint(w, `{"data": {"data": {"user": "app", "password": "s3cret"}, "metadata": {"version": 3}}}`)
		case "/v1/sys/leases/revoke/database/creds/app/1":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprint(w, `{"errors": ["permission denied"]}`)
		}
	}))
}

// A client that the program has already. Without one, address and token come from
// VAULT_ADDR and VAULT_TOKEN.
func client(address string) *api.Client {
	config := api.DefaultConfig()
	config.Address = address
	c, err := api.NewClient(config)
	if err != nil {
		panic(err)
	}
	c.SetToken("s.token")
	return c
}

// A dynamic role: each issue makes a user, with a lease.
func ExampleNew() {
	ctx := context.Background()
	server := vault()
	defer server.Close()
	source, err := vaultsource.New(ctx, vaultsource.Config{Client: client(server.URL), Path: "database/creds/app"})
	if err != nil {
		fmt.Println(err)
		return
	}
	rotator, err := rotation.New(ctx, source, rotation.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("logging in as", rotator.Status().User, "of a", source.Kind())
	fmt.Println("given back:", rotator.Close(ctx) == nil)
	// Output:
	// logging in as v-app-1 of a dynamic role
	// given back: true
}

// A KV secret whose fields have names of their own.
func ExampleConfig() {
	ctx := context.Background()
	server := vault()
	defer server.Close()
	source, err := vaultsource.New(ctx, vaultsource.Config{
		Client: client(server.URL), Path: "secret/data/app", UsernameField: "user",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	login, lease, err := source.Issue(ctx)
	fmt.Println(login, "from", source.Kind(), err)
	fmt.Println("look again in", lease.RefreshAfter)
	// Output:
	// app:[redacted] from KV version 2 <nil>
	// look again in 5m0s
}

// What is wrong with a configuration shows before anything is sent.
func ExampleNew_mistakes() {
	_, err := vaultsource.New(context.Background(), vaultsource.Config{Path: "v1/database/creds/app"})
	fmt.Println(err)
	// Output:
	// set up the Vault source: the Vault path "v1/database/creds/app" begins with v1, which belongs to the HTTP API: write "database/creds/app"
}
