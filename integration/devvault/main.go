// Command devvault is a Vault server for development and tests: the real thing, built from Vault's own
// module, with the few plugins that a database client needs and nothing else.
//
// It listens on one loopback address without TLS, keeps its state in memory or in a directory, and
// initialises and unseals itself. When it serves, it prints one line of JSON on standard output:
//
//	{"address":"http://127.0.0.1:36651","root_token":"…","unseal_key":"…"}
//
// It stops on SIGTERM and SIGINT, and, with -stop-on-stdin-eof, when its standard input ends, which
// happens when the process that started it is gone. Never use it for real secrets: whoever reads its
// output or its directory holds the root token.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// shutdownTimeout bounds how long requests in flight may delay a stop.
const shutdownTimeout = 3 * time.Second

type options struct {
	listen         string
	rootToken      string
	storage        string
	logLevel       string
	stopOnStdinEOF bool
}

// ready is the line that tells the parent process how to talk to the server.
type ready struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback address to listen on; port 0 takes a free one")
	flag.StringVar(&o.rootToken, "root-token", "", "root token of a new Vault; made at random when empty")
	flag.StringVar(&o.storage, "storage", "inmem", `"inmem", or a directory whose state survives a restart`)
	flag.StringVar(&o.logLevel, "log-level", "error", "what to log on standard error: trace, debug, info, warn, error, off")
	flag.BoolVar(&o.stopOnStdinEOF, "stop-on-stdin-eof", false, "stop when standard input ends")
	flag.Parse()

	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "devvault:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if o.stopOnStdinEOF {
		go stopAtEOF(os.Stdin, stop)
	}
	level := hclog.LevelFromString(o.logLevel)
	if level == hclog.NoLevel {
		return fmt.Errorf("unknown -log-level %q: use trace, debug, info, warn, error or off", o.logLevel)
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "devvault", Level: level, Output: os.Stderr})

	listener, err := listenLoopback(o.listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // a second close after Shutdown is harmless

	address := "http://" + listener.Addr().String()
	server, err := startVault(ctx, o, address, logger)
	if err != nil {
		return err
	}
	defer server.stop()
	return serve(ctx, listener, server, logger)
}

// listenLoopback refuses every other address: the root token is no secret here.
func listenLoopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("read -listen: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("-listen %s: only loopback IP addresses are allowed, such as 127.0.0.1:8200", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

// serve answers requests until ctx ends, which is the normal end and no error.
func serve(ctx context.Context, listener net.Listener, server *vaultServer, logger hclog.Logger) error {
	httpServer := &http.Server{
		Handler:           server.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.StandardLogger(nil),
	}
	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(listener) }()

	if err := json.NewEncoder(os.Stdout).Encode(server.ready); err != nil {
		return fmt.Errorf("print the address: %w", err)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := httpServer.Shutdown(bounded); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop serving: %w", err)
	}
	return nil
}

func stopAtEOF(stdin io.Reader, stop func()) {
	_, _ = io.Copy(io.Discard, stdin) // any end of input means that the parent is gone
	stop()
}
