package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/vault"
)

// vaultServer is an unsealed Vault, ready to answer over HTTP.
type vaultServer struct {
	core    *vault.Core
	handler http.Handler
	ready   ready
	logger  hclog.Logger
}

// startVault makes the core on the wanted storage, initialises it the first time, and unseals it.
func startVault(ctx context.Context, o options, address string, logger hclog.Logger) (*vaultServer, error) {
	store, err := openStorage(o.storage, logger)
	if err != nil {
		return nil, err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:     store.backend,
		StorageType:  store.kind,
		RedirectAddr: address,
		DisableMlock: true,
		Logger:       logger,
		LogicalBackends: map[string]logical.Factory{
			"database": database.Factory,
			"kv":       kv.Factory,
		},
		CredentialBackends: map[string]logical.Factory{
			"approle":  approle.Factory,
			"userpass": userpass.Factory,
		},
		AuditBackends:   map[string]audit.Factory{"file": audit.NewFileBackend},
		BuiltinRegistry: builtinPlugins{},
	})
	if err != nil {
		return nil, fmt.Errorf("create the Vault core: %w", err)
	}
	server := &vaultServer{
		core:   core,
		logger: logger,
		handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{},
		}),
	}
	secrets, err := server.initialise(namespace.RootContext(ctx), o.rootToken, store)
	if err != nil {
		server.stop()
		return nil, err
	}
	server.ready = ready{Address: address, RootToken: secrets.RootToken, UnsealKey: secrets.UnsealKey}
	return server, nil
}

// initialise unseals a Vault that was initialised before with the key kept beside its state, and
// initialises a new one with a single key share and the wanted root token.
func (s *vaultServer) initialise(ctx context.Context, rootToken string, store *storage) (*secrets, error) {
	done, err := s.core.Initialized(ctx)
	if err != nil {
		return nil, fmt.Errorf("look whether Vault is initialised: %w", err)
	}
	if done {
		kept, err := store.loadSecrets()
		if err != nil {
			return nil, err
		}
		if rootToken != "" && rootToken != kept.RootToken {
			return nil, fmt.Errorf("-root-token differs from the one that the Vault in %s was made with", store.dir)
		}
		return kept, s.unseal(kept.UnsealKey)
	}
	made, err := s.core.Initialize(ctx, &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
	})
	if err != nil {
		return nil, fmt.Errorf("initialise Vault: %w", err)
	}
	fresh := &secrets{RootToken: made.RootToken, UnsealKey: hex.EncodeToString(made.SecretShares[0])}
	if err := s.unseal(fresh.UnsealKey); err != nil {
		return nil, err
	}
	if rootToken != "" {
		if err := s.replaceRootToken(ctx, fresh, rootToken); err != nil {
			return nil, err
		}
	}
	return fresh, store.saveSecrets(fresh)
}

func (s *vaultServer) unseal(hexKey string) error {
	key, err := hex.DecodeString(hexKey)
	if err != nil {
		return errors.New("unseal Vault: the unseal key is not hexadecimal") // the cause would show a part of it
	}
	unsealed, err := s.core.Unseal(key)
	if err != nil {
		return fmt.Errorf("unseal Vault: %w", err)
	}
	if !unsealed {
		return errors.New("unseal Vault: still sealed after its only key share")
	}
	return nil
}

// replaceRootToken makes a root token of the given text and ends the generated one.
func (s *vaultServer) replaceRootToken(ctx context.Context, current *secrets, wanted string) error {
	err := s.request(ctx, current.RootToken, "auth/token/create", map[string]any{
		"id":                wanted,
		"policies":          []string{"root"},
		"no_parent":         true,
		"no_default_policy": true,
	})
	if err != nil {
		return fmt.Errorf("make the wanted root token: %w", err)
	}
	if err := s.request(ctx, current.RootToken, "auth/token/revoke-self", nil); err != nil {
		return fmt.Errorf("revoke the generated root token: %w", err)
	}
	current.RootToken = wanted
	return nil
}

// request does what a client's update would do, without a listener.
func (s *vaultServer) request(ctx context.Context, token, path string, data map[string]any) error {
	response, err := s.core.HandleRequest(ctx, &logical.Request{
		Operation:   logical.UpdateOperation,
		ClientToken: token,
		Path:        path,
		Data:        data,
	})
	if err == nil && response.IsError() {
		err = response.Error()
	}
	return err
}

func (s *vaultServer) stop() {
	if err := s.core.Shutdown(); err != nil {
		s.logger.Error("shut down the Vault core", "error", err)
	}
}
