package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 40 * time.Second // over what the service gives itself: 15 s for requests, 10 s for the pool
)

// statusPath is where the service has its status page.
const statusPath = "/vaultpool/"

// service is the running examples/webservice, a process of its own as in real life.
type service struct {
	command *exec.Cmd
	screen  *screen
	events  *events
	client  *http.Client
	address string // where it serves

	errors    int           // in its log so far; only the goroutine that reads it
	listening chan string   // its address, once
	done      chan struct{} // closed when the process has ended and its output is read
	err       error         // how it ended; read after done
}

// startService returns when the service serves. It must be called from the main goroutine: see main.
func startService(ctx context.Context, setting *setting, revocations *revocations, screen *screen) (*service, error) {
	s := &service{
		command: exec.Command(setting.binary), //nolint:noctx // it is stopped in good order instead: see stop
		screen:  screen, events: &events{revocations: revocations},
		client:    &http.Client{Timeout: time.Second},
		listening: make(chan string, 1), done: make(chan struct{}),
	}
	s.command.Env = []string{
		"LISTEN_ADDR=127.0.0.1:0",
		"DB=" + setting.name,
		"DATABASE_URL=" + setting.databaseURL,
		"VAULT_ADDR=" + setting.bed.Vault.Addr,
		"VAULT_TOKEN=" + setting.token,
	}
	// A group of its own, so that Ctrl-C reaches only us; and it never outlives us.
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdout, err := s.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("take the service's output: %w", err)
	}
	stderr, err := s.command.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("take the service's output: %w", err)
	}
	if err := s.command.Start(); err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	go s.follow(stdout, stderr)

	select {
	case s.address = <-s.listening:
		return s, nil
	case <-s.done:
		return nil, fmt.Errorf("the service ended while starting (%s)", s.exit())
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(startTimeout):
		err = fmt.Errorf("it does not serve after %v", startTimeout)
	}
	return nil, errors.Join(fmt.Errorf("start the service: %w", err), s.stop())
}

// follow reads what the service writes, and then how it ended.
func (s *service) follow(stdout, stderr io.Reader) {
	var reading sync.WaitGroup
	reading.Go(func() { readLines(stdout, s.logLine) })
	reading.Go(func() { readLines(stderr, func(line []byte) { s.screen.printf("service: %s", line) }) })
	reading.Wait()
	s.err = s.command.Wait()
	close(s.done)
}

func readLines(r io.Reader, line func([]byte)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line(lines.Bytes())
	}
	_, _ = io.Copy(io.Discard, r) // after a line that was too long: the service must not block on its output
}

// logLine shows one line of the service's log, which is JSON.
func (s *service) logLine(text []byte) {
	var line struct {
		Time     time.Time `json:"time"`
		Message  string    `json:"msg"`
		Address  string    `json:"address"`
		Error    string    `json:"error"`
		Path     string    `json:"path"`
		Rotation *event    `json:"rotation"`
	}
	if err := json.Unmarshal(text, &line); err != nil {
		s.screen.printf("service: %s", text)
		return
	}
	switch {
	case line.Address != "":
		select {
		case s.listening <- line.Address:
		default:
		}
	case line.Rotation != nil:
		s.events.add(*line.Rotation)
		s.screen.printf("%s %s", line.Time.Format(time.TimeOnly), line.Rotation)
	case line.Error != "":
		if s.errors++; s.errors <= failuresShown {
			s.screen.printf("service: %s %s: %s", line.Message, line.Path, line.Error)
		}
	default:
		s.screen.printf("service: %s", line.Message)
	}
}

// stop asks the service to stop, waits for it, and returns an error if it did not stop in good order.
func (s *service) stop() error {
	if err := s.command.Process.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-s.done:
		case <-time.After(stopTimeout):
			s.kill()
			return fmt.Errorf("the service did not stop within %v of SIGTERM and was killed", stopTimeout)
		}
	}
	<-s.done // it had ended before the signal
	if s.err != nil {
		return fmt.Errorf("the service ended with %s", s.exit())
	}
	return nil
}

// kill ends the service if it still runs.
func (s *service) kill() {
	_ = s.command.Process.Kill() // an error means that it has ended
	<-s.done
}

func (s *service) exit() string { return s.command.ProcessState.String() }

// status is the part of the service's status page that is shown.
type status struct {
	Generation uint64 `json:"generation"`
	User       string `json:"user"`
	Usable     bool   `json:"usable"`
	Lease      struct {
		Left float64 `json:"left_seconds"`
	} `json:"lease"`
	Next struct {
		Action    string  `json:"action"`
		InSeconds float64 `json:"in_seconds"`
	} `json:"next"`
	Generations []struct {
		Generation  uint64 `json:"generation"`
		Connections int    `json:"connections"`
	} `json:"generations"`
}

// dueIn is how long it takes until the service does next what it says.
func (s *status) dueIn() time.Duration { return time.Duration(s.Next.InSeconds * float64(time.Second)) }

// connections returns how many log in with the current credential and how many with older ones.
func (s *status) connections() (current, old int) {
	for _, g := range s.Generations {
		if g.Generation == s.Generation {
			current += g.Connections
		} else {
			old += g.Connections
		}
	}
	return current, old
}

func (s *service) status(ctx context.Context) (*status, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+statusPath+"status", http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(strings.ToLower(response.Status))
	}
	found := &status{}
	if err := json.NewDecoder(response.Body).Decode(found); err != nil {
		return nil, fmt.Errorf("read the status page: %w", err)
	}
	return found, nil
}
