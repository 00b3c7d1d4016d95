package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// tokenTTL is beyond any demo, since a lease ends with the token that asked for it.
const tokenTTL = 30 * 24 * time.Hour

// setting is what the service runs in.
type setting struct {
	bed         *testbed.Bed
	name        string // of the database, for the service's -db
	database    database
	role        *testbed.Role
	binary      string // of the service
	databaseURL string
	token       string
	balances    int64 // what all accounts hold together
}

// prepare builds the service, makes its tables as their owner would, and gives it a Vault role, with a token that may
// do nothing but use that role.
func prepare(ctx context.Context, bed *testbed.Bed, name string, screen *screen) (*setting, error) {
	s := &setting{bed: bed, name: name, database: databaseOf(bed)}
	var err error
	if s.binary, err = buildService(ctx, screen); err != nil {
		return nil, err
	}
	if err := s.createTables(ctx); err != nil {
		return nil, err
	}
	terms := s.database.terms()
	if s.role, err = s.database.role(ctx, terms); err != nil {
		return nil, fmt.Errorf("make the Vault role: %w", err)
	}
	if s.token, err = bed.Vault.Token(ctx, s.role.Policy, tokenTTL); err != nil {
		return nil, fmt.Errorf("make the service's Vault token: %w", err)
	}
	if s.databaseURL, err = s.database.connString(s.role); err != nil {
		return nil, err
	}
	screen.printf("a role with leases of %v, renewed up to %v: %s", terms.DefaultTTL, terms.MaxTTL, s.role.CredsPath)
	screen.printf("the service gets VAULT_ADDR=%s, a VAULT_TOKEN for that role only, DB=%s and DATABASE_URL=%s",
		bed.Vault.Addr, s.name, s.databaseURL)
	return s, nil
}

// createTables runs the SQL that the service prints for the owner of its database, in place of the tables that the
// testbed has for tests.
func (s *setting) createTables(ctx context.Context) error {
	schema, err := exec.CommandContext(ctx, s.binary, "-db", s.name, "-print-schema").Output()
	if err != nil {
		return fmt.Errorf("%s -print-schema: %w", serviceName, err)
	}
	if err := s.database.exec(ctx, "DROP TABLE IF EXISTS items, accounts CASCADE"); err != nil {
		return fmt.Errorf("make room for the service's tables: %w", err)
	}
	if err := s.database.exec(ctx, string(schema)); err != nil {
		return fmt.Errorf("create the service's tables: %w", err)
	}
	books, err := s.database.books(ctx)
	if err != nil {
		return fmt.Errorf("add up the accounts: %w", err)
	}
	s.balances = books.balances
	return nil
}

// buildService compiles the service into the repository's bin folder.
func buildService(ctx context.Context, screen *screen) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(root, "bin", serviceName)
	screen.printf("building examples/%s", serviceName)
	began := time.Now()
	command := exec.CommandContext(ctx, "go", "build", "-o", binary, "./"+serviceName)
	command.Dir = filepath.Join(root, "examples")
	command.Env = append(os.Environ(), "GOWORK=off")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build examples/%s: %w\n%s", serviceName, err, output)
	}
	screen.printf("built in %s", time.Since(began).Round(100*time.Millisecond))
	return binary, nil
}

// repository finds the checkout that the working directory is in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/vaultpool/vaultpool\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: run the demo within a checkout of it, for example with make demo")
		}
		dir = parent
	}
}
