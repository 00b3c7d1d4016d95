package examples_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// The README has a row for each example, and each says at its top how to run it.
func TestEveryExampleIsDescribed(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../examples/README.md")
	kit.Check(t, err)
	programs, err := filepath.Glob("../../examples/*/main.go")
	kit.Check(t, err)
	if len(programs) < 10 {
		t.Errorf("only %v", programs)
	}
	for _, program := range programs {
		name := filepath.Base(filepath.Dir(program))
		if !strings.Contains(string(readme), "| ["+name+"]("+name+") |") {
			t.Errorf("the README has no row for %s", name)
		}
		text, err := os.ReadFile(program)
		kit.Check(t, err)
		doc, _, _ := strings.Cut(string(text), "\npackage main\n")
		if !strings.HasPrefix(doc, "// Command "+name+" ") || !strings.Contains(doc, "\n//\t") {
			t.Errorf("%s does not say what it is and how to run it", name)
		}
	}
}
