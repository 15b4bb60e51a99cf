// Package http1 is what those who read HTTP/1.1 by themselves have in common: the server's front and the balancer.
package http1

import (
	"bytes"
	"net"
)

// IsToken reports whether b is a token (RFC 9110, 5.6.2).
func IsToken(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_':
		case bytes.IndexByte([]byte("!#$%&'*+.^`|~"), c) >= 0:
		default:
			return false
		}
	}
	return len(b) > 0
}

// IsPlainHost reports whether b is a host name or an address, perhaps with a port.
func IsPlainHost(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']') {
			return false
		}
	}
	return len(b) > 0
}

// HandedConn is a connection from which something was read already: Rest, which Read returns first.
type HandedConn struct {
	net.Conn
	Rest []byte
}

// Read implements net.Conn.
func (c *HandedConn) Read(p []byte) (int, error) {
	if len(c.Rest) > 0 {
		n := copy(p, c.Rest)
		if c.Rest = c.Rest[n:]; len(c.Rest) == 0 {
			c.Rest = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}
