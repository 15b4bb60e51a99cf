package loadgen

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// socket is the client's end of a WebSocket (RFC 6455), with as much of it as a hub connection needs.
// Reading is for one goroutine, and so is writing; these may be two.
type socket struct {
	conn net.Conn
	buf  []byte // what was read and not consumed yet lies in buf[from:n]
	from int
	n    int
	out  []byte // for frames to write
}

// The opcodes of frames.
const (
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xA
)

// maxFrame bounds one frame's payload: a message of the greatest size, escaped, with room.
const maxFrame = 1 << 20

// openSocket connects to the path at the endpoint with a bearer token.
func openSocket(ctx context.Context, e *endpoint, path, token string) (*socket, error) {
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The handshake ends with ctx.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	w := newWire(conn)
	// The key proves nothing that matters here, so neither it nor the answer to it varies.
	a, err := w.exchange(fmt.Appendf(nil, "GET %s%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bG9hZCBnZW5lcmF0b3IhIQ==\r\nAuthorization: Bearer %s\r\n\r\n",
		e.path, path, e.host, token))
	if err == nil && a.status != 101 {
		err = &refusedError{a.status, string(field(a.body, `"code":"`))}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &socket{conn: conn, buf: w.buf}, nil
}

// next returns the next frame. Its payload is valid until the call after.
func (s *socket) next() (op byte, payload []byte, err error) {
	const final, maskBit, lengthBits = 0x80, 0x80, 0x7f
	if err := s.need(2); err != nil {
		return 0, nil, err
	}
	op = s.buf[s.from] & 0x0f
	if s.buf[s.from]&final == 0 {
		return 0, nil, errors.New("a message in fragments")
	}
	head, length := 2, int(s.buf[s.from+1]&lengthBits)
	if s.buf[s.from+1]&maskBit != 0 {
		return 0, nil, errors.New("a server's frame is masked")
	}
	switch length {
	case 126:
		head = 4
		if err := s.need(head); err != nil {
			return 0, nil, err
		}
		length = int(binary.BigEndian.Uint16(s.buf[s.from+2:]))
	case 127:
		head = 10
		if err := s.need(head); err != nil {
			return 0, nil, err
		}
		long := binary.BigEndian.Uint64(s.buf[s.from+2:])
		if long > maxFrame {
			return 0, nil, fmt.Errorf("a frame of %d bytes", long)
		}
		length = int(long)
	}
	if err := s.need(head + length); err != nil {
		return 0, nil, err
	}
	payload = s.buf[s.from+head : s.from+head+length]
	s.from += head + length
	return op, payload, nil
}

// buffered reports whether a frame, or part of one, is there without reading.
func (s *socket) buffered() bool { return s.n > s.from }

// need reads until n bytes are there from s.from on.
func (s *socket) need(n int) error {
	if s.n-s.from >= n {
		return nil
	}
	if s.from > 0 {
		s.n = copy(s.buf, s.buf[s.from:s.n])
		s.from = 0
	}
	if len(s.buf) < n {
		s.buf = append(s.buf, make([]byte, max(n, 2*len(s.buf))-len(s.buf))...)
	}
	for s.n < n {
		k, err := s.conn.Read(s.buf[s.n:])
		s.n += k
		if err != nil && s.n < n {
			return err
		}
	}
	return nil
}

// write sends one frame.
func (s *socket) write(op byte, payload []byte) error {
	const final, maskBit = 0x80, 0x80
	b := append(s.out[:0], final|op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, maskBit|byte(n))
	case n < 1<<16:
		b = append(b, maskBit|126)
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b = append(b, maskBit|127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	mask := rand.Uint32()
	b = binary.BigEndian.AppendUint32(b, mask)
	start := len(b)
	b = append(b, payload...)
	key := [4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}
	for i := range payload {
		b[start+i] ^= key[i&3]
	}
	s.out = b
	_, err := s.conn.Write(b)
	return err
}
