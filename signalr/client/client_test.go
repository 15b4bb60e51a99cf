package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lxzan/gws"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A script is a server that answers the handshake and then sends what it is
// told, whatever the client says.
type script struct {
	gws.BuiltinEventHandler
	answer string // to the handshake
	then   []string
	opcode gws.Opcode
}

func (s *script) OnMessage(socket *gws.Conn, message *gws.Message) {
	if strings.Contains(string(message.Bytes()), `"protocol"`) {
		if s.answer != "" {
			_ = socket.WriteString(s.answer)
		}
		for _, m := range s.then {
			_ = socket.WriteMessage(s.opcode, []byte(m))
		}
	}
	_ = message.Close()
}

// serve runs a script without negotiation.
func (s *script) serve(t *testing.T) string {
	t.Helper()
	if s.opcode == 0 {
		s.opcode = gws.OpcodeText
	}
	upgrader := gws.NewUpgrader(s, nil)
	var conns sync.WaitGroup
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conns.Add(1) // while the server still waits for this request
		socket, err := upgrader.Upgrade(w, r)
		if err != nil {
			t.Error(err)
			conns.Done()
			return
		}
		go func() {
			defer conns.Done()
			socket.ReadLoop()
		}()
	}))
	t.Cleanup(func() {
		web.Close()
		conns.Wait()
	})
	return web.URL
}

func newClient(t *testing.T, url string, opts Options) *Client {
	t.Helper()
	c, err := New(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		receive(t, c.Done(), "the client's end")
	})
	return c
}

func TestURLs(t *testing.T) {
	for _, bad := range []string{"", "example.com", "ftp://example.com/x", "http://", "http://[::1", "/hub"} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for _, o := range []Options{{Protocol: 7}, {SkipNegotiation: true, StatefulReconnect: true}, {KeepAliveInterval: -1}, {MaxMessageSize: -1}} {
		if _, err := New("http://example.com", o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestStartFails(t *testing.T) {
	answers := map[string]string{
		"/error/negotiate":    `{"error":"not you"}`,
		"/garbage/negotiate":  `<html>`,
		"/loop/negotiate":     `{"url":"%s/loop"}`,
		"/nowhere/negotiate":  `{"url":"gopher://x"}`,
		"/nosocket/negotiate": `{"connectionId":"1","availableTransports":[{"transport":"LongPolling","transferFormats":["Text"]}]}`,
		"/text/negotiate":     `{"connectionId":"1","availableTransports":[{"transport":"WebSockets","transferFormats":["Binary"]}]}`,
	}
	var web *httptest.Server
	web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, strings.ReplaceAll(answer, "%s", web.URL))
	}))
	defer web.Close()
	for path, want := range map[string]string{
		"/error": "not you", "/garbage": "invalid character", "/loop": "too many redirects", "/nowhere": "gopher",
		"/nosocket": "does not offer", "/text": "does not offer", "/missing": "404",
	} {
		c := newClient(t, web.URL+path, Options{})
		for range 2 { // it may be tried again
			if err := c.Start(testContext(t)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	c := newClient(t, web.URL, Options{AccessToken: func(context.Context) (string, error) { return "", errors.New("no token") }})
	if err := c.Start(testContext(t)); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("without token: %v", err)
	}
	c = newClient(t, web.URL+"/missing", Options{SkipNegotiation: true})
	refused := (*HTTPError)(nil)
	if err := c.Start(testContext(t)); !errors.As(err, &refused) || refused.Status != 404 {
		t.Errorf("refused upgrade: %v", err)
	}
	c = newClient(t, "http://127.0.0.1:1/hub", Options{SkipNegotiation: true})
	if err := c.Start(testContext(t)); err == nil {
		t.Error("connected to nothing")
	}
}

func TestHandshakeFails(t *testing.T) {
	for answer, want := range map[string]string{
		`{"error":"no such protocol"}` + "\x1e": "no such protocol",
		"x\x1e":                                 "JSON object expected",
		"{}":                                    "incomplete handshake response",
	} {
		c := newClient(t, (&script{answer: answer}).serve(t), Options{SkipNegotiation: true})
		if err := c.Start(testContext(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
	// No answer at all.
	c := newClient(t, (&script{}).serve(t), Options{SkipNegotiation: true, HandshakeTimeout: 50 * time.Millisecond})
	if err := c.Start(testContext(t)); err == nil {
		t.Error("a silent server was accepted")
	}
	c = newClient(t, (&script{}).serve(t), Options{SkipNegotiation: true})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a cancelled start: %v", err)
	}
}

func TestServerBreaksTheProtocol(t *testing.T) {
	for _, message := range []string{"x\x1e", `{"type":1}` + "\x1e", `{"type":6}`, "{}\x1e"} {
		c := newClient(t, (&script{answer: "{}\x1e", then: []string{message}}).serve(t), Options{SkipNegotiation: true, Reconnect: NoReconnect})
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		receive(t, c.Done(), "the end")
		if err := c.Err(); !errors.As(err, new(*protocolError)) {
			t.Errorf("%q: %v", message, err)
		}
	}
}

func TestMessagesOfNewerServersAreIgnored(t *testing.T) {
	got := make(chan string, 1)
	c := newClient(t, (&script{answer: "{}\x1e", then: []string{
		`{"type":42,"x":1}` + "\x1e" + `{"type":8,"sequenceId":7}` + "\x1e" + `{"type":3,"invocationId":"9"}` + "\x1e" +
			`{"type":1,"target":"nobody","arguments":[]}` + "\x1e" + `{"type":1,"target":"hear","arguments":["x"]}` + "\x1e",
	}}).serve(t), Options{SkipNegotiation: true})
	On1(c, "Hear", func(_ context.Context, s string) { got <- s })
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if s := receive(t, got, "the message"); s != "x" {
		t.Errorf("heard %q", s)
	}
	if c.Start(testContext(t)) == nil {
		t.Error("started twice")
	}
}

func TestCloseAtAnyTime(t *testing.T) {
	url := (&script{answer: "{}\x1e"}).serve(t)
	for i := range 50 {
		var closed atomic.Int32
		c, err := New(url, Options{SkipNegotiation: true, OnClosed: func(error) { closed.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error, 1)
		go func() { started <- c.Start(testContext(t)) }()
		if i%2 == 0 {
			timer := time.NewTimer(time.Duration(i*20) * time.Microsecond)
			<-timer.C
		}
		var closers sync.WaitGroup
		for range 2 {
			closers.Go(func() { _ = c.Close() })
		}
		closers.Wait()
		receive(t, started, "the start")
		receive(t, c.Done(), "the end")
		if c.Err() != nil || closed.Load() != 1 {
			t.Errorf("ended %d times, with %v", closed.Load(), c.Err())
		}
		if err := c.Start(testContext(t)); err != ErrClosed {
			t.Errorf("start after the end: %v", err)
		}
		if err := c.Send(testContext(t), "x"); err != ErrClosed {
			t.Errorf("send after the end: %v", err)
		}
	}
}

func TestCloseWhileReconnecting(t *testing.T) {
	waiting := make(chan struct{})
	c := newClient(t, (&script{answer: "{}\x1e", then: []string{`{"type":7,"allowReconnect":true}` + "\x1e"}}).serve(t), Options{
		SkipNegotiation: true,
		Reconnect:       func(int, error) (time.Duration, bool) { return time.Hour, true },
		OnReconnecting:  func(error) { close(waiting) },
	})
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	receive(t, waiting, "the reconnect")
	if err := c.Invoke(testContext(t), nil, "x"); err != ErrNotConnected {
		t.Errorf("invoke while reconnecting: %v", err)
	}
	if err := c.Close(); err != nil || c.Err() != nil {
		t.Errorf("close: %v, %v", err, c.Err())
	}
}

func TestCloseInsideAHandler(t *testing.T) {
	c := newClient(t, (&script{answer: "{}\x1e", then: []string{`{"type":1,"target":"quit","arguments":[]}` + "\x1e"}}).serve(t), Options{SkipNegotiation: true})
	c.On("quit", func(context.Context, *Call) (any, error) { return nil, c.Close() })
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	receive(t, c.Done(), "the end")
}

func TestSourceAddress(t *testing.T) {
	source := make(chan string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		source <- host
		http.NotFound(w, r)
	}))
	defer web.Close()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c := newClient(t, web.URL, Options{Dial: dialer.DialContext})
	if c.Start(testContext(t)) == nil {
		t.Error("started")
	}
	if got := receive(t, source, "the request"); got != "127.0.0.9" {
		t.Errorf("came from %s", got)
	}
}

func TestDefaultReconnect(t *testing.T) {
	for attempt := range 1000 {
		wait, ok := DefaultReconnect(attempt, nil)
		limit := maxReconnectWait
		if attempt < 5 {
			limit = time.Second << max(attempt-1, 0)
		}
		if !ok || wait < 0 || wait > limit {
			t.Fatalf("attempt %d waits %v", attempt, wait)
		}
	}
}

// TestHandlersByName shows that names are matched without regard to case, and that the last handler of a
// name counts.
func TestHandlersByName(t *testing.T) {
	calls := make(chan string, 10)
	s := &script{answer: "{}\x1e", then: []string{
		`{"type":1,"target":"Tell","arguments":[1]}` + "\x1e" + `{"type":1,"target":"tell","arguments":[2]}` + "\x1e" +
			`{"type":1,"target":"TELL","arguments":[3]}` + "\x1e" + `{"type":1,"target":"Other","arguments":[]}` + "\x1e",
		`{"type":1,"target":"Tell","arguments":[4]}` + "\x1e",
	}}
	c := newClient(t, s.serve(t), Options{SkipNegotiation: true, OnBatch: func() { calls <- "end" }})
	note := func(who string) Handler {
		return func(_ context.Context, call *Call) (any, error) {
			calls <- fmt.Sprintf("%s %s%s", who, call.Target(), call.Raw(0))
			return nil, nil
		}
	}
	c.On("Tell", note("first"))
	c.On("tELL", note("last"))
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"end", "last Tell1", "last tell2", "last TELL3", "end", "last Tell4", "end"} {
		if got := receive(t, calls, "a call"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
