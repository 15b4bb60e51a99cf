package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
)

// A link is one WebSocket of a client. The goroutine that calls read owns it.
type link struct {
	client *Client
	conn   net.Conn
	socket *gws.Conn
	born   time.Time

	greeted chan struct{} // closed when the handshake is done
	failed  chan struct{} // closed by fail
	failure error

	inRead    atomic.Bool  // a received message is being handled
	lastRead  atomic.Int64 // since born
	lastWrite atomic.Int64

	mu    sync.Mutex
	ended bool
	cause error       // the first reason to end
	timer *time.Timer // pings and notices silence
}

const readBuffer = 1 << 10

// newLink upgrades conn, which it closes when it fails.
func newLink(c *Client, conn net.Conn, u *url.URL, header http.Header, timeout time.Duration) (*link, error) {
	address := *u
	address.Scheme = "ws"
	if u.Scheme == "https" {
		address.Scheme = "wss"
	}
	l := &link{client: c, conn: conn, born: time.Now(), greeted: make(chan struct{}), failed: make(chan struct{})}
	socket, resp, err := gws.NewClientFromConn(linkEvents{link: l}, &gws.ClientOption{
		Addr:               address.String(),
		RequestHeader:      header,
		HandshakeTimeout:   timeout,
		ReadMaxPayloadSize: c.opts.MaxMessageSize,
		ReadBufferSize:     readBuffer,
		ParallelGolimit:    1,
		CheckUtf8Enabled:   true,
		NewSession:         func() gws.SessionStorage { return noSession{} },
	}, conn)
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
			return nil, &HTTPError{Status: resp.StatusCode, Body: excerpt(body)}
		}
		return nil, fmt.Errorf("signalr: WebSocket handshake: %w", err)
	}
	l.socket = socket
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(c.opts.HandshakeTimeout, l.tick)
	return l, nil
}

func (l *link) now() int64 { return int64(time.Since(l.born)) }

// read reads until the link's end and returns its reason.
func (l *link) read() error {
	err := l.readLoop()
	l.cut(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

func (l *link) readLoop() (err error) {
	// The library panics on a frame whose announced length does not fit into
	// 63 bits.
	defer func() {
		if reason := recover(); reason != nil {
			if l.inRead.Load() {
				panic(reason) // a handler's
			}
			err = &protocolError{fmt.Errorf("bad WebSocket frame: %v", reason)}
		}
	}()
	l.socket.ReadLoop()
	return ErrConnectionLost // unless OnClose knew better
}

// cut ends the link. The first reason counts.
func (l *link) cut(cause error) {
	l.mu.Lock()
	if l.cause == nil {
		l.cause = cause
	}
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	_ = l.conn.Close()
}

// because notes the reason for an end that is under way.
func (l *link) because(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil {
		l.cause = cause
	}
}

// endedByServer notes the reason if it is the server's close message, which
// explains any other trouble that there may be.
func (l *link) endedByServer(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.As(cause, new(*CloseError)) && !errors.Is(l.cause, ErrClosed) {
		l.cause = cause
	}
}

// fail tells Start that the first connection did not come about.
func (l *link) fail(err error) {
	l.failure = err
	close(l.failed)
}

// greet marks the handshake as done.
func (l *link) greet() {
	close(l.greeted)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.timer.Reset(min(l.client.opts.KeepAliveInterval, l.client.opts.ServerTimeout))
	}
}

func (l *link) wasGreeted() bool {
	select {
	case <-l.greeted:
		return true
	default:
		return false
	}
}

// reading tells whether a handler is running on the reader's goroutine.
func (l *link) reading() bool { return l.inRead.Load() }

// tick pings and notices silence.
func (l *link) tick() {
	o := &l.client.opts
	if !l.wasGreeted() {
		l.cut(errors.New("signalr: no handshake in time"))
		return
	}
	now := l.now()
	if !l.inRead.Load() && now-l.lastRead.Load() >= int64(o.ServerTimeout) {
		l.cut(errServerTimeout)
		return
	}
	if now-l.lastWrite.Load() >= int64(o.KeepAliveInterval) {
		_ = l.write(l.client.codec.AppendPing(nil)) // it fails by cutting the link
	}
	next := min(l.lastWrite.Load()+int64(o.KeepAliveInterval), l.lastRead.Load()+int64(o.ServerTimeout)) - l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.timer.Reset(time.Duration(max(next, int64(minTick))))
	}
}

// minTick keeps a late link from ticking without pause.
const minTick = time.Millisecond

// write writes one or more messages in one frame. After an error the link is
// cut.
func (l *link) write(data []byte) error {
	opcode := gws.OpcodeText
	if l.client.codec.Binary() {
		opcode = gws.OpcodeBinary
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.client.opts.WriteTimeout))
	if err := l.socket.WriteMessage(opcode, data); err != nil {
		err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
		l.cut(err)
		return err
	}
	l.lastWrite.Store(l.now())
	return nil
}

// goodbyeTimeout is how long the server has to end the connection.
const goodbyeTimeout = 2 * time.Second

// goodbye writes a close message and a closing frame, and leaves it to the
// server to close the connection, so that it can read everything before.
func (l *link) goodbye(message []byte) {
	l.because(ErrClosed)
	_ = l.conn.SetReadDeadline(time.Now().Add(goodbyeTimeout))
	if !l.wasGreeted() || l.write(message) != nil {
		l.cut(ErrClosed)
		return
	}
	// A closing frame with status 1000, masked with zero. The library's own
	// would close the connection at once.
	frame := [8]byte{0x88, 0x82}
	binary.BigEndian.PutUint16(frame[6:], 1000)
	if _, err := l.conn.Write(frame[:]); err != nil {
		l.cut(ErrClosed)
	}
}

// linkEvents receives what the library reads.
type linkEvents struct {
	gws.BuiltinEventHandler
	link *link
}

func (e linkEvents) OnClose(_ *gws.Conn, err error) {
	e.link.because(fmt.Errorf("%w: %w", ErrConnectionLost, err))
}

func (e linkEvents) OnPing(_ *gws.Conn, payload []byte) {
	l := e.link
	l.lastRead.Store(l.now())
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.client.opts.WriteTimeout))
	_ = l.socket.WritePong(payload)
}

func (e linkEvents) OnMessage(_ *gws.Conn, message *gws.Message) {
	l := e.link
	l.lastRead.Store(l.now())
	l.inRead.Store(true)
	if err := l.client.receive(l, message.Bytes()); err != nil {
		l.endedByServer(err)
		l.cut(err)
	}
	l.inRead.Store(false)
	l.lastRead.Store(l.now())
	_ = message.Close()
}

// noSession is the library's session storage, which is not used.
type noSession struct{}

func (noSession) Len() int                     { return 0 }
func (noSession) Load(string) (any, bool)      { return nil, false }
func (noSession) Delete(string)                {}
func (noSession) Store(string, any)            {}
func (noSession) Range(func(string, any) bool) {}
