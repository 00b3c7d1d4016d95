package testbed_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "vault" {
		if err := standIn(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(orphanage) != "" {
		abandonServers()
	}
	for _, name := range []string{"POSTGRES_URL", "MARIADB_DSN", "VAULT_ADDR", "VAULT_TOKEN", "DEVVAULT"} {
		if err := os.Unsetenv("PGVAULT_TEST_" + name); err != nil { // these tests want servers that they may stop
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// orphanage is set in a copy of this program that starts servers and is killed.
const orphanage = "TESTBED_TEST_ORPHANAGE"

// abandonServers prints the addresses of its servers, one a line, and waits for its end.
func abandonServers() {
	bed, err := testbed.Start(context.Background(), testbed.Options{Postgres: true, MariaDB: os.Getenv(orphanage) == "mariadb"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(strings.TrimPrefix(bed.Vault.Addr, "http://"))
	fmt.Println(bed.Postgres.Addr)
	if bed.MariaDB != nil {
		fmt.Println(bed.MariaDB.Addr)
	}
	fmt.Println("ready")
	select {}
}

// killStarter starts servers in another process, kills that, and waits for the end of the servers.
func killStarter(t *testing.T, which string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a signal on the death of a parent")
	}
	program, err := os.Executable()
	check(t, err)
	command := exec.CommandContext(t.Context(), program)
	command.Env = append(os.Environ(), orphanage+"="+which, "TMPDIR="+sharedTempDir(t))
	command.Stderr = t.Output()
	output, err := command.StdoutPipe()
	check(t, err)
	check(t, command.Start())
	var servers []string
	lines := bufio.NewScanner(output)
	for lines.Scan() && lines.Text() != "ready" {
		servers = append(servers, lines.Text())
	}
	for _, address := range servers {
		conn, err := net.Dial("tcp", address)
		check(t, err)
		check(t, conn.Close())
	}
	check(t, command.Process.Kill())
	_ = command.Wait() // its error is that it was killed
	if len(servers) < 2 {
		t.Fatalf("servers: %q", servers)
	}
	for _, address := range servers {
		eventually(t, "the end of the server at "+address, func(context.Context) (bool, error) {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil, nil
		})
	}
}

func TestServersEndWithTheirStarter(t *testing.T) { killStarter(t, "postgres") }

// Ctrl-C in a terminal goes to the whole process group.
func TestServersAreNotInOurProcessGroup(t *testing.T) {
	start(t, testbed.Options{Postgres: true})
	ours := syscall.Getpgrp()
	for pid, command := range children(t) {
		group, err := syscall.Getpgid(pid)
		check(t, err)
		if group == ours {
			t.Errorf("in our process group: %s", command)
		}
	}
}

// start starts a testbed that the end of the test closes.
func start(t *testing.T, options testbed.Options) *testbed.Bed {
	t.Helper()
	options.Progress = t.Output()
	bed, err := testbed.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	return bed
}

// check fails the test at once when there is an error.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until the condition holds, which some other process brings about.
func eventually(t *testing.T, what string, condition func(context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		holds, err := condition(ctx)
		check(t, err)
		if holds {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within 30 s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// children returns the process ids and command lines of this process's living children.
func children(t *testing.T) map[int]string {
	t.Helper()
	found := make(map[int]string)
	stats, err := filepath.Glob("/proc/[0-9]*/status")
	check(t, err)
	parent := "PPid:\t" + strconv.Itoa(os.Getpid()) + "\n"
	for _, path := range stats {
		status, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(status), parent) {
			continue // the process has ended, or is another's
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		check(t, err)
		found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
	}
	return found
}

// sharedTempDir is t.TempDir, but open to the user that a database runs as.
func sharedTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "testbed-test-")
	check(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	check(t, os.Chmod(dir, 0o711))
	return dir
}

// entries returns the names in the directory for temporary files.
func entries(t *testing.T) []string {
	t.Helper()
	found, err := os.ReadDir(os.TempDir())
	check(t, err)
	var names []string
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", sharedTempDir(t))
	bed := start(t, testbed.Options{Postgres: true})
	if len(children(t)) < 2 {
		t.Errorf("Vault and PostgreSQL should be running; children: %v", children(t))
	}
	if left := entries(t); len(left) != 1 {
		t.Errorf("want one temporary directory, have %q", left)
	}
	check(t, bed.Close())
	check(t, bed.Close()) // again is nothing new
	if left := children(t); len(left) != 0 {
		t.Errorf("still running: %v", left)
	}
	if left := entries(t); len(left) != 0 {
		t.Errorf("still there: %q", left)
	}
	if err := bed.Postgres.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Restart after Close: %v", err)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", sharedTempDir(t))
	t.Setenv("PGVAULT_TEST_POSTGRES_URL", "postgres://nobody:wrong-password@127.0.0.1:1/postgres")
	bed, err := testbed.Start(t.Context(), testbed.Options{Postgres: true})
	if err == nil {
		_ = bed.Close()
		t.Fatal("started without a PostgreSQL")
	}
	if strings.Contains(err.Error(), "wrong-password") {
		t.Errorf("the error shows the password: %v", err)
	}
	if left := children(t); len(left) != 0 {
		t.Errorf("still running: %v", left)
	}
	if left := entries(t); len(left) != 0 {
		t.Errorf("still there: %q", left)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", sharedTempDir(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if bed, err := testbed.Start(ctx, testbed.Options{Postgres: true}); err == nil {
		_ = bed.Close()
		t.Fatal("started though its context was over")
	}
	if processes, files := children(t), entries(t); len(processes)+len(files) != 0 {
		t.Errorf("left: %v and %q", processes, files)
	}
}

func TestStartSweepsAbandonedDirectories(t *testing.T) {
	t.Setenv("TMPDIR", sharedTempDir(t))
	abandoned := filepath.Join(os.TempDir(), "vaultpool-1")
	check(t, os.Mkdir(abandoned, 0o700))
	lock := filepath.Join(abandoned, "lock")
	check(t, os.WriteFile(lock, nil, 0o600))
	old := time.Now().Add(-time.Hour)
	check(t, os.Chtimes(lock, old, old))

	first := start(t, testbed.Options{})
	if left := entries(t); len(left) != 1 || left[0] == "vaultpool-1" {
		t.Errorf("want only the directory in use, have %q", left)
	}
	inUse, err := filepath.Glob(filepath.Join(os.TempDir(), "vaultpool-*", "lock"))
	check(t, err)
	check(t, os.Chtimes(inUse[0], old, old)) // old, but locked
	start(t, testbed.Options{})
	if left := entries(t); len(left) != 2 {
		t.Errorf("want both directories in use, have %q", left)
	}
	check(t, first.Close())
}
