package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
)

// The pool logs in with what is in the files, of either kind.
func TestPoolConfig(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"username": "app\n", "password": "s3cret\n", "db.json": `{"username": "app", "password": "s3cret"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, files := range []string{dir, filepath.Join(dir, "db.json")} {
		config, err := poolConfig(files, "postgres://127.0.0.1/app", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		credential, _, err := config.Source.Issue(t.Context())
		if err != nil || credential.Username() != "app" || credential.Password() != "s3cret" {
			t.Errorf("%s: %v, error: %v", files, credential, err)
		}
	}
}

// Without files it says so, when it has waited for them.
func TestNoFiles(t *testing.T) {
	config, err := poolConfig(filepath.Join(t.TempDir(), "db.json"), "postgres://127.0.0.1/app", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	config.Rotation.StartTimeout = 300 * time.Millisecond
	pool, err := pgvault.NewWithConfig(context.Background(), config)
	if err == nil {
		pool.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}
