package filesource

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vaultpool/vaultpool/rotation"
)

// maxSize bounds what is read of a file; a whole Kubernetes Secret has as much.
const maxSize = 1 << 20

// look is what the files held when they were looked at.
type look struct {
	credential rotation.Credential
	err        error         // instead
	files      []os.FileInfo // those that were read
	whole      bool          // it cannot be a mixture of two versions
}

// same reports that nothing was written between two looks: then what they saw is
// of one version, unless whoever writes pauses halfway.
func (l look) same(other look) bool {
	return (l.err == nil) == (other.err == nil) &&
		(l.err == nil || l.err.Error() == other.err.Error()) &&
		l.credential.Equal(other.credential) &&
		slices.EqualFunc(l.files, other.files, unchanged)
}

func unchanged(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (s *Source) look() (l look) {
	var user, password string
	if s.config.Dir != "" {
		user, password, l.err = l.readDir(s.config)
	} else {
		user, password, l.err = l.readJSON(s.config)
	}
	if l.err == nil {
		l.credential = rotation.NewCredential(user, password)
	}
	return l
}

// readJSON reads a JSON file. It is one file, but may be rewritten in place.
func (l *look) readJSON(c Config) (user, password string, err error) {
	data, err := l.readFile(c.File)
	if err != nil {
		return "", "", err
	}
	return parse(data, c)
}

// readDir reads both files of a directory.
func (l *look) readDir(c Config) (user, password string, err error) {
	var dir string
	if dir, l.whole, err = resolve(c.Dir); err != nil {
		return "", "", err
	}
	if user, err = l.readField(dir, c.UsernameField); err != nil {
		return "", "", err
	}
	password, err = l.readField(dir, c.PasswordField)
	return user, password, err
}

// resolve follows the symbolic links to where the files are, once for both.
//
// The kubelet and the Secrets Store CSI driver write each version into a directory
// of its own, never again into that one, and then turn the link "..data" to it
// (https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter). The names
// beside it lead through that link, and could change between two reads.
func resolve(dir string) (resolved string, swapped bool, err error) {
	data := filepath.Join(dir, "..data")
	if _, err := os.Lstat(data); err == nil {
		dir, swapped = data, true
	}
	resolved, err = filepath.EvalSymlinks(dir)
	return resolved, swapped, err
}

// readField reads a file that holds one value and perhaps a line break.
func (l *look) readField(dir, field string) (string, error) {
	data, err := l.readFile(filepath.Join(dir, field))
	if err != nil {
		return "", fmt.Errorf("the field %q: %w", field, err)
	}
	value := string(data)
	if line, ok := strings.CutSuffix(value, "\n"); ok {
		value = strings.TrimSuffix(line, "\r")
	}
	if value == "" {
		return "", emptyField(field)
	}
	return value, nil
}

// What is empty may pass: somebody has made the file and goes on to fill it.
var errEmptyFile = errors.New("the file is empty")

func emptyField(field string) error { return fmt.Errorf("the field %q is empty", field) }

func (l *look) readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, fmt.Errorf("%w: %s is not a regular file, but has mode %v", rotation.ErrInvalid, path, info.Mode())
	}
	f, err := os.Open(path) //nolint:gosec // the path is configuration
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	l.files = append(l.files, info)
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", rotation.ErrInvalid, path, maxSize)
	}
	return data, nil
}
