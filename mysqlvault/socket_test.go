package mysqlvault

import (
	"bytes"
	"errors"
	"net"
	"syscall"
	"testing"
)

// source is a socket that answers in the pieces it was given.
type source struct {
	net.Conn
	pieces [][]byte
	closed bool
}

func (s *source) Read(b []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, errors.New("no more")
	}
	n := copy(b, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *source) Close() error { s.closed = true; return nil }

// greeting is what a server says first: a packet's header, the protocol's version, its own, and the id.
func greeting(protocol byte, version string, id uint32) []byte {
	b := append([]byte{0, 0, 0, 0, protocol}, version...)
	b = append(b, 0, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	return append(b, "and more of it"...)
}

// The id is found however the greeting comes, and what is read stays as it is.
func TestSocket_Greeting(t *testing.T) {
	for name, test := range map[string]struct {
		sent []byte
		id   uint32
	}{
		"MySQL":     {greeting(10, "8.4.3", 42), 42},
		"MariaDB":   {greeting(10, "5.5.5-10.11.6-MariaDB-0+deb12u1", 0xfedcba98), 0xfedcba98},
		"too old":   {greeting(9, "3.20", 42), 0},
		"an error":  {append([]byte{0, 0, 0, 0, 0xff, 0x10, 0x04}, "Too many connections"...), 0},
		"endless":   {append([]byte{0, 0, 0, 0, 10}, bytes.Repeat([]byte("x"), 5000)...), 0},
		"cut short": {greeting(10, "8.4.3", 42)[:12], 0},
	} {
		for _, size := range []int{1, 3, 7, 4096} {
			raw := &source{}
			for rest := test.sent; len(rest) > 0; {
				n := min(size, len(rest))
				raw.pieces = append(raw.pieces, rest[:n])
				rest = rest[n:]
			}
			_, s := newSocket(raw, nil)
			var got []byte
			for {
				b := make([]byte, 100)
				n, err := s.Read(b)
				if got = append(got, b[:n]...); err != nil {
					break
				}
			}
			if !bytes.Equal(got, test.sent) {
				t.Errorf("%s, in pieces of %d: what is read differs", name, size)
			}
			if s.id != test.id {
				t.Errorf("%s, in pieces of %d: the id is %d, not %d", name, size, s.id, test.id)
			}
			if len(s.greeting) > 512 {
				t.Errorf("%s: %d bytes are kept", name, len(s.greeting))
			}
		}
	}
}

// A socket that is closed without a goodbye after the login is remembered; others are not.
func TestSocket_Abandoned(t *testing.T) {
	for name, test := range map[string]struct {
		prepare   func(*socket)
		abandoned bool
	}{
		"in the login": {func(*socket) {}, false},
		"in use":       {func(s *socket) { s.established.Store(true) }, true},
		"in order":     {func(s *socket) { s.established.Store(true); s.parted.Store(true) }, false},
	} {
		raw := &source{pieces: [][]byte{greeting(10, "8.4.3", 42)}}
		told := 0
		_, s := newSocket(raw, func(s *socket) {
			if told++; s.id != 42 {
				t.Errorf("%s: session %d", name, s.id)
			}
		})
		if _, err := s.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		test.prepare(s)
		if err := s.Close(); err != nil || !raw.closed {
			t.Errorf("%s: closed %v, error %v", name, raw.closed, err)
		}
		if told == 1 != test.abandoned {
			t.Errorf("%s: told %d times", name, told)
		}
	}
}

// The driver takes a socket that has no descriptor for a dead one if it has the method.
func TestSocket_Descriptor(t *testing.T) {
	here, there := net.Pipe()
	defer func() { _ = there.Close() }()
	conn, _ := newSocket(here, func(*socket) {})
	if _, ok := conn.(syscall.Conn); ok {
		t.Error("a pipe has a descriptor")
	}
	_ = conn.Close()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	tcp, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, _ = newSocket(tcp, func(*socket) {})
	defer func() { _ = conn.Close() }()
	if c, ok := conn.(syscall.Conn); !ok {
		t.Error("a TCP socket has no descriptor")
	} else if _, err := c.SyscallConn(); err != nil {
		t.Error(err)
	}
}

func TestAbandoned_IsBounded(t *testing.T) {
	var a abandoned
	for range 3 * abandonedSessions {
		a.add(nil, &socket{})
	}
	if n := len(a.of(nil)); n < abandonedSessions/2 || n > abandonedSessions {
		t.Errorf("%d sessions are remembered", n)
	}
	a.forget(nil)
	if n := len(a.of(nil)); n != 0 {
		t.Errorf("%d sessions are remembered of a generation that is over", n)
	}
}
