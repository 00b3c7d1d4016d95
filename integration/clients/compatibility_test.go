package clients_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// docs/compatibility.md names each of these tests, and no other.
func TestCompatibilityTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/compatibility.md")
	kit.Check(t, err)
	// In the last column of a table.
	var named []string
	for _, match := range regexp.MustCompile("(?m)^\\|.*\\| `(Test\\w+)` \\|$").FindAllSubmatch(text, -1) {
		named = append(named, string(match[1]))
	}
	rows := len(regexp.MustCompile(`(?m)^\| .* \|$`).FindAll(text, -1))
	headers := len(regexp.MustCompile(`(?m)^\| ---`).FindAll(text, -1))
	if rows != len(named)+2*headers {
		t.Errorf("of the %d rows in %d tables %d name a test in the last column", rows, headers, len(named))
	}
	there := testsHere(t)
	for _, name := range named {
		if !slices.Contains(there, name) {
			t.Errorf("docs/compatibility.md names %s, which is no test here", name)
		}
	}
	for _, name := range there {
		if !slices.Contains(named, name) && !slices.Contains([]string{"TestMain", "TestCompatibilityTable", "TestReadmeTable"}, name) {
			t.Errorf("docs/compatibility.md does not name %s", name)
		}
	}
}

// The README names some of them.
func TestReadmeTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	kit.Check(t, err)
	_, section, _ := strings.Cut(string(text), "\n### Works with\n")
	section, _, _ = strings.Cut(section, "\n## ")
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(section, -1)
	if len(named) < 10 {
		t.Errorf("README.md names %d tests below Works with", len(named))
	}
	there := testsHere(t)
	for _, name := range named {
		if !slices.Contains(there, name[1]) {
			t.Errorf("README.md names %s, which is no test here", name[1])
		}
	}
}

// testsHere lists the tests of this package.
func testsHere(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	kit.Check(t, err)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		kit.Check(t, err)
		for _, declaration := range file.Decls {
			if f, ok := declaration.(*ast.FuncDecl); ok && f.Recv == nil && regexp.MustCompile(`^Test[A-Z]`).MatchString(f.Name.Name) {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}
