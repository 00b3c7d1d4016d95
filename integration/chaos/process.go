package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is the load process.
type process struct {
	command *exec.Cmd
	input   io.WriteCloser
	done    chan struct{} // closed when it has ended and its output is read
	err     error         // how it ended; read after done
}

// closeBound is what the load process may take to finish its operations and close the pools: 10 s each at most.
const closeBound = 45 * time.Second

// startProcess starts this program again as the load process. Whatever it says is given to receive, what it complains
// about to complain.
func startProcess(told settings, receive func(message), complain func(string)) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p := &process{command: exec.Command(program), done: make(chan struct{})} //nolint:noctx // it is stopped in good order instead
	p.command.Env = append(scrubbed(os.Environ()), loadVariable+"=1")
	// A group of its own, so that Ctrl-C reaches only us; and it never outlives us.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if p.input, err = p.command.StdinPipe(); err != nil {
		return nil, fmt.Errorf("give the load process its input: %w", err)
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("take the load process's output: %w", err)
	}
	stderr, err := p.command.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("take the load process's output: %w", err)
	}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("start the load process: %w", err)
	}
	go p.follow(stdout, stderr, receive, complain)
	if err := json.NewEncoder(p.input).Encode(told); err != nil {
		p.kill()
		return nil, fmt.Errorf("tell the load process what to do: %w", err)
	}
	return p, nil
}

// start forks from a thread that lives until the child has ended, since the kernel kills the child with that thread.
func (p *process) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := p.command.Start()
		started <- err
		if err == nil {
			<-p.done
		}
	}()
	return <-started
}

// scrubbed leaves out what would change where the pools connect to.
func scrubbed(environment []string) (kept []string) {
	for _, variable := range environment {
		if !strings.HasPrefix(variable, "VAULT_") && !strings.HasPrefix(variable, "PG") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// follow reads what the process writes, and then how it ended.
func (p *process) follow(stdout, stderr io.Reader, receive func(message), complain func(string)) {
	var reading sync.WaitGroup
	reading.Go(func() {
		eachLine(stdout, func(line []byte) {
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				complain(string(line))
				return
			}
			receive(m)
		})
	})
	reading.Go(func() { eachLine(stderr, func(line []byte) { complain(string(line)) }) })
	reading.Wait()
	p.err = p.command.Wait()
	close(p.done)
}

func eachLine(r io.Reader, line func([]byte)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line(lines.Bytes())
	}
	_, _ = io.Copy(io.Discard, r) // after a line that was too long: the process must not block on its output
}

// suspend stops every thread of the process in its tracks; resume undoes it.
func (p *process) suspend() error { return p.command.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume() error  { return p.command.Process.Signal(syscall.SIGCONT) }

// jump makes the process's wall clock wrong by that much.
func (p *process) jump(by time.Duration) error {
	return json.NewEncoder(p.input).Encode(instruction{Skew: by})
}

// stop lets the load end, and waits until the pools are closed.
func (p *process) stop() error {
	_ = p.input.Close() // an error means that it has ended
	_ = p.resume()
	select {
	case <-p.done:
	case <-time.After(closeBound):
		p.kill()
		return fmt.Errorf("the load process has not ended %v after it was asked to", closeBound)
	}
	if p.err != nil {
		return fmt.Errorf("the load process: %w", p.err)
	}
	return nil
}

// kill ends the process if it still runs.
func (p *process) kill() {
	_ = p.command.Process.Kill() // an error means that it has ended
	<-p.done
}
