package loadgen

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"
)

// Target is the server under test.
type Target struct {
	// URL is its base, such as http://127.0.0.1:8080.
	URL string `json:"url"`
	// APIKey is the business clients' key.
	APIKey string `json:"api_key"`
	// JWTSecret signs device tokens; without it the server mints them.
	JWTSecret string `json:"jwt_secret,omitempty"`
	// Source is the local address to connect from, "" to leave it to the system.
	Source string `json:"source,omitempty"`
}

// endpoint is a Target made ready to dial.
type endpoint struct {
	host   string // as in the Host field
	addr   string
	path   string // of the base URL, without a slash at the end
	tls    *tls.Config
	dialer net.Dialer
}

func (t *Target) endpoint() (*endpoint, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the target %q is not of the form http://host[:port]", t.URL)
	}
	e := &endpoint{host: u.Host, path: string(bytes.TrimRight([]byte(u.Path), "/")), dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: -1}}
	port := u.Port()
	if u.Scheme == "https" {
		e.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[e.tls != nil]
	}
	e.addr = net.JoinHostPort(u.Hostname(), port)
	if t.Source != "" {
		ip := net.ParseIP(t.Source)
		if ip == nil {
			return nil, fmt.Errorf("the source address %q is not an IP address", t.Source)
		}
		e.dialer.LocalAddr = &net.TCPAddr{IP: ip}
	}
	return e, nil
}

const (
	dialTimeout = 10 * time.Second
	// answerTimeout bounds the wait for an answer; a durable accept takes milliseconds.
	answerTimeout = 30 * time.Second
)

func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	c, err := e.dialer.DialContext(ctx, "tcp", e.addr)
	if err != nil || e.tls == nil {
		return c, err
	}
	t := tls.Client(c, e.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// answer is an HTTP response. Its slices are valid until the next one is read.
type answer struct {
	status     int
	retryAfter time.Duration
	close      bool // the server will close the connection
	body       []byte
}

// wire is one keep-alive HTTP/1.1 connection with one request under way at a time.
type wire struct {
	conn net.Conn
	buf  []byte // what was read; an answer's parts point into it
	n    int    // bytes of buf that are filled
}

// maxAnswer bounds an answer, which is longest for a batch.
const maxAnswer = 2 << 20

func newWire(c net.Conn) *wire { return &wire{conn: c, buf: make([]byte, 1024)} }

var (
	errMalformed = errors.New("the answer is not HTTP/1.1 as expected")
	errTooLong   = errors.New("the answer is too long")
)

// exchange sends a whole request and reads the answer.
func (w *wire) exchange(req []byte) (a answer, err error) {
	if _, err := w.conn.Write(req); err != nil {
		return a, err
	}
	w.n = 0
	head := -1
	for head < 0 {
		if err := w.fill(); err != nil {
			return a, err
		}
		head = bytes.Index(w.buf[:w.n], []byte("\r\n\r\n"))
	}
	length, err := a.parseHead(w.buf[:head])
	if err != nil {
		return a, err
	}
	start := head + 4
	if length < 0 {
		a.body, err = w.chunked(start)
		return a, err
	}
	for w.n < start+length {
		if err := w.fill(); err != nil {
			return a, err
		}
	}
	if w.n > start+length {
		return a, errMalformed // more than was asked for
	}
	a.body = w.buf[start : start+length]
	return a, nil
}

// fill reads more into buf.
func (w *wire) fill() error {
	if w.n == len(w.buf) {
		if w.n >= maxAnswer {
			return errTooLong
		}
		w.buf = append(w.buf, make([]byte, len(w.buf))...)
	}
	n, err := w.conn.Read(w.buf[w.n:])
	w.n += n
	if n > 0 {
		return nil
	}
	return err
}

// parseHead reads the status line and the fields that matter. A chunked body has length -1.
func (a *answer) parseHead(head []byte) (length int, err error) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, errMalformed
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, errMalformed
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch len(name) { // most fields are told apart by their length alone
		case len("Connection"):
			a.close = a.close || bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(bytes.TrimSpace(value), []byte("close"))
		case len("Retry-After"):
			if bytes.EqualFold(name, []byte("Retry-After")) {
				s, _ := strconv.Atoi(string(bytes.TrimSpace(value)))
				a.retryAfter = time.Duration(max(s, 0)) * time.Second
			}
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 || length > maxAnswer {
					return 0, errMalformed
				}
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				return -1, nil
			}
		}
	}
	return length, nil
}

// chunked reads a chunked body that begins at start, and joins its chunks in place.
func (w *wire) chunked(start int) ([]byte, error) {
	from, end := start, start // the next chunk's head; the end of the joined body
	for {
		nl := bytes.Index(w.buf[from:w.n], []byte("\r\n"))
		if nl < 0 {
			if err := w.fill(); err != nil {
				return nil, err
			}
			continue
		}
		size, err := strconv.ParseUint(string(w.buf[from:from+nl]), 16, 31)
		if err != nil || size > maxAnswer {
			return nil, errMalformed
		}
		from += nl + 2
		for w.n < from+int(size)+2 {
			if err := w.fill(); err != nil {
				return nil, err
			}
		}
		copy(w.buf[end:], w.buf[from:from+int(size)])
		end += int(size)
		from += int(size) + 2
		if size == 0 {
			return w.buf[start:end], nil
		}
	}
}
