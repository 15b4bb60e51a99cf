package signalr_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
	"github.com/esh3artech/esh3ar/signalr/internal/cutproxy"
)

// lifeHub records what the hooks of a hub hear.
type lifeHub struct {
	connected    chan *signalr.Conn
	disconnected chan error
}

func newLifeHub() *lifeHub {
	return &lifeHub{connected: make(chan *signalr.Conn, 1000), disconnected: make(chan error, 1000)}
}

func (l *lifeHub) options(o signalr.HubOptions) signalr.HubOptions {
	o.OnConnected = func(_ context.Context, c *signalr.Conn) error { l.connected <- c; return nil }
	o.OnDisconnected = func(_ *signalr.Conn, err error) { l.disconnected <- err }
	return o
}

func TestHooks(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), nil)
	c := dial(t, f.url+"?ack=result&access_token=secret", client.Options{}, nil)
	conn := receive(t, life.connected, "OnConnected")
	if q := conn.Query().Encode(); q != "ack=result" {
		t.Errorf("query %q", q)
	}
	conn.SetValue(7)
	if conn.Value() != 7 || conn.Transport() != signalr.WebSockets || conn.Protocol() != signalr.JSON {
		t.Errorf("connection: %v %v %v", conn.Value(), conn.Transport(), conn.Protocol())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := receive(t, life.disconnected, "OnDisconnected"); err != nil {
		t.Errorf("after a goodbye: %v", err)
	}
	if conn.Context().Err() == nil {
		t.Error("the context of an ended connection is not done")
	}
	if err := conn.Send(signalr.NewMessage("x")); err != signalr.ErrClosed {
		t.Errorf("send after the end: %v", err)
	}
	if err := conn.JoinGroup("g"); err != signalr.ErrClosed {
		t.Errorf("join after the end: %v", err)
	}
}

func TestRefusedByOnConnected(t *testing.T) {
	f := start(t, signalr.HubOptions{
		OnConnected: func(context.Context, *signalr.Conn) error { return &signalr.HubError{Message: "not today"} },
	}, nil)
	c := f.dial(t, client.Options{}, nil)
	receive(t, c.Done(), "the client's end")
	var closed *client.CloseError
	if err := c.Err(); !errors.As(err, &closed) || !strings.Contains(closed.Message, "not today") {
		t.Errorf("the client ended with %v", err)
	}
}

func TestServerCloses(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), nil)
	again := make(chan string, 1)
	c := f.dial(t, client.Options{
		Reconnect:     func(int, error) (time.Duration, bool) { return 0, true },
		OnReconnected: func(id string) { again <- id },
	}, nil)
	first := receive(t, life.connected, "OnConnected")
	first.Close("come back", true)
	id := receive(t, again, "the reconnect")
	second := receive(t, life.connected, "OnConnected again")
	if id != second.ID() || id == first.ID() {
		t.Errorf("ids: first %s, second %s, client has %s", first.ID(), second.ID(), id)
	}
	second.Close("go away", false)
	receive(t, c.Done(), "the client's end")
	var closed *client.CloseError
	if err := c.Err(); !errors.As(err, &closed) || closed.Message != "go away" {
		t.Errorf("the client ended with %v", err)
	}
}

func TestClientComesBackAfterALoss(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), echoHub)
	proxy := cutproxy.New(t, f.url)
	lost, again := make(chan error, 10), make(chan string, 10)
	c := dial(t, proxy.URL(), client.Options{
		Reconnect:      func(int, error) (time.Duration, bool) { return time.Millisecond, true },
		OnReconnecting: func(err error) { lost <- err },
		OnReconnected:  func(id string) { again <- id },
	}, nil)
	for range 3 {
		proxy.Cut()
		if err := receive(t, lost, "the loss"); !errors.Is(err, client.ErrConnectionLost) {
			t.Errorf("lost with %v", err)
		}
		receive(t, again, "the reconnect")
		if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
			t.Error("a lost connection ended without error")
		}
		var s string
		if err := c.Invoke(testContext(t), &s, "Echo", "x"); err != nil {
			t.Error(err)
		}
	}
}

func TestGivingUp(t *testing.T) {
	f := start(t, signalr.HubOptions{}, nil)
	proxy := cutproxy.New(t, f.url)
	c := dial(t, proxy.URL(), client.Options{Reconnect: client.NoReconnect}, nil)
	proxy.Cut()
	receive(t, c.Done(), "the client's end")
	if err := c.Err(); !errors.Is(err, client.ErrConnectionLost) {
		t.Errorf("ended with %v", err)
	}
	if err := c.Send(testContext(t), "x"); err != client.ErrClosed {
		t.Errorf("send after the end: %v", err)
	}
}

func TestPingsAndTimeouts(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{
		KeepAliveInterval: 100 * time.Millisecond, ClientTimeout: time.Second, HandshakeTimeout: time.Second,
	}), nil)
	// A client of ours pings, and lives.
	c := f.dial(t, client.Options{KeepAliveInterval: 100 * time.Millisecond, ServerTimeout: time.Second}, nil)
	receive(t, life.connected, "OnConnected")
	// One that is silent hears pings, and is closed with allowReconnect.
	silent := dialGreeted(t, f.url, "json")
	receive(t, life.connected, "OnConnected")
	all := silent.rest()
	wantContains(t, all, "{\"type\":6}\x1e")
	if !strings.HasSuffix(all, `"allowReconnect":true}`+"\x1e") {
		t.Errorf("the silent client heard %q", all)
	}
	if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
		t.Error("a timeout is no error")
	}
	// One without handshake is cut.
	mute, _ := dialRaw(t, f.url, nil)
	if got := mute.rest(); got != "" {
		t.Errorf("before the handshake the client heard %q", got)
	}
	select {
	case <-c.Done():
		t.Errorf("the client that pings ended: %v", c.Err())
	case err := <-life.disconnected:
		t.Errorf("OnDisconnected for the client that pings: %v", err)
	default:
	}
	// A server that falls silent is noticed.
	quiet := start(t, signalr.HubOptions{KeepAliveInterval: time.Hour}, nil)
	d := quiet.dial(t, client.Options{ServerTimeout: 50 * time.Millisecond, Reconnect: client.NoReconnect}, nil)
	receive(t, d.Done(), "the client's end")
	if d.Err() == nil {
		t.Error("a silent server is no error")
	}
}

func TestFullOutbox(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{OutboxMessages: 64, OutboxBytes: 256 << 10}), nil)
	slow := dialGreeted(t, f.url, "json")
	conn := receive(t, life.connected, "OnConnected")
	other := make(chan int, 1)
	f.dial(t, client.Options{}, func(c *client.Client) {
		client.On1(c, "Hello", func(_ context.Context, n int) { other <- n })
	})
	receive(t, life.connected, "OnConnected of the other")

	// The client does not read. The socket's buffers fill, then the outbox.
	m := signalr.NewMessage("Fill", strings.Repeat("x", 8<<10))
	var err error
	for sent := 0; err == nil; sent++ {
		if sent > 100_000 {
			t.Fatal("the outbox does not fill")
		}
		if err = conn.Send(m); err == nil {
			if n, bytes := conn.Queued(); n > 64 || bytes > 256<<10 {
				t.Fatalf("%d messages, %d bytes queued", n, bytes)
			}
		}
	}
	if err != signalr.ErrOutboxFull {
		t.Errorf("send: %v", err)
	}
	if err := conn.Send(m); err != signalr.ErrClosed {
		t.Errorf("next send: %v", err)
	}
	if n := f.hub.All().Send(signalr.NewMessage("Hello", 1)); n != 1 {
		t.Errorf("sent to %d connections", n)
	}
	receive(t, other, "a message to the other client")
	// When it reads again, it finds the reason at the end.
	all := slow.rest()
	if !strings.HasSuffix(all, `{"type":7,"error":"The connection is too slow.","allowReconnect":true}`+"\x1e") {
		t.Errorf("the slow client's end: …%q", all[max(0, len(all)-100):])
	}
	if err := receive(t, life.disconnected, "OnDisconnected"); err != signalr.ErrOutboxFull {
		t.Errorf("OnDisconnected: %v", err)
	}
}

func TestMessagesShareFrames(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{OutboxBytes: 64 << 20}), nil)
	s := dialGreeted(t, f.url, "json")
	conn := receive(t, life.connected, "OnConnected")
	// The first message is more than the socket's buffers take: the others
	// wait until it is read.
	if err := conn.Send(signalr.NewMessage("Big", strings.Repeat("x", 16<<20))); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if err := conn.Send(signalr.NewMessage("N", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.read()); n < 16<<20 {
		t.Fatalf("the first frame has %d bytes", n)
	}
	frames, all := 0, ""
	for strings.Count(all, "\x1e") < 500 {
		all += s.read()
		frames++
	}
	for i, m := range strings.Split(strings.TrimSuffix(all, "\x1e"), "\x1e") {
		if want := fmt.Sprintf(`{"type":1,"target":"N","arguments":[%d]}`, i); m != want {
			t.Fatalf("message %d is %s", i, m)
		}
	}
	if frames != 2 { // of 256 messages at most
		t.Errorf("500 messages came in %d frames", frames)
	}
}

func TestExpiredIdentity(t *testing.T) {
	f := start(t, signalr.HubOptions{
		KeepAliveInterval: 100 * time.Millisecond, // the wheel turns faster
		Authenticate:      expiring(30 * time.Millisecond),
	}, nil)
	s := dialGreeted(t, f.url, "json")
	wantContains(t, s.rest(), `"allowReconnect":true`)
}

func TestDrain(t *testing.T) {
	var opened, closed atomic.Int32
	const n, rate = 60, 200
	f := startServer(t, signalr.Options{DrainRate: rate, Metrics: signalr.Metrics{
		ConnectionOpened: func(signalr.Transport, signalr.Protocol) { opened.Add(1) },
		ConnectionClosed: func(_ signalr.Transport, _ signalr.Protocol, reason string, _ time.Duration) {
			if reason == signalr.CloseDrain {
				closed.Add(1)
			}
		},
	}}, signalr.HubOptions{}, nil)
	ends := make(chan error, n)
	for range n {
		f.dial(t, client.Options{
			Reconnect: func(_ int, err error) (time.Duration, bool) { ends <- err; return 0, false },
		}, nil)
	}
	begun := time.Now()
	if err := f.server.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < n*time.Second/rate/2 {
		t.Errorf("%d connections were closed in %v", n, took)
	}
	for range n {
		var end *client.CloseError
		if err := receive(t, ends, "a client's end"); !errors.As(err, &end) || !end.AllowReconnect {
			t.Errorf("a client ended with %v", err)
		}
	}
	if opened.Load() != n || closed.Load() != n {
		t.Errorf("metrics: %d opened, %d closed", opened.Load(), closed.Load())
	}
	if n := negotiate(t, f.url, "", nil); n.Status != 503 {
		t.Errorf("negotiate while draining: %d", n.Status)
	}
	if _, s := dialRaw(t, f.url, nil); s != 503 {
		t.Errorf("connect while draining: %d", s)
	}
}

func TestPacedClose(t *testing.T) {
	const n, rate = 40, 200
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), nil)
	again := make(chan string, n)
	for range n {
		f.dial(t, client.Options{
			Reconnect:     func(int, error) (time.Duration, bool) { return 0, true },
			OnReconnected: func(id string) { again <- id },
		}, nil)
	}
	eventually(t, "all are connected", func() bool { return f.hub.Len() == n })
	begun := time.Now()
	if err := f.hub.All().Close(testContext(t), "move", true, rate); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < n*time.Second/rate/2 {
		t.Errorf("%d connections were closed in %v", n, took)
	}
	for range n {
		receive(t, again, "a client that came back")
	}
}

func TestShutdownCutsWhatStays(t *testing.T) {
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	life := newLifeHub()
	f := serve(t, server, life.options(signalr.HubOptions{}), nil)
	dialGreeted(t, f.url, "json") // and never answers
	receive(t, life.connected, "OnConnected")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	receive(t, life.disconnected, "OnDisconnected")
	if _, err := server.NewHub(signalr.HubOptions{}); err == nil {
		t.Error("a hub after shutdown")
	}
}
