package readme_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// script runs the commands of documents, in their order, as somebody would who copies them: in one
// directory, with an operator's token of Vault, and as a superuser of the databases.
type script struct {
	bed   *testbed.Bed
	dir   string // where policies and tokens are written
	names *strings.Replacer
}

func newScript(t *testing.T, bed *testbed.Bed) *script {
	t.Helper()
	s := &script{bed: bed, dir: t.TempDir(), names: strings.NewReplacer(
		"db.internal:5432", bed.Postgres.Addr, "sslmode=verify-full", "sslmode=disable",
		"db.internal:3306", bed.MariaDB.Addr, " app.*", " "+bed.MariaDB.Database+".*",
		"app_owner", "docs_owner", // the testbed's database has one of that name
		"default_ttl=1h", "default_ttl=4s", "max_ttl=24h", "max_ttl=10s",
	)}
	if _, err := exec.LookPath("vault"); err != nil {
		s.installVault(t)
	}
	return s
}

// installVault makes this test's program the vault command.
func (s *script) installVault(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// run runs a document, and returns how many blocks that were.
func (s *script) run(t *testing.T, path string) (ran int) {
	t.Helper()
	for _, b := range document(t, path) {
		text := s.names.Replace(b.text)
		var err error
		switch b.language {
		case "sql":
			err = s.sql(t, b.heading, text)
		case "hcl":
			err = s.save(text)
		case "sh":
			err = s.shell(t, text)
		default:
			continue
		}
		ran++
		if err != nil {
			t.Fatalf("%s:%d: %v", path, b.line, err)
		}
	}
	return ran
}

// sql runs statements, on the database that the heading names.
func (s *script) sql(t *testing.T, heading, text string) error {
	t.Helper()
	if !strings.Contains(heading, "MySQL") {
		return s.bed.Postgres.Exec(t.Context(), text)
	}
	for statement := range strings.SplitSeq(strings.TrimSpace(text), ";\n") {
		if err := s.bed.MariaDB.Exec(t.Context(), strings.TrimSuffix(statement, ";")); err != nil {
			return err
		}
	}
	return nil
}

// save writes a policy to the file that its first line names.
func (s *script) save(text string) error {
	first, _, _ := strings.Cut(text, "\n")
	return os.WriteFile(filepath.Join(s.dir, strings.TrimPrefix(first, "# ")), []byte(text), 0o600)
}

func (s *script) shell(t *testing.T, text string) error {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-eu", "-c", text)
	command.Dir = s.dir
	command.Env = append(os.Environ(), "VAULT_ADDR="+s.bed.Vault.Addr, "VAULT_TOKEN="+s.bed.Vault.RootToken)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Logf("%s", out)
	}
	return err
}

// read returns what a command of the script has written to a file.
func (s *script) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
