package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// processes starts children from one locked operating system thread, because the kernel's signal on
// the death of a parent (Pdeathsig) comes when the thread ends that forked the child, not the process.
type processes struct {
	jobs chan func()

	mu       sync.Mutex // guards what follows
	children []*process
	closed   bool
}

func newProcesses() *processes {
	p := &processes{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, and with it what is left of its children
		for job := range p.jobs {
			job()
		}
	}()
	return p
}

// process is one running server.
type process struct {
	name    string
	command *exec.Cmd
	logFile string
	paused  bool
	done    chan struct{} // closed when the process has ended
	err     error         // how it ended; read after done
}

// processSpec says how to run a server. Its standard output, unless taken by Stdout, and its standard
// error are added to logFile.
type processSpec struct {
	name       string
	command    *exec.Cmd
	logFile    string
	credential *syscall.Credential // to run as somebody else; nil as ourselves
	deathSig   syscall.Signal      // what the kernel sends it when we are gone
}

// start runs the command in a process group of its own, so that Ctrl-C in a terminal reaches us and
// not the servers that we still need for an orderly end.
func (p *processes) start(spec processSpec) (*process, error) {
	if p.isClosed() {
		return nil, fmt.Errorf("start %s: %w", spec.name, errClosed)
	}
	log, err := os.OpenFile(spec.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", spec.name, err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	if spec.command.Stdout == nil {
		spec.command.Stdout = log
	}
	spec.command.Stderr = log
	spec.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: spec.credential}
	setDeathSignal(spec.command.SysProcAttr, spec.deathSig)

	child := &process{name: spec.name, command: spec.command, logFile: spec.logFile, done: make(chan struct{})}
	if err := p.fork(child); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.name, err)
	}
	go func() {
		child.err = child.command.Wait()
		close(child.done)
	}()
	return child, nil
}

var errClosed = errors.New("the testbed is closed")

func (p *processes) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// fork holds the mutex so that no child can slip in behind close.
func (p *processes) fork(child *process) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	started := make(chan error)
	p.jobs <- func() { started <- child.command.Start() }
	if err := <-started; err != nil {
		return err
	}
	p.children = append(p.children, child)
	return nil
}

// close kills what is still running and ends the thread.
func (p *processes) close() error {
	p.mu.Lock()
	children, wasClosed := p.children, p.closed
	p.children, p.closed = nil, true
	p.mu.Unlock()
	if wasClosed {
		return nil
	}
	var failures []error
	for _, child := range children {
		failures = append(failures, child.kill())
	}
	close(p.jobs)
	return errors.Join(failures...)
}

// signal does nothing, without an error, when the process has ended.
func (p *process) signal(signal syscall.Signal) error {
	err := p.command.Process.Signal(signal)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", signal, p.name, err)
	}
	return nil
}

// pause stops the process in its tracks and returns when it has stopped.
func (p *process) pause() error {
	if p.paused { // there would be nothing to wait for
		return nil
	}
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	p.paused = true
	return waitStopped(p.command.Process.Pid)
}

func (p *process) resume() error {
	p.paused = false
	return p.signal(syscall.SIGCONT)
}

// stopGrace is how long a server may take to end when asked to.
const stopGrace = 10 * time.Second

// stop asks the process to end with the signal, and kills it when it has not ended within stopGrace or
// when ctx ends.
func (p *process) stop(ctx context.Context, signal syscall.Signal) error {
	if err := p.signal(signal); err != nil {
		return err
	}
	if err := p.signal(syscall.SIGCONT); err != nil { // a paused one could not obey
		return err
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return p.kill()
}

// kill returns when the process has ended.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// running is false as soon as the process has ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// startTimeout is far more than a server needs on a busy machine.
const startTimeout = time.Minute

// waitReady calls ready until it succeeds. It gives up when the process or ctx ends or a minute is
// over, with an error that has the end of the log in it.
func (p *process) waitReady(ctx context.Context, ready func(context.Context) error) error {
	const pause = 25 * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %s", startTimeout))
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.endedWhileStarting()
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (last answer: %w); its log ends with:\n%s", p.name, context.Cause(ctx), err, logTail(p.logFile))
		case <-time.After(pause):
		}
	}
}

// endedWhileStarting waits for the end and tells of it.
func (p *process) endedWhileStarting() error {
	<-p.done
	err := p.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended while starting: %w; its log ends with:\n%s", p.name, err, logTail(p.logFile))
}

// logTail returns the last lines of a log, for error texts.
func logTail(path string) string {
	const limit = 2000
	text, err := os.ReadFile(path)
	if err != nil {
		return "(" + err.Error() + ")"
	}
	if len(text) > limit {
		text = text[len(text)-limit:]
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return "(" + filepath.Base(path) + " is empty)"
	}
	return string(text)
}

// runTool runs a command to its end, as another user if wanted, and returns an error with its output.
func (p *processes) runTool(ctx context.Context, spec processSpec) error {
	child, err := p.start(spec)
	if err != nil {
		return err
	}
	select {
	case <-child.done:
	case <-ctx.Done():
		child.interruptGroup()
		return fmt.Errorf("%s: %w", spec.name, context.Cause(ctx))
	}
	if child.err != nil {
		return fmt.Errorf("%s: %w:\n%s", spec.name, child.err, logTail(spec.logFile))
	}
	return nil
}

// interruptGroup ends a tool and what it has started itself, as Ctrl-C would, and kills what has not
// ended within stopGrace.
func (p *process) interruptGroup() {
	group := -p.command.Process.Pid
	_ = syscall.Kill(group, syscall.SIGINT) // an error means that they have ended
	select {
	case <-p.done:
	case <-time.After(stopGrace):
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.done
}
