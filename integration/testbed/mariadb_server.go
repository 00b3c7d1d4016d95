package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// mariadbServer is a MariaDB process of ours, or one of MySQL.
type mariadbServer struct {
	bed        *Bed
	binary     string
	installer  string // makes MariaDB's data directory; empty for MySQL, which does that itself
	credential *syscall.Credential
	dir        string
	address    string
	password   string
	tls        *serverTLS
	process    *process
}

// newMariaDBServer prepares a server, which is not running yet.
func (b *Bed) newMariaDBServer(ctx context.Context) (*mariadbServer, error) {
	binary, installer, err := mariadbPrograms(ctx)
	if err != nil {
		return nil, err
	}
	credential, err := unprivileged("mysql")
	if err != nil {
		return nil, err
	}
	s := &mariadbServer{
		bed: b, binary: binary, installer: installer, credential: credential,
		password: randomText(16), dir: b.dir.join("mariadb"),
	}
	if err := makeOwnedDir(s.dir, credential); err != nil {
		return nil, err
	}
	if s.tls, err = newServerTLS(s.dir, credential); err != nil {
		return nil, err
	}
	if s.address, err = freeAddress(); err != nil {
		return nil, err
	}
	return s, s.initialise(ctx)
}

// close does not wait for an orderly end, since the data is thrown away.
func (s *mariadbServer) close(ctx context.Context) error {
	if s.process == nil {
		return nil
	}
	return s.process.stop(ctx, syscall.SIGKILL)
}

// mariadbPrograms finds the server, and what makes a data directory for it.
func mariadbPrograms(ctx context.Context) (binary, installer string, err error) {
	if binary = os.Getenv("PGVAULT_TEST_MYSQLD"); binary == "" {
		if binary, err = findProgram("mariadbd", "mysqld"); err != nil {
			return "", "", err
		}
	}
	version, err := exec.CommandContext(ctx, binary, "--no-defaults", "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	if strings.Contains(string(version), "MariaDB") {
		installer, err = findProgram("mariadb-install-db", "mysql_install_db")
	}
	return binary, installer, err
}

// findProgram looks in PATH and where Debian keeps servers.
func findProgram(names ...string) (string, error) {
	for _, name := range names {
		for _, candidate := range []string{name, filepath.Join("/usr/sbin", name)} {
			if found, err := exec.LookPath(candidate); err == nil {
				return found, nil
			}
		}
	}
	return "", fmt.Errorf("not installed: no %s in PATH or /usr/sbin; run integration/setup.sh mariadb", names[0])
}

// initialise makes the data directory, and a file of statements that the server runs at each start:
// the only way to give root a password before anybody can connect. Each server needs a directory of its own for
// temporary tables: one that starts deletes those that others left, or still use, in /tmp.
func (s *mariadbServer) initialise(ctx context.Context) error {
	//nolint:noctx // runTool watches the context
	command := exec.Command(s.installer, "--no-defaults", "--datadir="+s.dataDir(), "--tmpdir="+s.dir,
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
	if s.isMySQL() {
		command = exec.Command(s.binary, "--no-defaults", "--initialize-insecure", //nolint:noctx // the same
			"--datadir="+s.dataDir(), "--tmpdir="+s.dir)
	}
	command.Dir, command.Env = s.dir, databaseEnv()
	err := s.bed.processes.runTool(ctx, processSpec{
		name: filepath.Base(command.Path), command: command, logFile: s.bed.dir.join("mariadb-install.log"),
		credential: s.credential, deathSig: syscall.SIGKILL,
	})
	if err != nil {
		return err
	}
	statements := fmt.Sprintf(`ALTER USER 'root'@'localhost' IDENTIFIED BY '%[1]s';
CREATE USER 'root'@'127.0.0.1' IDENTIFIED BY '%[1]s';
GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
`, s.password)
	if !s.isMySQL() {
		// An anonymous ''@'localhost' would shadow the users that Vault makes; the installer makes roots
		// without a password, and whether 127.0.0.1 is among them depends on its version.
		statements = "DELETE FROM mysql.global_priv WHERE user = '' OR user = 'root' AND host <> 'localhost';\nFLUSH PRIVILEGES;\n" + statements
	}
	if err := os.WriteFile(s.initFile(), []byte(statements), 0o600); err != nil {
		return fmt.Errorf("write the first statements: %w", err)
	}
	return giveTo(s.initFile(), s.credential)
}

func (s *mariadbServer) isMySQL() bool    { return s.installer == "" }
func (s *mariadbServer) dataDir() string  { return filepath.Join(s.dir, "data") }
func (s *mariadbServer) initFile() string { return filepath.Join(s.dir, "init.sql") }

// start runs the server and returns when it lets root in. Its data is thrown away in the end, so it
// need not reach the disk.
func (s *mariadbServer) start(ctx context.Context) error {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	socket := filepath.Join(s.dir, "socket")
	if len(socket) > maxSocketPath {
		return errors.New("the path of the temporary directory is too long for MariaDB's socket: set TMPDIR to a shorter one")
	}
	args := []string{
		"--no-defaults",
		"--datadir=" + s.dataDir(), "--init-file=" + s.initFile(), "--socket=" + socket,
		"--pid-file=" + filepath.Join(s.dir, "pid"), "--tmpdir=" + s.dir,
		"--bind-address=" + host, "--port=" + port, "--skip-name-resolve",
		"--ssl-cert=" + s.tls.certFile, "--ssl-key=" + s.tls.keyFile, // for clients who ask for it
		"--max-connections=" + strconv.Itoa(defaultMaxConns),
		"--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=OFF",
		"--innodb-buffer-pool-size=64M",
	}
	if s.isMySQL() {
		// By default it would listen on a second port, and need a directory that packages make.
		args = append(args, "--mysqlx=OFF", "--secure-file-priv="+s.dir)
	} else {
		args = append(args, "--innodb-log-file-size=16M")
	}
	command := exec.Command(s.binary, args...) //nolint:noctx // the server outlives the start
	command.Dir, command.Env = s.dir, databaseEnv()
	s.process, err = s.bed.processes.start(processSpec{
		name: "mariadbd", command: command, logFile: s.bed.dir.join("mariadb.log"),
		credential: s.credential, deathSig: syscall.SIGKILL,
	})
	if err != nil {
		return err
	}
	return s.process.waitReady(ctx, s.letsIn)
}

// maxSocketPath is what fits into a socket address on every Unix system.
const maxSocketPath = 103

func (s *mariadbServer) letsIn(ctx context.Context) error {
	connector, err := mysql.NewConnector(s.rootConfig())
	if err != nil {
		return err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (s *mariadbServer) rootConfig() *mysql.Config {
	config := mysql.NewConfig()
	config.User, config.Passwd = "root", s.password
	config.Net, config.Addr = "tcp", s.address
	config.Logger = &mysql.NopLogger{} // refused connections are expected while it starts
	return config
}
