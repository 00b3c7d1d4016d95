package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

const (
	superuser       = "postgres"
	defaultMaxConns = 300
)

// postgresServer is a PostgreSQL process of ours.
type postgresServer struct {
	bed        *Bed
	binaries   string
	credential *syscall.Credential
	dir        string
	address    string
	password   string
	tls        *serverTLS
	process    *process
}

// newPostgresServer prepares a server, which is not running yet.
func (b *Bed) newPostgresServer(ctx context.Context) (*postgresServer, error) {
	binaries, err := findPostgres()
	if err != nil {
		return nil, err
	}
	credential, err := unprivileged(superuser)
	if err != nil {
		return nil, err
	}
	s := &postgresServer{
		bed: b, binaries: binaries, credential: credential, password: randomText(16),
		dir: b.dir.join("postgres"),
	}
	if err := makeOwnedDir(s.dir, credential); err != nil {
		return nil, err
	}
	if b.options.PostgresTLS {
		if s.tls, err = newServerTLS(s.dir, credential); err != nil {
			return nil, err
		}
	}
	if s.address, err = freeAddress(); err != nil {
		return nil, err
	}
	return s, s.initialise(ctx)
}

// close does not wait for an orderly end, since the data is thrown away.
func (s *postgresServer) close(ctx context.Context) error {
	if s.process == nil {
		return nil
	}
	return s.process.stop(ctx, syscall.SIGQUIT)
}

// findPostgres returns the directory of the newest installed server binaries, which Debian keeps out
// of PATH.
func findPostgres() (string, error) {
	if found, err := exec.LookPath("initdb"); err == nil {
		if _, err := exec.LookPath(filepath.Join(filepath.Dir(found), "postgres")); err == nil {
			return filepath.Dir(found), nil
		}
	}
	newest, dir := 0, ""
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	for _, initdb := range found {
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
		if err == nil && version > newest {
			newest, dir = version, filepath.Dir(initdb)
		}
	}
	if dir == "" {
		return "", errors.New("not installed: no initdb in PATH or /usr/lib/postgresql/*/bin; run integration/setup.sh postgres")
	}
	return dir, nil
}

// unprivileged returns whom to run a database as, since neither likes root: the user that its package
// has made, or nobody. Nil stands for ourselves.
func unprivileged(preferred string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup(preferred)
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("find an unprivileged user to run a database as: %w", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read the number of user %s: %w", account.Username, err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read the group of user %s: %w", account.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func makeOwnedDir(dir string, owner *syscall.Credential) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of a database: %w", err)
	}
	return giveTo(dir, owner)
}

func giveTo(path string, owner *syscall.Credential) error {
	if owner == nil {
		return nil
	}
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("give %s to the database's user: %w", filepath.Base(path), err)
	}
	return nil
}

// initialise makes the data directory. The superuser has a password too, so that no login succeeds by
// accident.
func (s *postgresServer) initialise(ctx context.Context) error {
	passwordFile := filepath.Join(s.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the superuser's password: %w", err)
	}
	if err := giveTo(passwordFile, s.credential); err != nil {
		return err
	}
	command := exec.Command(filepath.Join(s.binaries, "initdb"), //nolint:noctx // runTool watches the context
		"--pgdata", s.dataDir(), "--username", superuser, "--pwfile", passwordFile,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	command.Dir, command.Env = s.dir, databaseEnv()
	return s.bed.processes.runTool(ctx, processSpec{
		name: "initdb", command: command, logFile: s.bed.dir.join("initdb.log"),
		credential: s.credential, deathSig: syscall.SIGKILL,
	})
}

func (s *postgresServer) dataDir() string { return filepath.Join(s.dir, "data") }

// databaseEnv keeps our own PG* variables, locale and time zone away from a server.
func databaseEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// start runs the server and returns when it lets the superuser in. Its data is thrown away in the
// end, so it need not reach the disk.
func (s *postgresServer) start(ctx context.Context) error {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	maxConns := s.bed.options.PostgresMaxConns
	if maxConns == 0 {
		maxConns = defaultMaxConns
	}
	settings := []string{
		"listen_addresses=" + host, "port=" + port,
		"unix_socket_directories=", // a path in a deep temporary directory could be too long for one
		"max_connections=" + strconv.Itoa(maxConns),
		"fsync=off", "synchronous_commit=off", "full_page_writes=off",
		"shared_buffers=64MB",
		"password_encryption=scram-sha-256", "track_activities=on", "timezone=UTC",
		"logging_collector=off", "log_destination=stderr", "log_min_messages=warning",
	}
	if s.bed.options.PostgresReplicas {
		settings = append(settings, "wal_level=replica", "max_wal_senders=20", "max_replication_slots=20", "wal_keep_size=256MB",
			// Queries at a replica are not cancelled for the sake of its replay, however far behind that is.
			"max_standby_streaming_delay=-1", "max_standby_archive_delay=-1", "hot_standby_feedback=on")
	} else {
		settings = append(settings, "wal_level=minimal", "max_wal_senders=0")
	}
	if s.tls != nil {
		settings = append(settings, "ssl=on", "ssl_cert_file="+s.tls.certFile, "ssl_key_file="+s.tls.keyFile)
	}
	command := exec.Command(filepath.Join(s.binaries, "postgres"), "-D", s.dataDir()) //nolint:noctx // the server outlives the start
	for _, setting := range settings {
		command.Args = append(command.Args, "-c", setting)
	}
	command.Dir, command.Env = s.dir, databaseEnv()
	s.process, err = s.bed.processes.start(processSpec{
		name: "postgres", command: command, logFile: s.bed.dir.join("postgres.log"),
		credential: s.credential, deathSig: syscall.SIGQUIT, // SIGKILL would leave its children and its shared memory
	})
	if err != nil {
		return err
	}
	return s.process.waitReady(ctx, s.letsIn)
}

func (s *postgresServer) letsIn(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.superURL())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (s *postgresServer) superURL() string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, s.password), Host: s.address,
		Path: "/postgres", RawQuery: "sslmode=disable",
	}).String()
}
