// Command kubernetes is a program in a pod: it logs in to Vault as its service account, answers the probes, and on
// SIGTERM finishes its requests and gives back the credential and the token. deployment.yaml beside it is what to
// apply, and says how Vault is set up.
//
//	kubectl apply -f deployment.yaml
//	kubectl port-forward deployment/app 8080 &
//	curl localhost:8080/
//
// answers
//
//	logged in to the database as v-kubernetes-app-5yxVbz1S…
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/kubernetes"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
)

// drainTimeout is for requests. With the pool's 10 seconds it stays below the 30 that Kubernetes waits.
const drainTimeout = 15 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, os.Getenv, logger); err != nil {
		logger.Error("stopped", "error", err.Error())
		os.Exit(1) // the kubelet starts the container again, and waits longer each time
	}
}

// serviceAccount logs in with the token that the kubelet keeps up to date in a file. It is good for ten minutes, so that
// each login has to read it anew, and kubernetes.NewKubernetesAuth reads it when it is called.
type serviceAccount struct {
	role, tokenFile string
}

// Login makes it an api.AuthMethod.
func (s serviceAccount) Login(ctx context.Context, client *api.Client) (*api.Secret, error) {
	auth, err := kubernetes.NewKubernetesAuth(s.role, kubernetes.WithServiceAccountTokenPath(s.tokenFile))
	if err != nil {
		return nil, err
	}
	return auth.Login(ctx, client)
}

// run serves until ctx ends.
func run(ctx context.Context, getenv func(string) string, logger *slog.Logger) (err error) {
	config, err := pgvault.ParseConfig(getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	config.Vault.Auth = serviceAccount{role: getenv("VAULT_ROLE"), tokenFile: getenv("VAULT_JWT_FILE")}
	config.Rotation.Logger = logger
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Shutdown(context.WithoutCancel(ctx))) }()

	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", getenv("LISTEN_ADDR"))
	if err != nil {
		return err
	}
	logger.Info("listening", "address", listener.Addr().String())
	server := &http.Server{Handler: routes(pool), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	return server.Shutdown(stopping)
}

// routes is what the program answers: one page, and the probes. The status page would name users and addresses to whoever
// reaches this port; examples/webservice has it at an address of its own.
func routes(pool *pgvault.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		var user string
		if err := pool.QueryRow(r.Context(), "SELECT session_user").Scan(&user); err != nil {
			http.Error(w, "the database cannot be used for now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "logged in to the database as", user)
	})
	pages := rotationhttp.Handler(pool.Rotator(), rotationhttp.Config{})
	mux.Handle("GET /healthz", pages)
	mux.Handle("GET /readyz", pages)
	return mux
}
