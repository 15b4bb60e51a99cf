package signalr

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lxzan/gws"
)

// A webSocket carries a connection over a WebSocket.
//
// Reading, with all that a WebSocket peer must check, is the library's; it
// runs on a goroutine of its own, so that the HTTP server can forget the
// request. Writing is done here: a frame of a server is a short header before
// the payload, and one Write call for each frame keeps frames whole beside the
// closing frames that the library writes. The goroutine that writes lives only
// while there is something to write.
type webSocket struct {
	conn    *Conn
	socket  *gws.Conn
	net     net.Conn
	flushes sync.WaitGroup
	flusher func() // t.flush, made once so that starting it does not allocate
	lost    error  // why the socket ended, once it has
}

// Received WebSocket messages may hold many hub messages; this much more than
// one.
const webSocketSlack = 64 << 10

// What does not fit is read past the buffer: it is for headers and short
// messages, and idle connections hold it.
const webSocketReadBuffer = 256

// newUpgrader returns the library's side of the WebSockets of one hub.
func newUpgrader(maxMessage int) *gws.Upgrader {
	return gws.NewUpgrader(webSocketEvents{}, &gws.ServerOption{
		ReadMaxPayloadSize: maxMessage + webSocketSlack,
		ReadBufferSize:     webSocketReadBuffer,
		ParallelGolimit:    1,
		CheckUtf8Enabled:   true,
		NewSession:         func() gws.SessionStorage { return new(webSocket) },
	})
}

// serveWebSocket upgrades a request and starts the goroutine that reads. again
// tells that the connection is one that reconnects.
func (h *Hub) serveWebSocket(w http.ResponseWriter, r *http.Request, c *Conn, again bool) error {
	t, err := h.upgrade(w, r, c)
	if err != nil {
		if !again {
			h.server.release()
		}
		if refusal := (*HTTPError)(nil); errors.As(err, &refusal) {
			return refusal
		}
		// The socket is not the HTTP server's any more, and is closed.
		h.server.log.Debug("signalr: WebSocket upgrade failed", "error", err)
		return nil
	}
	if again {
		go func() {
			if !c.reattach(t) {
				t.cut()
				return
			}
			t.read()
		}()
		return nil
	}
	c.transport = t
	h.connected(c)
	go t.read()
	return nil
}

func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request, c *Conn) (*webSocket, error) {
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, &HTTPError{Status: http.StatusHTTPVersionNotSupported, Message: "WebSockets need HTTP/1.1"}
	}
	var source io.Reader = raw
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n)
		source = io.MultiReader(bytes.NewReader(bytes.Clone(early)), raw)
	}
	guarded := &guardedConn{Conn: raw}
	socket, err := h.upgrader.UpgradeFromConn(guarded, bufio.NewReaderSize(source, webSocketReadBuffer), r)
	if err != nil {
		return nil, err
	}
	t := socket.Session().(*webSocket)
	t.conn, t.socket, t.net = c, socket, raw
	t.flusher = t.flush
	return t, nil
}

// read reads until the socket's end.
func (t *webSocket) read() {
	c := t.conn
	err := t.readLoop()
	_ = t.net.Close()
	e := ending{reason: CloseLost, err: fmt.Errorf("signalr: WebSocket lost: %w", err), cut: true}
	if closed := (*gws.CloseError)(nil); errors.As(err, &closed) && slices.Contains(gracefulClosures, closed.Code) {
		// Closed with a closing frame and without a close message, as a
		// browser does when the page goes away. It will not come back.
		e.reason, e.err = CloseClient, nil
	} else if c.detach(t) {
		t.flushes.Wait()
		return
	}
	c.end(e)
	t.flushes.Wait()
	c.finish()
}

// gracefulClosures are the status codes of clients that leave on purpose: none,
// normal closure and going away.
var gracefulClosures = []uint16{0, 1000, 1001}

// readLoop runs the library's loop and returns why it ended.
func (t *webSocket) readLoop() (err error) {
	// The library panics on a frame whose announced length does not fit into
	// 63 bits.
	defer func() {
		if reason := recover(); reason != nil {
			err = &protocolError{fmt.Errorf("bad WebSocket frame: %v", reason)}
		}
	}()
	t.socket.ReadLoop()
	return t.lost
}

// wake implements transport.
func (t *webSocket) wake() {
	t.flushes.Add(1)
	t.conn.hub.server.waking.Add(1)
	go t.flusher()
}

// hurry implements transport.
func (t *webSocket) hurry() { _ = t.net.SetWriteDeadline(time.Now().Add(closeTimeout)) }

// cut implements transport.
func (t *webSocket) cut() {
	// Closing a TLS connection would write to it, and could wait for that.
	if c, ok := t.net.(*tls.Conn); ok {
		_ = c.NetConn().Close()
		return
	}
	_ = t.net.Close()
}

// flushBuffer is the memory of one flush.
type flushBuffer struct {
	entries []entry
	frame   []byte
}

var flushBuffers = sync.Pool{New: func() any { return new(flushBuffer) }}

// flush writes until the outbox is empty. All messages that have come together
// leave in one frame.
func (t *webSocket) flush() {
	defer t.flushes.Done()
	c := t.conn
	c.hub.server.waking.Add(-1)
	b := flushBuffers.Get().(*flushBuffer)
	defer b.release()
	messages, size := 0, 0
	for {
		entries, status := c.nextBatch(t, b.entries[:0], messages, size)
		b.entries = entries
		switch status {
		case batchIdle, batchForeign:
			return
		case batchLast:
			// The client closes the socket when it has read this; if it
			// does not, the wheel does. Closing it here could destroy what
			// the client has not read yet.
			_ = t.writeFrame(gws.OpcodeCloseConnection, normalClosure, closeTimeout)
			return
		}
		messages, size = len(entries), 0
		b.frame = append(b.frame[:0], make([]byte, maxFrameHeader)...)
		for i := range entries {
			b.frame = append(b.frame, entries[i].data...)
			size += len(entries[i].data)
		}
		frame := finishFrame(b.frame, t.opcode())
		clear(entries)
		_ = t.net.SetWriteDeadline(time.Now().Add(c.hub.opts.WriteTimeout))
		_, err := t.net.Write(frame)
		if err != nil {
			c.wrote(messages, size)
			t.broken(err)
			return
		}
		c.lastWrite.Store(c.hub.server.now())
		c.hub.server.opts.Metrics.sent(messages, size)
	}
}

// broken ends the connection after a failed write, or leaves it for the
// client to come back. The outbox stays marked as being flushed, so that
// nothing more is written to this socket.
func (t *webSocket) broken(err error) {
	if !t.conn.resumable() {
		reason := CloseLost
		if errors.Is(err, os.ErrDeadlineExceeded) {
			reason = CloseSlow
		}
		t.conn.end(ending{reason: reason, err: fmt.Errorf("signalr: writing to the client: %w", err), cut: true})
	}
	t.cut()
}

func (b *flushBuffer) release() {
	if cap(b.frame) > maxScratch {
		b.frame = nil
	}
	flushBuffers.Put(b)
}

// opcode is the kind of frame for the connection's protocol.
func (t *webSocket) opcode() gws.Opcode {
	// It is set before anything that depends on it is queued.
	if t.conn.binary.Load() {
		return gws.OpcodeBinary
	}
	return gws.OpcodeText
}

const maxFrameHeader = 10

// finishFrame turns maxFrameHeader free bytes and a payload into a frame.
func finishFrame(b []byte, opcode gws.Opcode) []byte {
	const final = 0x80
	payload := len(b) - maxFrameHeader
	var start int
	switch {
	case payload <= 125:
		start = maxFrameHeader - 2
		b[start+1] = byte(payload)
	case payload <= 0xffff:
		start = maxFrameHeader - 4
		b[start+1] = 126
		binary.BigEndian.PutUint16(b[start+2:], uint16(payload))
	default:
		start = maxFrameHeader - 10
		b[start+1] = 127
		binary.BigEndian.PutUint64(b[start+2:], uint64(payload))
	}
	b[start] = final | byte(opcode)
	return b[start:]
}

// normalClosure is the payload of a closing frame with status 1000.
var normalClosure = []byte{0x03, 0xe8}

// writeFrame writes a control frame.
func (t *webSocket) writeFrame(opcode gws.Opcode, payload []byte, timeout time.Duration) error {
	b := make([]byte, maxFrameHeader, maxFrameHeader+len(payload))
	_ = t.net.SetWriteDeadline(time.Now().Add(timeout))
	_, err := t.net.Write(finishFrame(append(b, payload...), opcode))
	return err
}

// guardedConn gives the library's own writes, which are few, a deadline.
type guardedConn struct{ net.Conn }

func (g *guardedConn) Write(b []byte) (int, error) {
	_ = g.SetWriteDeadline(time.Now().Add(closeTimeout))
	return g.Conn.Write(b)
}

// The methods by which a webSocket is the library's session storage, which ties
// the library's connection to ours and stores nothing.

func (*webSocket) Len() int                     { return 0 }
func (*webSocket) Load(string) (any, bool)      { return nil, false }
func (*webSocket) Delete(string)                {}
func (*webSocket) Store(string, any)            {}
func (*webSocket) Range(func(string, any) bool) {}

// webSocketEvents receives what the library reads.
type webSocketEvents struct{ gws.BuiltinEventHandler }

func (webSocketEvents) OnClose(socket *gws.Conn, err error) {
	socket.Session().(*webSocket).lost = err
}

func (webSocketEvents) OnPing(socket *gws.Conn, payload []byte) {
	t := socket.Session().(*webSocket)
	t.conn.lastRead.Store(t.conn.hub.server.now())
	_ = t.writeFrame(gws.OpcodePong, payload, t.conn.hub.opts.WriteTimeout)
}

func (webSocketEvents) OnMessage(socket *gws.Conn, message *gws.Message) {
	t := socket.Session().(*webSocket)
	t.conn.receive(t, message.Bytes(), message.Opcode == gws.OpcodeText)
	_ = message.Close()
}
