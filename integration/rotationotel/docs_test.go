package rotationotel_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// The page's Go compiles.
func TestSnippetsCompile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(docs + "observability.md")
	kit.Check(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of Go, want 2", len(blocks))
	}
	call := strings.TrimSpace(blocks[0][1])
	for name, source := range map[string]string{
		"call": "package main\n\nimport (\n\t\"github.com/vaultpool/vaultpool/pgvault\"\n" +
			"\t\"github.com/vaultpool/vaultpool/rotation/rotationotel\"\n)\n\n" +
			"func instrument(pool *pgvault.Pool) (func(), error) {\n\t" + call + "\n\treturn stop, err\n}\n",
		"prometheus": blocks[1][1],
	} {
		dir, err := os.MkdirTemp(".", "snippet-")
		kit.Check(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		kit.Check(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(source+"\nfunc main() {}\n"), 0o600))
		if out, err := exec.CommandContext(t.Context(), "go", "vet", "./"+dir).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
