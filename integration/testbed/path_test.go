package testbed_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// standInFor holds the path of devvault for a copy of this program that is called vault.
const standInFor = "TESTBED_TEST_DEVVAULT"

// standIn takes the arguments of "vault server -dev", says what it says, and lets devvault do the rest.
func standIn(arguments []string) error {
	if len(arguments) == 0 || arguments[0] != "server" {
		return fmt.Errorf("called with %q", arguments)
	}
	flags := flag.NewFlagSet("vault server", flag.ContinueOnError)
	dev := flags.Bool("dev", false, "")
	noStore := flags.Bool("dev-no-store-token", false, "")
	listen := flags.String("dev-listen-address", "", "")
	rootToken := flags.String("dev-root-token-id", "", "")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	if !*dev || !*noStore || filepath.Base(os.Getenv("HOME")) != "vault-home" {
		return fmt.Errorf("called with %q in %s", arguments, os.Getenv("HOME"))
	}
	command := exec.Command(os.Getenv(standInFor), "-listen", *listen, "-root-token", *rootToken, "-stop-on-stdin-eof") //nolint:noctx // until we are killed
	command.Stderr = os.Stderr
	if _, err := command.StdinPipe(); err != nil {
		return err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if err != nil {
		return err
	}
	var ready struct {
		UnsealKey string `json:"unseal_key"`
	}
	if err := json.Unmarshal(line, &ready); err != nil {
		return err
	}
	_, err = io.WriteString(os.Stderr, "WARNING! dev mode is enabled!\n\nUnseal Key: "+ready.UnsealKey+"\nRoot Token: "+*rootToken+"\n")
	if err != nil {
		return err
	}
	return command.Wait()
}

func TestVaultInPath(t *testing.T) {
	ours := start(t, testbed.Options{VaultDir: t.TempDir()})
	devvault := ""
	for _, command := range children(t) {
		devvault, _, _ = strings.Cut(command, " ")
	}
	check(t, ours.Close())

	self, err := os.Executable()
	check(t, err)
	bin := t.TempDir()
	check(t, os.Symlink(self, filepath.Join(bin, "vault")))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv(standInFor, devvault)

	bed := start(t, testbed.Options{Postgres: true})
	if !runs(t, filepath.Join(bin, "vault")) {
		t.Errorf("vault in PATH is not used: %v", children(t))
	}
	role := postgresRole(t, bed, testbed.RoleOptions{})
	check(t, bed.Vault.Seal(t.Context()))
	check(t, bed.Vault.Unseal(t.Context()))
	check(t, issues(t, role, 10*time.Second))
	check(t, bed.Close())

	t.Setenv("PGVAULT_TEST_DEVVAULT", "1")
	start(t, testbed.Options{})
	if !runs(t, devvault) {
		t.Errorf("PGVAULT_TEST_DEVVAULT has no effect: %v", children(t))
	}
}

// runs reports whether one of our children is that program.
func runs(t *testing.T, program string) bool {
	t.Helper()
	for _, command := range children(t) {
		if strings.HasPrefix(command, program+" ") {
			return true
		}
	}
	return false
}
