package signalr_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

// wantEnd checks that a connection ends with a close message, or a closing
// frame, that says something.
func (s *rawSocket) wantEnd(want string) {
	s.t.Helper()
	var all strings.Builder
	for {
		opcode, payload, err := s.next()
		if err != nil {
			break
		}
		all.WriteString(payload)
		if opcode == opClose {
			_, _ = s.conn.Write(frame(0x80|opClose, "\x03\xe8"))
		}
	}
	if got := all.String(); !strings.Contains(got, want) {
		s.t.Errorf("the end was %q, want it to contain %q", got, want)
	}
}

// TestBadMessages sends what no client may send. Each time that connection,
// and only that one, ends with a reason.
func TestBadMessages(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{MaxMessageSize: 1000, MaxStreams: 2}), echoHub)
	good := f.dial(t, client.Options{}, nil)
	receive(t, life.connected, "OnConnected")

	invocation := `{"type":1,"target":"Echo","arguments":["x"]}` + "\x1e"
	for _, test := range []struct {
		name, protocol string
		opcode         byte
		payload        string
		want           string
	}{
		{"not JSON", "json", opText, "x\x1e", "JSON object expected"},
		{"empty message", "json", opText, "\x1e", "JSON object expected"},
		{"no type", "json", opText, "{}\x1e", "message without type"},
		{"unknown type", "json", opText, `{"type":42}` + "\x1e", "unknown message type 42"},
		{"truncated message, then another", "json", opText, invocation[:20] + invocation, "expected"},
		{"too long", "json", opText, `{"type":1,"target":"` + strings.Repeat("x", 1000) + `","arguments":[]}` + "\x1e", "message too long"},
		{"too long without end", "json", opText, strings.Repeat("x", 1100), "message too long"},
		{"too deep", "json", opText, `{"type":1,"target":"Echo","arguments":[` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + "]}\x1e", "nested too deeply"},
		{"WebSocket message too long", "json", opText, strings.Repeat(invocation, 2000), "message too large"},
		{"invalid UTF-8", "json", opBinary, "{\"type\":6,\"x\":\"\xff\"}\x1e", "invalid UTF-8"},
		{"invalid UTF-8 in text", "json", opText, "{\"type\":6,\"x\":\"\xff\"}\x1e", "invalid text encoding"},
		{"completion of an unknown call", "json", opText, `{"type":3,"invocationId":"s7","result":1}` + "\x1e", "unknown invocation"},
		{"acknowledgement", "json", opText, `{"type":8,"sequenceId":1}` + "\x1e", "stateful reconnect was not negotiated"},
		{"sequence", "json", opText, `{"type":9,"sequenceId":1}` + "\x1e", "stateful reconnect was not negotiated"},
		{
			"stream id twice", "json", opText,
			`{"type":1,"target":"Sum","arguments":[],"streamIds":["1"]}` + "\x1e" + `{"type":1,"target":"Sum","arguments":[],"streamIds":["1"]}` + "\x1e",
			"already in use",
		},
		{"text for a binary protocol", "messagepack", opText, "\x02x\x06", "text received"},
		{"huge length", "messagepack", opBinary, "\xff\xff\xff\xff\x7f", "message too long"},
		{"endless length", "messagepack", opBinary, "\xff\xff\xff\xff\xff\xff", "length prefix"},
		{"zero length", "messagepack", opBinary, "\x00", "ends too early"},
		{"huge array", "messagepack", opBinary, "\x0b\x96\x01\x80\xc0\xa1a\xdd\xff\xff\xff\xff", "ends too early"},
		{"huge map", "messagepack", opBinary, "\x07\x96\x01\xdf\xff\xff\xff\xff", "ends too early"},
		{"unknown type", "messagepack", opBinary, "\x02\x91\x2a", "unknown message type 42"},
		{"reserved code", "messagepack", opBinary, "\x09\x96\x01\x80\xc0\xa1a\x91\xc1\x90", "reserved"},
		{"JSON for MessagePack", "messagepack", opBinary, strings.Repeat(invocation, 5), "MessagePack array expected"},
		{"continuation of nothing", "json", 0, "x", "\x03\xea"},
		{"reserved opcode", "json", 5, "x", "\x03\xea"},
	} {
		t.Run(test.protocol+" "+test.name, func(t *testing.T) {
			s := dialGreeted(t, f.url, test.protocol)
			receive(t, life.connected, "OnConnected")
			s.t = t
			s.send(test.opcode, test.payload)
			s.wantEnd(test.want)
			if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
				t.Error("ended without an error")
			}
		})
	}
	var s string
	if err := good.Invoke(testContext(t), &s, "Echo", "still here"); err != nil || s != "still here" {
		t.Errorf("another connection: %q, %v", s, err)
	}
}

// TestBadFrames breaks the WebSocket protocol itself.
func TestBadFrames(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), echoHub)
	huge := func(n uint64) []byte {
		return binary.BigEndian.AppendUint64([]byte{0x80 | opText, 0x80 | 127}, n)
	}
	for name, bytes := range map[string][]byte{
		"unmasked":                     {0x80 | opText, 1, 'x'},
		"reserved bit":                 {0xc0 | opText, 0x80, 0, 0, 0, 0},
		"fragmented ping":              {opPing, 0x80, 0, 0, 0, 0},
		"long ping":                    append([]byte{0x80 | opPing, 0x80 | 126, 1, 0, 0, 0, 0, 0}, make([]byte, 256)...),
		"length above the limit":       append(huge(1<<30), 0, 0, 0, 0),
		"length of 2^63 and more":      append(huge(1<<63), 0, 0, 0, 0),
		"length of 2^64-1":             append(huge(1<<64-1), 0, 0, 0, 0),
		"message inside a message":     append(frame(opText, "x"), frame(0x80|opText, "y")...),
		"bad close":                    frame(0x80|opClose, "\x03"),
		"fragments that get too large": []byte(strings.Repeat(string(frame(opText, strings.Repeat("x", 50_000)))+string(frame(0, strings.Repeat("x", 50_000))), 2)),
	} {
		t.Run(name, func(t *testing.T) {
			s := dialGreeted(t, f.url, "json")
			receive(t, life.connected, "OnConnected")
			_, _ = s.conn.Write(bytes)
			s.rest()
			if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
				t.Error("ended without an error")
			}
		})
	}
}

func TestFragments(t *testing.T) {
	f := start(t, signalr.HubOptions{}, echoHub)
	s := dialGreeted(t, f.url, "json")
	// Frames, with a ping between them, make a message; and a hub message
	// may span messages.
	s.write(frame(opText, `{"type":1,"invocationId":"1",`))
	s.write(frame(0x80|opPing, "p"))
	s.write(frame(0x80, `"target":"Echo",`))
	s.write(frame(0x80|opText, `"arguments":["x"]}`+"\x1e"+`{"ty`))
	s.write(frame(0x80|opText, `pe":1,"invocationId":"2","target":"Echo","arguments":["y"]}`+"\x1e"))
	got := ""
	for strings.Count(got, "\x1e") < 2 {
		got += s.read()
	}
	if want := `{"type":3,"invocationId":"1","result":"x"}` + "\x1e" + `{"type":3,"invocationId":"2","result":"y"}` + "\x1e"; got != want {
		t.Errorf("got %q", got)
	}
}

func TestBadHandshakes(t *testing.T) {
	f := start(t, signalr.HubOptions{Protocols: signalr.JSON}, nil)
	for hello, want := range map[string]string{
		"x\x1e":  "Handshake was not understood.",
		"{}\x1e": "Handshake was not understood.",
		`{"protocol":"json","version":0}` + "\x1e":        "does not support version 0",
		`{"protocol":"json","version":3}` + "\x1e":        "does not support version 3",
		`{"protocol":"xml","version":1}` + "\x1e":         "The protocol 'xml' is not supported.",
		`{"protocol":"messagepack","version":1}` + "\x1e": "The protocol 'messagepack' is not supported.",
		strings.Repeat("x", 40_000):                       "Handshake was not understood.",
	} {
		s, _ := dialRaw(t, f.url, nil)
		s.send(opText, hello)
		if got := s.rest(); !strings.Contains(got, want) || !strings.HasPrefix(got, `{"error":`) {
			t.Errorf("%.50q: %q", hello, got)
		}
	}
	if f.hub.Len() != 0 {
		t.Error("a refused handshake left a connection")
	}
}

// TestHandshakeSharesAFrame sends the first hub message with the handshake.
func TestHandshakeSharesAFrame(t *testing.T) {
	f := start(t, signalr.HubOptions{}, echoHub)
	for protocol, message := range map[string]string{
		"json":        `{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}` + "\x1e",
		"messagepack": "\x0e\x96\x01\x80\xa11\xa4Echo\x91\xa1x\x90",
	} {
		s, _ := dialRaw(t, f.url, nil)
		s.send(opBinary, fmt.Sprintf(`{"protocol":%q,"version":1}`+"\x1e", protocol)+message)
		got := ""
		for !strings.Contains(got, "x") {
			got += s.read()
		}
		if !strings.HasPrefix(got, "{}\x1e") {
			t.Errorf("%s: %q", protocol, got)
		}
	}
}

func TestInvocationIDsReused(t *testing.T) {
	f := start(t, signalr.HubOptions{MaxStreams: 1}, func(h *signalr.Hub) {
		h.Handle("Wait", signalr.Stream0(func(ctx context.Context, _ *signalr.Conn, _ *signalr.StreamWriter[int]) error {
			<-ctx.Done()
			return ctx.Err()
		}))
	})
	s := dialGreeted(t, f.url, "json")
	wait := func(id string) {
		s.send(opText, `{"type":4,"invocationId":"`+id+`","target":"Wait","arguments":[]}`+"\x1e")
	}
	wait("1")
	wait("1")
	wantContains(t, s.read(), "Invocation ID '1' is already in use.")
	wait("2")
	wantContains(t, s.read(), "Too many streams.")
	// Items, ends and cancellations of what does not exist are ignored: their
	// subjects may have ended on their way.
	s.send(opText, `{"type":5,"invocationId":"9"}`+"\x1e"+`{"type":2,"invocationId":"9","item":1}`+"\x1e"+`{"type":3,"invocationId":"9"}`+"\x1e")
	s.send(opText, `{"type":5,"invocationId":"1"}`+"\x1e")
	if got := s.read(); got != `{"type":3,"invocationId":"1"}`+"\x1e" {
		t.Errorf("a cancelled stream was completed with %q", got)
	}
	wait("1")
	s.send(opText, `{"type":5,"invocationId":"1"}`+"\x1e")
	s.read()
}

func TestLateResultsAreIgnored(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{}), echoHub)
	s := dialGreeted(t, f.url, "json")
	conn := receive(t, life.connected, "OnConnected")
	call, err := conn.InvokeAsync(signalr.NewMessage("Ask"), func(signalr.Result, error) { t.Error("a cancelled call was answered") })
	if err != nil {
		t.Fatal(err)
	}
	wantContains(t, s.read(), `"invocationId":"s1"`)
	if !call.Cancel() || call.Cancel() {
		t.Error("cancelling")
	}
	s.send(opText, `{"type":3,"invocationId":"s1","result":1}`+"\x1e"+`{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}`+"\x1e")
	wantContains(t, s.read(), `"result":"x"`)
}

func TestInvokeInsideAHandler(t *testing.T) {
	for parallel, want := range map[int]string{1: signalr.ErrWouldDeadlock.Error(), 2: "no error"} {
		f := start(t, signalr.HubOptions{MaxParallelInvocations: parallel}, func(h *signalr.Hub) {
			h.Handle("Ask", signalr.Func0(func(ctx context.Context, c *signalr.Conn) (string, error) {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				if _, err := c.Invoke(ctx, signalr.NewMessage("Answer")); err != nil {
					return err.Error(), nil
				}
				return "no error", nil
			}))
		})
		c := f.dial(t, client.Options{}, func(c *client.Client) {
			c.On("Answer", func(context.Context, *client.Call) (any, error) { return 1, nil })
		})
		var got string
		if err := c.Invoke(testContext(t), &got, "Ask"); err != nil || got != want {
			t.Errorf("%d parallel: %q, %v", parallel, got, err)
		}
	}
}

// TestParallelInvocationsAreBounded keeps more invocations waiting than may
// run: the rest is not read.
func TestParallelInvocationsAreBounded(t *testing.T) {
	const limit = 3
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	f := start(t, signalr.HubOptions{MaxParallelInvocations: limit}, func(h *signalr.Hub) {
		h.Handle("Wait", signalr.Action0(func(context.Context, *signalr.Conn) error {
			entered <- struct{}{}
			<-leave
			return nil
		}))
	})
	s := dialGreeted(t, f.url, "json")
	s.send(opText, strings.Repeat(`{"type":1,"target":"Wait","arguments":[]}`+"\x1e", 10))
	for range limit {
		receive(t, entered, "an invocation")
	}
	select {
	case <-entered:
		t.Error("one invocation too many")
	default:
	}
	close(leave)
	for range 10 - limit {
		receive(t, entered, "an invocation")
	}
}

// TestHalfOpenNegotiations fills a hub with ids that nobody uses: their number
// is bounded, they end, and the hub goes on.
func TestHalfOpenNegotiations(t *testing.T) {
	f := startServer(t, signalr.Options{MaxNegotiations: 5}, signalr.HubOptions{DisconnectTimeout: time.Second}, echoHub)
	refused := 0
	for range 20 {
		if negotiate(t, f.url, "?negotiateVersion=1", nil).Status == http.StatusServiceUnavailable {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no negotiation was refused")
	}
	eventually(t, "ids have ended", func() bool { return negotiate(t, f.url, "?negotiateVersion=1", nil).Status == 200 })
	dialGreeted(t, f.url, "json")
}

// TestSlowWriters opens connections that write a byte now and then, and
// connections that announce more than they send.
func TestSlowWriters(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{ClientTimeout: time.Second, HandshakeTimeout: time.Second}), echoHub)
	var slow sync.WaitGroup
	for range 20 {
		s := dialGreeted(t, f.url, "json")
		receive(t, life.connected, "OnConnected")
		_, _ = s.conn.Write([]byte{0x80 | opText, 0x80 | 126, 0x7f, 0xff, 0, 0, 0, 0})
		slow.Go(func() {
			for {
				if _, err := s.conn.Write([]byte{' '}); err != nil {
					return
				}
				if _, _, err := s.next(); err != nil { // the close message, then the end
					return
				}
			}
		})
	}
	for range 20 {
		if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
			t.Error("no error")
		}
	}
	slow.Wait()
}

// TestMemoryStaysBounded sends many messages of the largest size from many
// connections: memory stays where it was.
func TestMemoryStaysBounded(t *testing.T) {
	f := start(t, signalr.HubOptions{}, echoHub)
	big := frame(0x80|opText, `{"type":1,"target":"Echo","arguments":["`+strings.Repeat("x", 30_000)+`"]}`+"\x1e")
	var socks []*rawSocket
	for range 20 {
		socks = append(socks, dialGreeted(t, f.url, "json"))
	}
	measure := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := measure()
	for range 20 {
		for _, s := range socks {
			s.write(big)
		}
	}
	for _, s := range socks {
		s.send(opText, `{"type":1,"invocationId":"1","target":"Echo","arguments":["end"]}`+"\x1e")
		wantContains(t, s.read(), "end")
	}
	if after := measure(); after > before+8<<20 {
		t.Errorf("the heap grew from %d to %d", before, after)
	}
}

// TestGarbage throws random text at the port.
func TestGarbage(t *testing.T) {
	f := start(t, signalr.HubOptions{}, nil)
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"GET /hub HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET /hub HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: x\r\n\r\n",
		"GET /hub?id=%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /hub/negotiate?negotiateVersion=-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"\x16\x03\x01\x02\x00",
	} {
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Error(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.") {
			t.Errorf("%q: %q, %v", request, answer, err)
		}
		_ = conn.Close()
	}
	eventually(t, "nothing is left", func() bool { return f.server.Len() == 0 })
	dialGreeted(t, f.url, "json")
}
