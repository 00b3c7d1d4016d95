package conformance

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// wire is the network between a pool and its server.
type wire struct {
	addr     string
	target   string
	gate     kit.Gate    // where a login waits, its socket being open
	down     atomic.Bool // connections are cut as soon as they are made
	dials    atomic.Int64
	listener net.Listener
	serving  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	ends  map[net.Conn]struct{}
	ended bool
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	kit.Check(t, err)
	w := &wire{addr: listener.Addr().String(), target: target, listener: listener, ends: make(map[net.Conn]struct{})}
	w.serving.Go(w.serve)
	t.Cleanup(w.close)
	return w
}

func (w *wire) serve() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.dials.Add(1)
		w.serving.Go(func() { w.connect(client) })
	}
}

func (w *wire) connect(client net.Conn) {
	if !w.own(client) {
		return
	}
	defer w.drop(client)
	if w.gate.Pass(context.Background()) != nil || w.down.Load() { // close opens it
		return
	}
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", w.target)
	if err != nil || !w.own(server) {
		return
	}
	defer w.drop(server)
	w.serving.Go(func() {
		_, _ = io.Copy(server, client)
		w.drop(server)
	})
	_, _ = io.Copy(client, server)
}

// own remembers an end, to be closed by close at the latest; false if it is too late.
func (w *wire) own(end net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		_ = end.Close()
		return false
	}
	w.ends[end] = struct{}{}
	return true
}

func (w *wire) drop(end net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ends, end)
	_ = end.Close()
}

func (w *wire) close() {
	_ = w.listener.Close()
	w.mu.Lock()
	w.ended = true
	for end := range w.ends {
		_ = end.Close()
	}
	w.mu.Unlock()
	w.gate.Open()
	w.serving.Wait()
}
