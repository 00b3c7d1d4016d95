package mysqlvault

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// socket is one connection's socket, below the engine's. It reads the session's id
// off the server's greeting, which the driver does not tell, and it knows when it is
// closed in the middle of something.
type socket struct {
	net.Conn
	greeting []byte // what has come of it so far; nil once it is read
	greeted  bool
	id       uint32 // 0 if the greeting had none
	dialled  time.Time

	established atomic.Bool // the login has succeeded
	parted      atomic.Bool // the session is being ended in an orderly way
	abandoned   func(*socket)
}

// descriptorSocket is a socket over one that gives access to its descriptor. They
// are two types because the driver takes an error from SyscallConn for a dead
// connection.
type descriptorSocket struct {
	socket
	raw syscall.Conn
}

// SyscallConn returns the descriptor, for the driver's liveness check.
func (s *descriptorSocket) SyscallConn() (syscall.RawConn, error) { return s.raw.SyscallConn() }

// newSocket wraps raw. abandoned is called when it is closed while the server may be
// at work for it.
func newSocket(raw net.Conn, abandoned func(*socket)) (net.Conn, *socket) {
	if descriptor, ok := raw.(syscall.Conn); ok {
		s := &descriptorSocket{socket{Conn: raw, dialled: time.Now(), abandoned: abandoned}, descriptor}
		return s, &s.socket
	}
	s := &socket{Conn: raw, dialled: time.Now(), abandoned: abandoned}
	return s, s
}

// Read reads from the socket, and the greeting on the way.
func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if !s.greeted {
		s.greet(b[:n])
	}
	return n, err
}

// greet looks for the session's id at the beginning of the first packet: a header of
// four bytes, the protocol's version, 10, the server's, which ends with a zero byte,
// and the id, little endian
// (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html).
func (s *socket) greet(b []byte) {
	const header, longest = 5, 256
	s.greeting = append(s.greeting, b...)
	if len(s.greeting) > header {
		if s.greeting[header-1] != 10 { // an error, "too many connections"
			s.greeted, s.greeting = true, nil
			return
		}
		if i := bytes.IndexByte(s.greeting[header:], 0); i >= 0 && len(s.greeting) >= header+i+1+4 {
			s.id = binary.LittleEndian.Uint32(s.greeting[header+i+1:])
			s.greeted, s.greeting = true, nil
			return
		}
	}
	if len(s.greeting) > longest {
		s.greeted, s.greeting = true, nil
	}
}

// Close closes the socket. It is called once, by the engine's, before that uncounts
// it.
func (s *socket) Close() error {
	err := s.Conn.Close()
	if s.established.Load() && !s.parted.Load() && s.id != 0 {
		s.abandoned(s)
	}
	return err
}
