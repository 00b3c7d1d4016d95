package filesource

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vaultpool/vaultpool/rotation"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSource makes the directory of a test, and a source of it.
func newSource(t *testing.T, config func(dir string) Config) (*Source, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := New(config(dir))
	check(t, err)
	return s, dir
}

func inDir(dir string) Config  { return Config{Dir: dir} }
func inFile(dir string) Config { return Config{File: filepath.Join(dir, "db.json")} }

// put replaces a file at once.
func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	check(t, os.WriteFile(path+".new", []byte(content), 0o600))
	check(t, os.Rename(path+".new", path))
}

// rewrite writes a file in place: for a while it is empty.
func rewrite(t *testing.T, dir, name, content string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
}

func putJSON(t *testing.T, dir, user, password string) {
	t.Helper()
	put(t, dir, "db.json", fmt.Sprintf(`{"username": %q, "password": %q}`, user, password))
}

func putPair(t *testing.T, dir, user, password string) {
	t.Helper()
	put(t, dir, "username", user)
	put(t, dir, "password", password)
}

// swap replaces both fields as the kubelet does.
func swap(t *testing.T, dir string, version int, user, password string) {
	t.Helper()
	name := fmt.Sprintf("..v%d", version)
	check(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	put(t, dir, filepath.Join(name, "username"), user)
	put(t, dir, filepath.Join(name, "password"), password)
	data := filepath.Join(dir, "..data")
	old, missing := os.Readlink(data)
	check(t, os.Symlink(name, data+"_tmp"))
	check(t, os.Rename(data+"_tmp", data))
	if missing == nil {
		check(t, os.RemoveAll(filepath.Join(dir, old)))
		return
	}
	for _, field := range []string{"username", "password"} {
		check(t, os.Symlink(filepath.Join("..data", field), filepath.Join(dir, field)))
	}
}

func wantPair(t *testing.T, c rotation.Credential, user, password string) {
	t.Helper()
	if c.Username() != user || c.Password() != password {
		t.Errorf("read %q and %q, not %q and %q", c.Username(), c.Password(), user, password)
	}
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}
