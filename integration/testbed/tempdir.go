package testbed

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tempPrefix = "vaultpool-"
	lockName   = "lock"
)

// tempDir is a directory with a lock file that is held for as long as this process lives, so that a
// directory left by a process that was killed can be told from one in use.
type tempDir struct {
	path string
	lock *os.File
}

func newTempDir() (*tempDir, error) {
	path, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	// The databases may run as another user, who has to pass through.
	if err := os.Chmod(path, 0o711); err != nil {
		return nil, fmt.Errorf("open the temporary directory to the servers: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the lock of the temporary directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock the temporary directory: %w", err)
	}
	return &tempDir{path: path, lock: lock}, nil
}

func (d *tempDir) join(name string) string { return filepath.Join(d.path, name) }

func (d *tempDir) remove() error {
	defer func() { _ = d.lock.Close() }() // gone with the directory
	if err := os.RemoveAll(d.path); err != nil {
		return fmt.Errorf("remove the temporary directory: %w", err)
	}
	return nil
}

// sweepTempDirs removes the directories of testbeds that ended without Close. It says nothing about
// failures: those of other users are not ours to remove.
func sweepTempDirs() {
	const newborn = time.Minute // may not have its lock yet
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*", lockName))
	for _, path := range found {
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < newborn {
			continue
		}
		lock, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		_ = lock.Close()
	}
}

// freeAddress returns a loopback address that nobody listens on. Its port lies below the range that
// systems give to outgoing connections: a server that is down for a while then finds its port free
// when it comes back, and a client that dials it meanwhile cannot connect to itself.
func freeAddress() (string, error) {
	const lowest, count, attempts = 15000, 17000, 100
	for range attempts {
		offset, err := rand.Int(rand.Reader, big.NewInt(count))
		if err != nil {
			return "", fmt.Errorf("choose a port: %w", err)
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+int(offset.Int64())))
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return "", fmt.Errorf("give back a free port: %w", err)
		}
		return address, nil
	}
	return "", fmt.Errorf("found no free loopback port in %d attempts", attempts)
}

// randomText returns 2*bytes random hexadecimal digits.
func randomText(bytes int) string {
	text := make([]byte, bytes)
	_, _ = rand.Read(text) // never fails
	return hex.EncodeToString(text)
}

// names makes short unique names. Vault keeps eight characters of a role's name in the names of its
// PostgreSQL users.
type names struct {
	prefix  string // sets them apart from those of other testbeds on the same existing servers
	counter atomic.Int64
}

func newNames() *names {
	if !anyExisting() {
		return new(names)
	}
	return &names{prefix: randomText(2)[:3]}
}

func (n *names) next(kind string) string {
	return fmt.Sprintf("%s%s%04d", kind, n.prefix, n.counter.Add(1))
}

// usersLike matches the database users of all roles of this testbed.
func (n *names) usersLike() string { return "v-%-r" + n.prefix + "%" }

// anyExisting reports whether the environment gives any server.
func anyExisting() bool {
	for _, name := range []string{"PGVAULT_TEST_POSTGRES_URL", "PGVAULT_TEST_MARIADB_DSN", "PGVAULT_TEST_VAULT_ADDR"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}
