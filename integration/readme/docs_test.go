package readme_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// block is a fenced block of a document.
type block struct {
	language string
	text     string
	heading  string // the nearest of the second level above it
	line     int
}

// document returns the blocks of a Markdown file.
func document(t *testing.T, path string) (found []block) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	heading, open := "", (*block)(nil)
	for i, line := range strings.Split(string(text), "\n") {
		switch fence, isFence := strings.CutPrefix(line, "```"); {
		case isFence && open == nil:
			open = &block{language: fence, heading: heading, line: i + 1}
		case isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "## "):
			heading = line[len("## "):]
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: the block has no end", path, open.line)
	}
	return found
}

// documents returns the README and all of docs, by path.
func documents(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(found) < 10 {
		t.Fatalf("docs holds %d documents: %v", len(found), err)
	}
	return append(found, "../../README.md")
}

// What a snippet may take for granted: one that has no package clause gets these imports, as far as it uses them.
var imports = map[string]string{
	"api":          "github.com/hashicorp/vault/api",
	"context":      "context",
	"errors":       "errors",
	"http":         "net/http",
	"log":          "log",
	"mysql":        "github.com/go-sql-driver/mysql",
	"mysqlvault":   "github.com/vaultpool/vaultpool/mysqlvault",
	"os":           "os",
	"pgconn":       "github.com/jackc/pgx/v5/pgconn",
	"pgvault":      "github.com/vaultpool/vaultpool/pgvault",
	"pgx":          "github.com/jackc/pgx/v5",
	"pgxpool":      "github.com/jackc/pgx/v5/pgxpool",
	"rotation":     "github.com/vaultpool/vaultpool/rotation",
	"rotationhttp": "github.com/vaultpool/vaultpool/rotation/rotationhttp",
	"slog":         "log/slog",
	"sql":          "database/sql",
	"stdlib":       "github.com/vaultpool/vaultpool/pgvault/stdlib",
	"sync":         "sync",
	"time":         "time",
	"vaultsource":  "github.com/vaultpool/vaultpool/rotation/vaultsource",
}

// complete makes a file of a snippet.
func complete(snippet string) string {
	if strings.HasPrefix(snippet, "package ") {
		return snippet
	}
	head := "package snippet\n"
	if strings.HasPrefix(snippet, "import ") {
		return head + snippet
	}
	for _, name := range slices.Sorted(maps.Keys(imports)) {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(snippet) {
			head += fmt.Sprintf("import %s %q\n", name, imports[name])
		}
	}
	return head + snippet
}

// Every Go block of every document is accepted by the compiler and by go vet.
func TestSnippetsCompile(t *testing.T) {
	dir, err := os.MkdirTemp(".", "snippet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := 0
	for _, path := range documents(t) {
		name := strings.TrimSuffix(filepath.Base(path), ".md")
		for _, b := range document(t, path) {
			if b.language != "go" {
				continue
			}
			n++
			folder := filepath.Join(dir, fmt.Sprintf("%s-line-%d", name, b.line)) // vet's complaints show it
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, "snippet.go"), []byte(complete(b.text)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n < 15 {
		t.Errorf("%d Go blocks were found, which cannot be all", n)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", "./"+dir+"/...").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// What is said to be somewhere is there: links between documents, to files and to headings.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, path := range documents(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := filepath.Join(filepath.Dir(path), target)
			if target == "" {
				file = path
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(t, file), anchor) {
				t.Errorf("%s links to %s, which has no such heading", path, m[1])
			}
		}
	}
}

// anchors returns the headings of a document as links name them.
func anchors(t *testing.T, path string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dropped := regexp.MustCompile(`[^\pL\pN _-]`)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		name := dropped.ReplaceAllString(strings.ToLower(m[1]), "")
		found = append(found, strings.ReplaceAll(name, " ", "-"))
	}
	return found
}
