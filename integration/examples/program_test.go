package examples_test

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// starter starts processes from one thread, since the kernel ends them (Pdeathsig) with the thread that forked them. So
// they never outlive the tests.
var starter = newThread()

type thread struct{ jobs chan func() }

func newThread() *thread {
	s := &thread{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *thread) close() { close(s.jobs) }

func (s *thread) start(command *exec.Cmd) error {
	started := make(chan error)
	s.jobs <- func() { started <- command.Start() }
	return <-started
}

// program is an example that runs.
type program struct {
	command *exec.Cmd
	done    chan struct{} // closed when it has ended
	err     error         // how; read after done

	mu    sync.Mutex // guards lines
	lines []string   // that it has written, on both of its outputs
}

// start starts an example in that environment and no other.
func start(t *testing.T, name string, env []string, args ...string) *program {
	t.Helper()
	p := &program{command: exec.Command(filepath.Join(binaries, name), args...), done: make(chan struct{})} //nolint:noctx // see stop
	p.command.Env = env
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	output, write := io.Pipe()
	p.command.Stdout, p.command.Stderr = write, write
	kit.Check(t, starter.start(p.command))
	go func() {
		p.err = p.command.Wait() // ends when both outputs are read
		_ = write.Close()
	}()
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			p.add(t, lines.Text())
		}
	}()
	t.Cleanup(func() { // unless it has ended
		_ = p.command.Process.Kill()
		<-p.done
	})
	return p
}

func (p *program) add(t *testing.T, line string) {
	t.Helper()
	t.Log(line)
	kit.Heard(line)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, line)
}

// all returns what it has written.
func (p *program) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// find returns what the pattern's group matches in each line that it matches.
func (p *program) find(pattern string) (found []string) {
	expression := regexp.MustCompile(pattern)
	for _, line := range p.all() {
		if m := expression.FindStringSubmatch(line); m != nil {
			found = append(found, m[1])
		}
	}
	return found
}

// distinct waits until the pattern's group has had n values, and returns them.
func (p *program) distinct(t *testing.T, n int, pattern string) (values []string) {
	t.Helper()
	timeout := time.After(2 * kit.Patience)
	for {
		values = values[:0]
		seen := make(map[string]bool)
		for _, value := range p.find(pattern) {
			if !seen[value] {
				seen[value] = true
				values = append(values, value)
			}
		}
		if len(values) >= n {
			return values
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-p.done:
			t.Fatalf("it has ended: %v", p.err)
		case <-timeout:
			t.Fatalf("not %d lines with another %s", n, pattern)
		}
	}
}

// only fails the test for a line of another kind.
func (p *program) only(t *testing.T, patterns ...string) {
	t.Helper()
	expression := regexp.MustCompile(strings.Join(patterns, "|"))
	for _, line := range p.all() {
		if !expression.MatchString(line) {
			t.Errorf("it has written: %s", line)
		}
	}
}

// stop ends it as an orchestrator would. It may take the 30 seconds that it would be given, and slack for a busy machine.
func (p *program) stop(t *testing.T) {
	t.Helper()
	kit.Check(t, p.command.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(kit.Patience):
		t.Fatalf("it does not end within %v of SIGTERM", kit.Patience)
	}
	if p.err != nil {
		t.Errorf("it ended with %v", p.err)
	}
}
