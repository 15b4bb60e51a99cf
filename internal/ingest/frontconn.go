package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/http1"
)

// frontBuffer is how much of a request's header and of what follows it a connection holds. A longer
// header is net/http's.
const frontBuffer = 4 << 10

// phase is what a connection is doing.
type phase int64

const (
	phaseIdle   phase = iota // waits for a request's first byte
	phaseHeader              // the rest of a header is to come
	phaseBody                // the rest of a body is to come
	phaseWork                // the message is being made durable
	phaseAnswer              // the answer is being written
)

// frontConn is a connection that has sent nothing but plain posts of messages so far.
type frontConn struct {
	net.Conn
	front  *Front
	peer   string // the network address of the other end
	remote string // the network address of the client, as of the request at hand

	// state is the phase in the low three bits and when it began, in milliseconds since 1970, above.
	state atomic.Int64

	buf    []byte      // read and not yet worked off
	header http.Header // the fields that count, of the request at hand
	values [5][1]string
	served bool // a request

	// lastAuth is the Authorization field that keyHash was computed from: a client sends the same one
	// every time.
	lastAuth string
	keyHash  [sha256.Size]byte
}

func (c *frontConn) enter(p phase, now time.Time) {
	c.state.Store(now.UnixMilli()<<3 | int64(p))
}

func (c *frontConn) where() (p phase, since time.Time) {
	s := c.state.Load()
	return phase(s & 7), time.UnixMilli(s >> 3)
}

// serve works off the connection's requests until it ends or is handed over.
func (c *frontConn) serve() {
	defer c.front.remove(c)
	handed := false
	defer func() {
		if v := recover(); v != nil {
			err := fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			p := problemOf(err)
			c.front.api.logFailure(context.Background(), "POST /v1/messages", &p, err)
		}
		if !handed {
			c.Conn.Close()
		}
	}()
	c.peer = c.Conn.RemoteAddr().String()
	c.buf = make([]byte, 0, frontBuffer)
	for {
		h, verdict := readHead(c.buf, c)
		switch verdict {
		case headPlain:
			if !c.post(h) {
				return
			}
		case headOther:
			handed = c.front.handOver(&http1.HandedConn{Conn: c.Conn, Rest: c.buf})
			return
		case headPartial:
			if len(c.buf) == cap(c.buf) {
				handed = c.front.handOver(&http1.HandedConn{Conn: c.Conn, Rest: c.buf})
				return
			}
			if len(c.buf) == 0 && c.served {
				c.enter(phaseIdle, time.Now())
			} else if p, _ := c.where(); p != phaseHeader {
				c.enter(phaseHeader, time.Now())
			}
			n, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
			c.buf = c.buf[:len(c.buf)+n]
			if n == 0 && err != nil {
				if len(c.buf) > 0 && errors.Is(err, io.EOF) {
					// A client that sends no more may wait for an answer to what it sent.
					handed = c.front.handOver(&http1.HandedConn{Conn: c.Conn, Rest: c.buf})
				}
				return
			}
		}
	}
}

// post reads the body of a plain request, has the message made durable and answers. It reports whether
// the connection goes on.
func (c *frontConn) post(h head) bool {
	a := c.front.api
	k := a.calls.Get().(*call)
	defer a.calls.Put(k)
	if cap(k.body) < h.length {
		k.body = make([]byte, 0, max(h.length, 1024))
	}
	have := min(h.length, len(c.buf)-h.size)
	k.body = append(k.body[:0], c.buf[h.size:h.size+have]...)
	left := copy(c.buf, c.buf[h.size+have:])
	c.buf = c.buf[:left]
	if have < h.length {
		c.enter(phaseBody, time.Now())
		for len(k.body) < h.length {
			n, err := c.Conn.Read(k.body[len(k.body):h.length])
			if n == 0 && err != nil {
				return false
			}
			k.body = k.body[:len(k.body)+n]
		}
	}
	c.enter(phaseWork, time.Now())
	at, err := c.submit(k)
	c.enter(phaseAnswer, time.Now())
	c.served = true
	last := c.front.isDraining()
	if err != nil {
		return c.refuse(err, last) == nil && !last
	}
	k.body = appendAccepted(k.body[:0], at)
	k.out = append(k.out[:0], "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nLocation: /v1/messages/"...)
	k.out = at.id.Append(k.out)
	k.out = append(k.out, "\r\n"...)
	k.out = at.standing.appendFields(k.out)
	k.out = append(append(k.out, "Date: "...), *c.front.date.Load()...)
	k.out = strconv.AppendInt(append(k.out, "\r\nContent-Length: "...), int64(len(k.body)), 10)
	if last {
		k.out = append(k.out, "\r\nConnection: close"...)
	}
	k.out = append(append(k.out, "\r\n\r\n"...), k.body...)
	_, err = c.Conn.Write(k.out)
	return err == nil && !last
}

// submit is what accept does before the answer, over the connection's header.
func (c *frontConn) submit(k *call) (acceptance, error) {
	a := c.front.api
	c.remote = c.front.opts.Trusted.Client(c.peer, c.header)
	if auth := c.header["Authorization"]; len(auth) != 1 || auth[0] != c.lastAuth || c.lastAuth == "" {
		hash, err := apiKeyHash(c.header)
		if err != nil {
			return acceptance{}, err
		}
		c.lastAuth, c.keyHash = auth[0], hash
	}
	// The message is made durable also if the client hangs up meanwhile.
	ctx := context.Background()
	client, err := a.keys.grant(ctx, c.keyHash, c.remote, esh3ar.ScopeSend)
	if err != nil {
		return acceptance{}, err
	}
	if err := checkContentType(c.header); err != nil {
		return acceptance{}, err
	}
	return a.submit(ctx, k, client, c.header)
}

// refuse answers with a problem.
func (c *frontConn) refuse(err error, last bool) error {
	w := &bufferedAnswer{header: make(http.Header)}
	c.front.api.refuse(w, c.front.asked, err)
	w.header.Set("Date", *c.front.date.Load())
	w.header.Set("Content-Length", strconv.Itoa(w.body.Len()))
	if last {
		w.header.Set("Connection", "close")
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", w.status, http.StatusText(w.status))
	if err := w.header.Write(&out); err != nil {
		return err
	}
	out.WriteString("\r\n")
	out.Write(w.body.Bytes())
	_, err = c.Conn.Write(out.Bytes())
	return err
}

// bufferedAnswer is an http.ResponseWriter that keeps the answer.
type bufferedAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *bufferedAnswer) Header() http.Header         { return w.header }
func (w *bufferedAnswer) WriteHeader(status int)      { w.status = status }
func (w *bufferedAnswer) Write(p []byte) (int, error) { return w.body.Write(p) }

// head is the header of a plain request.
type head struct {
	size   int // bytes of the header
	length int // of the body
}

// verdict says what the bytes that were read begin with.
type verdict uint8

const (
	headPartial verdict = iota // what may yet become a plain request
	headPlain                  // the whole header of a plain request
	headOther                  // anything else
)

const requestLine = "POST /v1/messages HTTP/1.1\r\n"

// readHead looks at the beginning of a request. Of a plain one it leaves the fields that count in
// c.header.
func readHead(b []byte, c *frontConn) (head, verdict) {
	if len(b) < len(requestLine) {
		if string(b) != requestLine[:len(b)] {
			return head{}, headOther
		}
		return head{}, headPartial
	}
	if string(b[:len(requestLine)]) != requestLine {
		return head{}, headOther
	}
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return head{}, headPartial
	}
	h := head{size: end + 4, length: -1}
	clear(c.header)
	host := false
	for lines := b[len(requestLine) : end+2]; len(lines) > 0; {
		eol := bytes.Index(lines, []byte("\r\n"))
		line := lines[:eol]
		lines = lines[eol+2:]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return head{}, headOther
		}
		name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
		if !http1.IsToken(name) || !isFieldValue(value) {
			return head{}, headOther
		}
		switch fieldOf(name) {
		case fieldHost:
			if host || !http1.IsPlainHost(value) {
				return head{}, headOther
			}
			host = true
		case fieldLength:
			n, ok := smallNumber(value)
			if h.length >= 0 || !ok || n > esh3ar.MaxMessageBytes {
				return head{}, headOther
			}
			h.length = n
		case fieldAuthorization:
			if !c.note(0, "Authorization", value) {
				return head{}, headOther
			}
		case fieldType:
			if !c.note(1, "Content-Type", value) {
				return head{}, headOther
			}
		case fieldKey:
			if !c.note(2, "Idempotency-Key", value) {
				return head{}, headOther
			}
		case fieldTrace:
			if !c.note(3, "Traceparent", value) {
				return head{}, headOther
			}
		case fieldForwarded:
			if !c.note(4, "X-Forwarded-For", value) {
				return head{}, headOther
			}
		case fieldConnection:
			if !bytes.EqualFold(value, []byte("keep-alive")) {
				return head{}, headOther
			}
		case fieldOdd:
			return head{}, headOther
		}
	}
	if !host || h.length < 0 {
		return head{}, headOther
	}
	return h, headPlain
}

// note keeps the value of a field that counts. It reports false when there is one already. A value that
// is the same as in the request before costs no allocation.
func (c *frontConn) note(place int, name string, value []byte) bool {
	if _, twice := c.header[name]; twice {
		return false
	}
	v := c.values[place][:]
	if v[0] != string(value) {
		v[0] = string(value)
	}
	c.header[name] = v
	return true
}

type field uint8

const (
	fieldAny field = iota // means nothing here
	fieldOdd              // changes what a request means: net/http's
	fieldHost
	fieldLength
	fieldAuthorization
	fieldType
	fieldKey
	fieldTrace
	fieldConnection
	fieldForwarded
)

// fieldOf tells the fields that matter from those that do not.
func fieldOf(name []byte) field {
	is := func(s string) bool { return bytes.EqualFold(name, []byte(s)) }
	switch len(name) {
	case 4:
		if is("Host") {
			return fieldHost
		}
	case 6:
		if is("Expect") || is("Origin") {
			return fieldOdd
		}
	case 7:
		if is("Upgrade") || is("Trailer") {
			return fieldOdd
		}
	case 10:
		if is("Connection") {
			return fieldConnection
		}
	case 11:
		if is("Traceparent") {
			return fieldTrace
		}
	case 12:
		if is("Content-Type") {
			return fieldType
		}
	case 13:
		if is("Authorization") {
			return fieldAuthorization
		}
	case 14:
		if is("Content-Length") {
			return fieldLength
		}
	case 15:
		if is("Idempotency-Key") {
			return fieldKey
		}
		if is("X-Forwarded-For") {
			return fieldForwarded
		}
	case 16:
		if is("Content-Encoding") || is("Proxy-Connection") {
			return fieldOdd
		}
	case 17:
		if is("Transfer-Encoding") {
			return fieldOdd
		}
	}
	return fieldAny
}

// isFieldValue reports whether b holds visible ASCII characters, blanks and tabs alone. What else RFC 9110
// lets pass is net/http's.
func isFieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c > '~' {
			return false
		}
	}
	return true
}

// smallNumber reads a decimal number of up to seven digits.
func smallNumber(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 7 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func (f *Front) isDraining() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}
