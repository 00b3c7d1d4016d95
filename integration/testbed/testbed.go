// Package testbed starts real servers for tests, benchmarks and the demo: Vault, PostgreSQL and
// MariaDB, each a process of its own on a loopback port, with its data in a temporary directory.
//
// # What happens on failure
//
// [Start] returns an error that says what could not be started and shows the end of that server's
// log; whatever it had started is stopped again. A server that is not installed is an error, never a
// reason to do without it. [Bed.Close] stops everything and removes the temporary directory. A
// process that ends without Close, by a panic, SIGKILL or Ctrl-C, leaves no server behind on Linux:
// each child is killed by the kernel with its parent. The directory that it leaves is removed by the
// next Start.
//
// # Where the servers come from
//
// PostgreSQL and MariaDB must be installed (integration/setup.sh does it on Debian). Vault is the
// vault command in PATH, or else integration/devvault, which is built once, in some minutes, into the
// user's cache directory. Existing servers are used instead when these are set:
//
//	PGVAULT_TEST_POSTGRES_URL   URL of a PostgreSQL superuser
//	PGVAULT_TEST_MARIADB_DSN    DSN of a MariaDB or MySQL user who may do everything
//	PGVAULT_TEST_MYSQLD         the server program to start instead of mariadbd: MariaDB's, or MySQL's mysqld
//	PGVAULT_TEST_VAULT_ADDR     Vault's address, together with
//	PGVAULT_TEST_VAULT_TOKEN    a root token
//	PGVAULT_TEST_DEVVAULT=1     rather integration/devvault than the vault command in PATH
//
// On an existing server the testbed makes databases, roles, mounts and policies of its own under
// unique names, touches nothing else, and removes them in Close. Faults that need the process (Pause,
// Kill, Restart and the like) return [ErrNotOurServer] there. An option that only a server of our own
// can fulfil (VaultDir, PostgresTLS, PostgresMaxConns, PostgresReplicas) takes precedence over these
// variables.
//
// The package works on Unix systems. It finds integration/devvault by the path of this source file,
// or, in a binary built with -trimpath, by asking the go command in the working directory, which then
// has to be inside a module that has this one.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// ErrNotOurServer is returned by faults that need control over a process, on a server that was given
// by an environment variable.
var ErrNotOurServer = errors.New("the testbed did not start this server, so it cannot do this to it")

// Options says what to start. Vault is always started.
type Options struct {
	Postgres bool // start PostgreSQL
	MariaDB  bool // start MariaDB

	// VaultDir keeps Vault's state in this directory, so that [Vault.Kill] and [Vault.Restart] lose
	// nothing. It belongs to the caller: Close leaves it. Empty means in memory.
	VaultDir string

	// PostgresTLS lets PostgreSQL serve TLS too, under a throw-away CA (Postgres.CACertFile), and
	// Postgres.URL ask for it with sslmode=verify-full.
	PostgresTLS bool

	// PostgresMaxConns is PostgreSQL's max_connections; 0 means 300. Three of them are reserved for
	// superusers, Vault's own login among them.
	PostgresMaxConns int

	// PostgresReplicas lets PostgreSQL have streaming replicas, made by [Bed.PostgresReplica].
	PostgresReplicas bool

	// Audit has a Vault of ours keep an audit log that holds every secret, for [Vault.Secrets].
	Audit bool

	// Progress is told, in lines, about what takes long. Nil discards them.
	Progress io.Writer
}

// Bed is a set of running servers. Databases that were not asked for are nil.
type Bed struct {
	Vault    *Vault
	Postgres *Postgres
	MariaDB  *MariaDB

	options   Options
	dir       *tempDir
	processes *processes
	names     *names

	mu      sync.Mutex                    // guards closers
	closers []func(context.Context) error // in order of creation; run backwards

	closeOnce sync.Once
	closeErr  error
}

// closeTimeout bounds Close, for a server that does not answer any more.
const closeTimeout = 30 * time.Second

// Start starts the servers and connects Vault to the databases. It takes about two seconds, and
// minutes when Vault has to be built first. ctx governs the start only. On failure everything that
// was started is stopped again.
func Start(ctx context.Context, options Options) (*Bed, error) {
	if options.Progress == nil {
		options.Progress = io.Discard
	}
	bed := &Bed{options: options, processes: newProcesses(), names: newNames()}
	if err := bed.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("testbed: %w", err), bed.Close())
	}
	return bed, nil
}

func (b *Bed) start(ctx context.Context) error {
	sweepTempDirs()
	dir, err := newTempDir()
	if err != nil {
		return err
	}
	b.dir = dir
	if err := b.startVault(ctx); err != nil {
		return fmt.Errorf("start Vault: %w", err)
	}
	if err := b.Vault.mountDatabase(ctx); err != nil {
		return err
	}
	if b.options.Postgres {
		if err := b.startPostgres(ctx); err != nil {
			return fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
	if b.options.MariaDB {
		if err := b.startMariaDB(ctx); err != nil {
			return fmt.Errorf("start MariaDB: %w", err)
		}
	}
	return nil
}

// Close stops every server that Start started, removes what it made on existing ones, and removes
// the temporary directory. It is idempotent, and returns what it could not do.
func (b *Bed) Close() error {
	b.closeOnce.Do(func() { b.closeErr = b.close() })
	return b.closeErr
}

func (b *Bed) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()

	b.mu.Lock()
	closers := b.closers
	b.mu.Unlock()
	var failures []error
	if b.Vault != nil {
		failures = append(failures, b.Vault.clean(ctx))
	}
	for _, undo := range slices.Backward(closers) {
		failures = append(failures, undo(ctx))
	}
	failures = append(failures, b.processes.close())
	if b.dir != nil {
		failures = append(failures, b.dir.remove())
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("close the testbed: %w", err)
	}
	return nil
}

// onClose adds something to do in Close, before all that was added earlier.
func (b *Bed) onClose(do func(context.Context) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closers = append(b.closers, do)
}

func (b *Bed) progressf(format string, values ...any) {
	_, _ = fmt.Fprintf(b.options.Progress, "testbed: "+format+"\n", values...) // who does not listen misses it
}
