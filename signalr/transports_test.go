package signalr_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

// A pollClient is a long polling client.
type pollClient struct {
	t   *testing.T
	url string // with id
}

func (f *fixture) poll(t *testing.T) *pollClient {
	t.Helper()
	p := &pollClient{t, f.url + "?id=" + negotiate(t, f.url, "?negotiateVersion=1", nil).ConnectionToken}
	if resp, body := request(t, http.MethodGet, p.url, nil, ""); resp.StatusCode != 200 || body != "" {
		t.Fatalf("first poll: %d %q", resp.StatusCode, body)
	}
	p.post(`{"protocol":"json","version":1}` + "\x1e")
	if body := p.get(200); body != "{}\x1e" {
		t.Fatalf("handshake: %q", body)
	}
	return p
}

func (p *pollClient) get(status int) string {
	p.t.Helper()
	resp, body := request(p.t, http.MethodGet, p.url+"&_=1234", nil, "")
	if resp.StatusCode != status {
		p.t.Errorf("poll: %d, want %d", resp.StatusCode, status)
	}
	if !strings.Contains(resp.Header.Get("Cache-Control"), "no-cache") {
		p.t.Errorf("a poll may be cached: %v", resp.Header)
	}
	return body
}

func (p *pollClient) post(body string) {
	p.t.Helper()
	if resp, answer := request(p.t, http.MethodPost, p.url, nil, body); resp.StatusCode != 200 || answer != "" {
		p.t.Errorf("post: %d %q", resp.StatusCode, answer)
	}
}

func TestLongPolling(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{PollTimeout: 50 * time.Millisecond}), echoHub)
	p := f.poll(t)
	conn := receive(t, life.connected, "OnConnected")
	if conn.Transport() != signalr.LongPolling {
		t.Errorf("transport %v", conn.Transport())
	}
	// A poll without data ends after a while, and is no ping.
	if body := p.get(200); body != "" {
		t.Errorf("an idle poll: %q", body)
	}
	// What is sent between polls leaves with the next, together.
	for _, text := range []string{"a", "b"} {
		if err := conn.Send(signalr.NewMessage("T", text)); err != nil {
			t.Fatal(err)
		}
	}
	if body := p.get(200); body != `{"type":1,"target":"T","arguments":["a"]}`+"\x1e"+`{"type":1,"target":"T","arguments":["b"]}`+"\x1e" {
		t.Errorf("poll: %q", body)
	}
	p.post(`{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}` + "\x1e")
	if body := p.get(200); body != `{"type":3,"invocationId":"1","result":"x"}`+"\x1e" {
		t.Errorf("answer: %q", body)
	}
	// The end is a message, then 204, then nothing.
	conn.Close("bye", true)
	if body := p.get(200); body != `{"type":7,"error":"bye","allowReconnect":true}`+"\x1e" {
		t.Errorf("end: %q", body)
	}
	p.get(204)
	p.get(404)
	receive(t, life.disconnected, "OnDisconnected")
}

func TestNewPollEndsTheOld(t *testing.T) {
	f := start(t, signalr.HubOptions{}, echoHub)
	p := f.poll(t)
	statuses := make(chan int, 1)
	go func() {
		resp, _ := request(t, http.MethodGet, p.url, nil, "")
		statuses <- resp.StatusCode
	}()
	// The second poll may come first; then it is the one that ends.
	done := make(chan string, 1)
	go func() {
		resp, body := request(t, http.MethodGet, p.url, nil, "")
		statuses <- resp.StatusCode
		done <- body
	}()
	if s := receive(t, statuses, "the end of a poll"); s != 204 {
		t.Errorf("the replaced poll: %d", s)
	}
	p.post(`{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}` + "\x1e")
	if s := receive(t, statuses, "the end of the other"); s != 200 {
		t.Errorf("the other poll: %d", s)
	}
	<-done
}

func TestAbandonedPolling(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{DisconnectTimeout: time.Second}), echoHub)
	p := f.poll(t)
	receive(t, life.connected, "OnConnected")
	if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
		t.Error("a client that stops polling is no error")
	}
	eventually(t, "the id is forgotten", func() bool {
		resp, _ := request(t, http.MethodGet, p.url, nil, "")
		return resp.StatusCode == 404
	})
}

func TestPollingClientSaysGoodbye(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), echoHub)
	p := f.poll(t)
	receive(t, life.connected, "OnConnected")
	if resp, _ := request(t, http.MethodDelete, p.url, nil, ""); resp.StatusCode != 202 {
		t.Errorf("DELETE: %d", resp.StatusCode)
	}
	if err := receive(t, life.disconnected, "OnDisconnected"); err != nil {
		t.Errorf("after a goodbye: %v", err)
	}
	if resp, _ := request(t, http.MethodPost, p.url, nil, "x"); resp.StatusCode != 404 {
		t.Errorf("POST after the end: %d", resp.StatusCode)
	}
	p.get(204)
}

func TestTooLargePost(t *testing.T) {
	f := start(t, signalr.HubOptions{}, echoHub)
	p := f.poll(t)
	if resp, _ := request(t, http.MethodPost, p.url, nil, strings.Repeat("x", 200_000)); resp.StatusCode != 413 {
		t.Errorf("a large body: %d", resp.StatusCode)
	}
	p.post("x\x1e")
	wantContains(t, p.get(200), "Protocol error")
	p.get(204)
}

// events opens a stream of server-sent events and does the handshake. next
// returns the data of the next event.
func (f *fixture) events(t *testing.T) (url string, next func() string) {
	t.Helper()
	url = f.url + "?id=" + negotiate(t, f.url, "?negotiateVersion=1", nil).ConnectionToken
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("events: %d %v", resp.StatusCode, resp.Header)
	}
	br := bufio.NewReader(resp.Body)
	line := func() string {
		s, err := br.ReadString('\n')
		if err != nil && err != io.EOF {
			t.Errorf("events: %v", err)
		}
		return strings.TrimSuffix(s, "\r\n")
	}
	if l := line(); l != ":" {
		t.Errorf("the stream begins with %q", l)
	}
	next = func() string {
		var data []string
		for l := line(); l != ""; l = line() {
			data = append(data, strings.TrimPrefix(l, "data: "))
		}
		return strings.Join(data, "\n")
	}
	if resp, _ := request(t, http.MethodPost, url, nil, `{"protocol":"json","version":1}`+"\x1e"); resp.StatusCode != 200 {
		t.Fatalf("handshake: %d", resp.StatusCode)
	}
	if got := next(); got != "{}\x1e" {
		t.Fatalf("handshake: %q", got)
	}
	return url, next
}

func TestServerSentEvents(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{KeepAliveInterval: 50 * time.Millisecond}), echoHub)
	url, next := f.events(t)
	conn := receive(t, life.connected, "OnConnected")
	// skip ignores pings.
	skip := func() string {
		for {
			if m := next(); m != "{\"type\":6}\x1e" {
				return m
			}
		}
	}
	if got := next(); got != "{\"type\":6}\x1e" {
		t.Errorf("a ping: %q", got)
	}
	// Line ends inside of a message are white space.
	if err := conn.Send(signalr.NewMessage("T", signalr.RawJSON("{\r\n\"a\":\n1}"))); err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(skip(), "\n", ""); got != `{"type":1,"target":"T","arguments":[{"a":1}]}`+"\x1e" {
		t.Errorf("a message with line ends: %q", got)
	}
	request(t, http.MethodPost, url, nil, `{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}`+"\x1e")
	if got := skip(); got != `{"type":3,"invocationId":"1","result":"x"}`+"\x1e" {
		t.Errorf("answer: %q", got)
	}
	if resp, _ := request(t, http.MethodGet, url, http.Header{"Accept": {"text/event-stream"}}, ""); resp.StatusCode != 409 {
		t.Errorf("a second stream: %d", resp.StatusCode)
	}
	conn.Close("bye", false)
	if got := skip(); got != `{"type":7,"error":"bye"}`+"\x1e" {
		t.Errorf("end: %q", got)
	}
	receive(t, life.disconnected, "OnDisconnected")
	if got := next(); got != "" {
		t.Errorf("after the end: %q", got)
	}
}

func TestEventsAreTextOnly(t *testing.T) {
	f := start(t, signalr.HubOptions{}, nil)
	url := f.url + "?id=" + negotiate(t, f.url, "?negotiateVersion=1", nil).ConnectionToken
	ended := make(chan string, 1)
	go func() {
		_, body := request(t, http.MethodGet, url, http.Header{"Accept": {"text/event-stream"}}, "")
		ended <- body
	}()
	eventually(t, "the stream is open", func() bool {
		resp, _ := request(t, http.MethodPost, url, nil, `{"protocol":"messagepack","version":1}`+"\x1e")
		return resp.StatusCode == 200
	})
	wantContains(t, receive(t, ended, "the end"), "not supported")
}

// TestOrder sends to 500 connections at full speed, from several goroutines
// to each set of them: what one goroutine sends to one connection arrives in
// order.
func TestOrder(t *testing.T) {
	const conns, senders = 500, 4
	const duration = 2 * time.Second
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), nil)
	var received, wrong atomic.Int64
	for range conns {
		f.dial(t, client.Options{SkipNegotiation: true}, func(c *client.Client) {
			var last [senders]int
			c.On("N", func(_ context.Context, call *client.Call) (any, error) {
				var sender, n int
				if call.Decode(0, &sender) != nil || call.Decode(1, &n) != nil || n != last[sender]+1 {
					wrong.Add(1)
				}
				last[sender] = n
				received.Add(1)
				return nil, nil
			})
		})
	}
	all := make([]*signalr.Conn, conns)
	for i := range all {
		all[i] = receive(t, life.connected, "OnConnected")
	}
	var sent atomic.Int64
	var work sync.WaitGroup
	end := time.Now().Add(duration)
	for sender := range senders {
		work.Go(func() {
			for n := 1; time.Now().Before(end); n++ {
				m := signalr.NewMessage("N", sender, n)
				for _, c := range all {
					// As fast as the client reads, and no faster.
					for q, _ := c.Queued(); q > 500; q, _ = c.Queued() {
						runtime.Gosched()
					}
					if err := c.Send(m); err != nil {
						t.Errorf("send: %v", err)
						return
					}
					sent.Add(1)
				}
			}
		})
	}
	work.Wait()
	eventually(t, "all messages have come", func() bool { return received.Load() == sent.Load() })
	if wrong.Load() > 0 {
		t.Errorf("%d of %d messages came out of order", wrong.Load(), received.Load())
	}
	t.Logf("%d messages", received.Load())
}

func TestFilters(t *testing.T) {
	var mu sync.Mutex
	var heard []string
	note := func(name string) signalr.Filter {
		return func(ctx context.Context, inv *signalr.Invocation, next signalr.Handler) (any, error) {
			mu.Lock()
			heard = append(heard, name+" "+inv.Target())
			mu.Unlock()
			return next(ctx, inv)
		}
	}
	f := start(t, signalr.HubOptions{Filters: []signalr.Filter{
		note("outer"), note("inner"),
		func(ctx context.Context, inv *signalr.Invocation, next signalr.Handler) (any, error) {
			if inv.Target() == "Echo" && string(inv.Raw(0)) == `"stop"` {
				return nil, &signalr.HubError{Message: "stopped " + inv.Conn().ID()}
			}
			return next(ctx, inv)
		},
	}}, echoHub)
	c := f.dial(t, client.Options{}, nil)
	err := c.Invoke(testContext(t), nil, "echo", "stop")
	if err == nil {
		t.Fatal("the filter did not refuse")
	}
	wantContains(t, err.Error(), "stopped "+c.ConnectionID())
	s, err := c.Stream(testContext(t), "Count", 1)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for err == nil {
		err = s.Next(testContext(t), &n)
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(heard, ", "); got != "outer Echo, inner Echo, outer Count, inner Count" {
		t.Errorf("filters heard %s", got)
	}
}

func TestRawMethod(t *testing.T) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		f := start(t, signalr.HubOptions{}, func(h *signalr.Hub) {
			h.Handle("Join", signalr.RawMethod(func(_ context.Context, inv *signalr.Invocation) (any, error) {
				var all []string
				for i := range inv.NumArgs() {
					var s string
					if err := inv.Decode(i, &s); err != nil {
						return nil, err
					}
					all = append(all, s)
				}
				return strings.Join(all, "+"), nil
			}))
		})
		c := f.dial(t, client.Options{Protocol: p}, nil)
		var got string
		if err := c.Invoke(testContext(t), &got, "Join", "a", "b", "c"); err != nil || got != "a+b+c" {
			t.Errorf("%q, %v", got, err)
		}
		if err := c.Invoke(testContext(t), &got, "Join", 1); err == nil {
			t.Error("a number was decoded as a string")
		}
	})
}

func TestAppenders(t *testing.T) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		f := start(t, signalr.HubOptions{}, nil)
		type message struct {
			Content string `json:"content"`
		}
		got := make(chan message, 1)
		f.dial(t, client.Options{Protocol: p}, func(c *client.Client) {
			client.On1(c, "M", func(_ context.Context, m message) { got <- m })
		})
		eventually(t, "the connection is open", func() bool { return f.hub.Len() == 1 })
		for _, arg := range []any{&payload{"x"}, signalr.RawJSON(` {"content" : "x"} `), message{"x"}, map[string]string{"content": "x"}} {
			if n := f.hub.All().Send(signalr.NewMessage("M", arg)); n != 1 {
				t.Fatalf("sent to %d", n)
			}
			if m := receive(t, got, "the message"); m.Content != "x" {
				t.Errorf("%T came as %+v", arg, m)
			}
		}
		if err := f.hub.All().Conns()[0].Send(signalr.NewMessage("M", make(chan int))); err == nil {
			t.Error("a channel was encoded")
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []signalr.Options{{MaxConnections: -1}, {MaxNegotiations: -1}, {DrainRate: -1}} {
		if _, err := signalr.NewServer(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []signalr.HubOptions{
		{KeepAliveInterval: -1}, {MaxMessageSize: -1}, {OutboxBytes: -1}, {AllowedOrigins: []string{"example.com"}},
		{AllowedOrigins: []string{"https://example.com/"}},
	} {
		if _, err := server.NewHub(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	hub, err := server.NewHub(signalr.HubOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hub.Handle("Twice", signalr.Action0(nil))
	defer func() {
		if recover() == nil {
			t.Error("a method was registered twice")
		}
		if err := server.Shutdown(testContext(t)); err != nil {
			t.Error(err)
		}
	}()
	hub.Handle("TWICE", signalr.Action0(nil))
}

// explosive is an argument whose encoding panics.
type explosive struct{}

func (explosive) AppendJSON([]byte) []byte    { panic("on purpose") }
func (explosive) AppendMsgpack([]byte) []byte { panic("on purpose") }

func TestPanicWhileEncoding(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), echoHub)
	c := f.dial(t, client.Options{}, nil)
	conn := receive(t, life.connected, "OnConnected")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not reach the sender")
			}
		}()
		_ = conn.Send(signalr.NewMessage("X", explosive{}))
	}()
	var s string
	if err := c.Invoke(testContext(t), &s, "Echo", "alive"); err != nil || s != "alive" {
		t.Errorf("%q, %v", s, err)
	}
}
