package testbed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"time"
)

// vaultServer is a Vault process of ours.
type vaultServer struct {
	bed       *Bed
	binary    string
	isDev     bool // "vault server -dev" rather than devvault
	address   string
	rootToken string
	unsealKey string
	log       string
	process   *process
}

// startVault starts a Vault, or takes the one in the environment.
func (b *Bed) startVault(ctx context.Context) error {
	address := os.Getenv("PGVAULT_TEST_VAULT_ADDR")
	if address != "" && b.options.VaultDir == "" {
		return b.useVault(ctx, address, os.Getenv("PGVAULT_TEST_VAULT_TOKEN"))
	}
	server := &vaultServer{bed: b, log: b.dir.join("vault.log")}
	if err := server.findBinary(ctx); err != nil {
		return err
	}
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	server.address = "http://" + listen
	if err := server.start(ctx); err != nil {
		return err
	}
	if b.Vault, err = newVault(b, server.address, server.rootToken, server); err != nil || !b.options.Audit {
		return err
	}
	return b.Vault.startAudit(ctx, b.dir.join("audit.log"))
}

// useVault takes an existing server.
func (b *Bed) useVault(ctx context.Context, address, token string) error {
	if token == "" {
		return errors.New("PGVAULT_TEST_VAULT_ADDR is set, but PGVAULT_TEST_VAULT_TOKEN is not: set it to a root token of that Vault")
	}
	b.progressf("using the Vault at %s", address)
	vault, err := newVault(b, address, token, nil)
	if err != nil {
		return err
	}
	if _, err := vault.Client.Auth().Token().LookupSelfWithContext(ctx); err != nil {
		return fmt.Errorf("try PGVAULT_TEST_VAULT_TOKEN at %s: %w", address, err)
	}
	b.Vault = vault
	return nil
}

// findBinary prefers a vault command that is there already over one that has to be built.
func (s *vaultServer) findBinary(ctx context.Context) error {
	wantOurs := s.bed.options.VaultDir != "" || os.Getenv("PGVAULT_TEST_DEVVAULT") == "1"
	if found, err := exec.LookPath("vault"); err == nil && !wantOurs {
		s.binary, s.isDev = found, true
		return nil
	}
	var err error
	s.binary, err = s.bed.devvaultBinary(ctx)
	return err
}

// start runs the server and returns when it answers, unsealed.
func (s *vaultServer) start(ctx context.Context) error {
	if s.isDev {
		return s.startDev(ctx)
	}
	return s.startDevvault(ctx)
}

func (s *vaultServer) listen() string { return s.address[len("http://"):] }

func (s *vaultServer) startDevvault(ctx context.Context) error {
	storage := s.bed.options.VaultDir
	if storage == "" {
		storage = "inmem"
	}
	command := exec.Command(s.binary, "-listen", s.listen(), "-storage", storage, "-stop-on-stdin-eof") //nolint:noctx // the server outlives the start
	if _, err := command.StdinPipe(); err != nil {                                                      // kept open until we end
		return fmt.Errorf("make a pipe to devvault: %w", err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe from devvault: %w", err)
	}
	defer func() { _ = reader.Close() }()
	command.Stdout = writer
	s.process, err = s.bed.processes.start(processSpec{
		name: "devvault", command: command, logFile: s.log, deathSig: syscall.SIGKILL,
	})
	_ = writer.Close() // the child has its own descriptor
	if err != nil {
		return err
	}
	return s.readReady(ctx, reader)
}

// readReady waits for the line that devvault prints when it serves.
func (s *vaultServer) readReady(ctx context.Context, output *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %s", startTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = output.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if ctx.Err() != nil {
		return fmt.Errorf("wait for devvault: %w", context.Cause(ctx))
	}
	if err != nil {
		return s.process.endedWhileStarting()
	}
	var ready struct {
		RootToken string `json:"root_token"`
		UnsealKey string `json:"unseal_key"`
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		return errors.New("devvault printed something else than its one line of JSON") // which may hold the root token
	}
	s.rootToken, s.unsealKey = ready.RootToken, ready.UnsealKey
	return nil
}

// startDev runs the vault command, which prints its unseal key only among other text.
func (s *vaultServer) startDev(ctx context.Context) error {
	home := s.bed.dir.join("vault-home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return fmt.Errorf("make a home directory for Vault: %w", err)
	}
	s.rootToken = randomText(16)
	command := exec.Command(s.binary, "server", "-dev", "-dev-no-store-token", //nolint:noctx // the server outlives the start
		"-dev-listen-address", s.listen(), "-dev-root-token-id", s.rootToken)
	command.Env = append(os.Environ(), "HOME="+home, "VAULT_LOG_LEVEL=error")
	var err error
	s.process, err = s.bed.processes.start(processSpec{
		name: "vault server -dev", command: command, logFile: s.log, deathSig: syscall.SIGKILL,
	})
	if err != nil {
		return err
	}
	return s.process.waitReady(ctx, func(ctx context.Context) error {
		if err := s.healthy(ctx); err != nil {
			return err
		}
		text, err := os.ReadFile(s.log)
		if err != nil {
			return fmt.Errorf("read Vault's log: %w", err)
		}
		found := unsealKeyLine.FindSubmatch(text)
		if found == nil {
			return errors.New("it has not printed its unseal key")
		}
		s.unsealKey = string(found[1])
		return nil
	})
}

var unsealKeyLine = regexp.MustCompile(`(?m)Unseal Key: ([A-Za-z0-9+/=]+)`)

// healthy asks whether Vault is initialised and unsealed.
func (s *vaultServer) healthy(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address+"/v1/sys/health", nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("sys/health answers %s", response.Status)
	}
	return nil
}
