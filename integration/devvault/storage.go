package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
)

// secrets is what is needed to use a Vault after a restart. With storage in a directory it lies
// there in the clear, beside the state that it opens.
type secrets struct {
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
}

// storage is where the Vault keeps its state. dir is empty when that is memory.
type storage struct {
	backend physical.Backend
	kind    string
	dir     string
}

// openStorage takes "inmem" or the path of a directory, which is made when missing.
func openStorage(where string, logger hclog.Logger) (*storage, error) {
	if where == "inmem" {
		backend, err := inmem.NewInmem(nil, logger)
		if err != nil {
			return nil, fmt.Errorf("make the storage in memory: %w", err)
		}
		return &storage{backend: backend, kind: "inmem"}, nil
	}
	state := filepath.Join(where, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, fmt.Errorf("make the storage directory: %w", err)
	}
	backend, err := file.NewFileBackend(map[string]string{"path": state}, logger)
	if err != nil {
		return nil, fmt.Errorf("open the storage in %s: %w", where, err)
	}
	return &storage{backend: backend, kind: "file", dir: where}, nil
}

func (s *storage) secretsFile() string { return filepath.Join(s.dir, "secrets.json") }

// saveSecrets does nothing for storage in memory, which nothing can reopen.
func (s *storage) saveSecrets(kept *secrets) error {
	if s.dir == "" {
		return nil
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encode the unseal key: %w", err)
	}
	if err := os.WriteFile(s.secretsFile(), text, 0o600); err != nil {
		return fmt.Errorf("keep the unseal key for the next start: %w", err)
	}
	return nil
}

func (s *storage) loadSecrets() (*secrets, error) {
	text, err := os.ReadFile(s.secretsFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the Vault in %s was initialised, but its unseal key is not there: remove the directory to start anew: %w", s.dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the unseal key: %w", err)
	}
	kept := new(secrets)
	if err := json.Unmarshal(text, kept); err != nil {
		return nil, fmt.Errorf("read the unseal key in %s: not the JSON that was written there", s.secretsFile())
	}
	return kept, nil
}
