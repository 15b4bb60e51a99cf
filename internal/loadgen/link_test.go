package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/signalr"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func receiveFrom[T any](t testing.TB, ch <-chan T, what string) T {
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

// eachClient runs a test with links of every kind.
func eachClient(t *testing.T, f func(t *testing.T, kind DeviceClient)) {
	for _, kind := range []DeviceClient{GoClient, MinimalClient} {
		t.Run(string(kind), func(t *testing.T) { f(t, kind) })
	}
}

// testInbox keeps what a link receives and acknowledges it.
type testInbox struct {
	link   link
	fail   error // for the next message
	due    []esh3ar.ID
	bodies chan string
}

func (b *testInbox) message(body []byte, at time.Time) error {
	if d := time.Since(at); d < 0 || d > patience {
		return fmt.Errorf("received %v ago", d)
	}
	id, err := esh3ar.ParseID(string(field(body, `"id":"`)))
	if err != nil {
		return err
	}
	b.due = append(b.due, id)
	b.bodies <- string(body)
	return b.fail
}

func (b *testInbox) settle() error {
	defer func() { b.due = b.due[:0] }()
	if len(b.due) == 0 {
		return nil
	}
	return b.link.acknowledge(b.due)
}

// testHub is a mobile hub that takes the token for the recipient.
type testHub struct {
	target Target
	came   chan *signalr.Conn
	went   chan error
	acks   chan []string
}

func startHub(t testing.TB) *testHub {
	t.Helper()
	h := &testHub{came: make(chan *signalr.Conn, 100), went: make(chan error, 100), acks: make(chan []string, 1000)}
	srv, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := srv.NewHub(signalr.HubOptions{
		Authenticate: func(r *http.Request) (signalr.Identity, error) {
			token := signalr.AccessToken(r)
			if token == "bad" {
				return signalr.Identity{}, errors.New("no good token")
			}
			return signalr.Identity{UserID: token}, nil
		},
		OnConnected:    func(_ context.Context, c *signalr.Conn) error { h.came <- c; return nil },
		OnDisconnected: func(_ *signalr.Conn, err error) { h.went <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	hub.Handle(acknowledgeMessages, signalr.Action1(func(_ context.Context, _ *signalr.Conn, ids []string) error {
		h.acks <- ids
		return nil
	}))
	mux := http.NewServeMux()
	hub.Mount(mux, "/base"+hubPath)
	h.target = Target{URL: serve(t, mux, srv) + "/base/"}
	return h
}

// connect returns a link of that kind that is connected and receiving, and the end of that.
func (h *testHub) connect(t *testing.T, kind DeviceClient, in *testInbox) (*signalr.Conn, <-chan error) {
	t.Helper()
	hub, err := newHub(h.target, kind)
	if err != nil {
		t.Fatal(err)
	}
	if in.link, err = hub.link("amina", in); err != nil {
		t.Fatal(err)
	}
	if err := in.link.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- in.link.receive() })
	t.Cleanup(func() {
		in.link.close()
		wg.Wait()
		hub.close()
	})
	return receiveFrom(t, h.came, "the device"), ended
}

func testMessage(id esh3ar.ID) *signalr.Message {
	return signalr.NewMessage(receiveMessage, signalr.RawJSON(fmt.Sprintf(`{"id":"%s","from":"test","content":"hello"}`, id)))
}

func TestLinksReceiveAndAcknowledgeInOrder(t *testing.T) {
	eachClient(t, func(t *testing.T, kind DeviceClient) {
		h := startHub(t)
		in := &testInbox{bodies: make(chan string, 100)}
		conn, ended := h.connect(t, kind, in)
		var ids esh3ar.IDs
		var want, acknowledged []string
		for range 50 {
			id := ids.New(time.Now(), 0)
			want = append(want, id.String())
			if err := conn.Send(testMessage(id)); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range want {
			var d struct{ ID, Content string }
			body := receiveFrom(t, in.bodies, "a message")
			if err := json.Unmarshal([]byte(body), &d); err != nil || d.ID != id || d.Content != "hello" {
				t.Fatalf("received %s, %v; want message %s", body, err, id)
			}
		}
		for len(acknowledged) < len(want) {
			acknowledged = append(acknowledged, receiveFrom(t, h.acks, "an acknowledgement")...)
		}
		if !slices.Equal(acknowledged, want) {
			t.Errorf("acknowledged %v, want %v", acknowledged, want)
		}
		in.link.close()
		if err := receiveFrom(t, h.went, "the goodbye"); err != nil {
			t.Errorf("the server saw the connection end with %v", err)
		}
		if err := receiveFrom(t, ended, "the end"); !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	})
}

// A device whose negotiation is answered with the address of another server connects there.
func TestGoLinkIsSentToAnotherServer(t *testing.T) {
	h := startHub(t)
	answer := fmt.Sprintf(`{"url": %q, "accessToken": "amina"}`, strings.TrimSuffix(h.target.URL, "/")+hubPath+"?moved=1")
	asked := make(chan string, 10)
	balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(balancer.Close)
	h.target.URL = balancer.URL
	in := &testInbox{bodies: make(chan string, 1)}
	conn, _ := h.connect(t, GoClient, in)
	if moved := conn.Query().Get("moved"); moved != "1" {
		t.Errorf("it connected with moved=%q", moved)
	}
	if err := conn.Send(testMessage(new(esh3ar.IDs).New(time.Now(), 0))); err != nil {
		t.Fatal(err)
	}
	receiveFrom(t, in.bodies, "a message")
	if got := receiveFrom(t, asked, "the negotiation"); got != "POST "+hubPath+"/negotiate" || len(asked) != 0 {
		t.Errorf("the balancer was asked %s, and %d times more", got, len(asked))
	}
}

func TestLinksTellWhyTheyEnd(t *testing.T) {
	eachClient(t, func(t *testing.T, kind DeviceClient) {
		h := startHub(t)
		t.Run("closed by the server", func(t *testing.T) {
			conn, ended := h.connect(t, kind, &testInbox{})
			conn.Close("enough", true)
			if err := receiveFrom(t, ended, "the end"); err == nil || !strings.Contains(err.Error(), "enough") {
				t.Errorf("ended with %v", err)
			}
		})
		t.Run("by the inbox", func(t *testing.T) {
			in := &testInbox{bodies: make(chan string, 1), fail: errors.New("not this one")}
			conn, ended := h.connect(t, kind, in)
			if err := conn.Send(testMessage(esh3ar.ID{1})); err != nil {
				t.Fatal(err)
			}
			if err := receiveFrom(t, ended, "the end"); !errors.Is(err, in.fail) {
				t.Errorf("ended with %v", err)
			}
		})
		t.Run("another method", func(t *testing.T) {
			if kind == GoClient {
				return // devices leave alone what they do not know; the check is the minimal one's
			}
			conn, ended := h.connect(t, kind, &testInbox{})
			if err := conn.Send(signalr.NewMessage("Other", 1)); err != nil {
				t.Fatal(err)
			}
			if err := receiveFrom(t, ended, "the end"); err == nil || !strings.Contains(err.Error(), "Other") {
				t.Errorf("ended with %v", err)
			}
		})
		t.Run("refused", func(t *testing.T) {
			hub, err := newHub(h.target, kind)
			if err != nil {
				t.Fatal(err)
			}
			defer hub.close()
			l, err := hub.link("bad", &testInbox{})
			if err != nil {
				t.Fatal(err)
			}
			var refused *refusedError
			if err := l.connect(t.Context()); !errors.As(err, &refused) || refused.status != http.StatusUnauthorized {
				t.Errorf("connected with %v", err)
			}
			l.close() // harmless
		})
		t.Run("the context", func(t *testing.T) {
			hub, err := newHub(h.target, kind)
			if err != nil {
				t.Fatal(err)
			}
			defer hub.close()
			l, err := hub.link("amina", &testInbox{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := l.connect(ctx); err == nil {
				t.Error("connected after the context's end")
			}
		})
	})
	if _, err := newHub(Target{URL: "http://127.0.0.1:1"}, "pigeon"); err == nil || !strings.Contains(err.Error(), "pigeon") {
		t.Errorf("a client that does not exist: %v", err)
	}
}

func TestDevicesComeBack(t *testing.T) {
	eachClient(t, func(t *testing.T, kind DeviceClient) {
		p := startPlatform(t, faults{})
		ledger, err := CreateLedger(t.TempDir() + "/ledger")
		if err != nil {
			t.Fatal(err)
		}
		defer ledger.Close()
		d, err := NewDevices(p.target(), 1, Audience{N: 3, Client: kind}, ledger)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := d.Connect(t.Context(), 0, d.Len()); err != nil {
			t.Fatal(err)
		}
		// The server may answer a handshake before it knows the device.
		conns := func() (all []*signalr.Conn) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, b := range p.boxes {
				all = append(all, b.conns...)
			}
			return all
		}
		eventually(t, func() bool { return len(conns()) == d.Len() })
		for _, c := range conns() {
			c.Close("come again", true)
		}
		eventually(t, func() bool {
			s := d.Stats()
			return s.Reconnects == int64(d.Len()) && s.Connected == int64(d.Len())
		})
	})
}

// eventually waits until done says yes.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v in vain", patience)
		}
	}
}

// BenchmarkReceive measures what one receipt with its acknowledgement costs, the server's side and the
// loopback network included.
func BenchmarkReceive(b *testing.B) {
	for _, kind := range []DeviceClient{GoClient, MinimalClient} {
		b.Run(string(kind), func(b *testing.B) {
			h := startHub(b)
			hub, err := newHub(h.target, kind)
			if err != nil {
				b.Fatal(err)
			}
			defer hub.close()
			in := &testInbox{bodies: make(chan string, 1)}
			if in.link, err = hub.link("amina", in); err != nil {
				b.Fatal(err)
			}
			if err := in.link.connect(b.Context()); err != nil {
				b.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- in.link.receive() }()
			conn := receiveFrom(b, h.came, "the device")
			m := testMessage(esh3ar.ID{1})
			b.ReportAllocs()
			for b.Loop() {
				if err := conn.Send(m); err != nil {
					b.Fatal(err)
				}
				<-in.bodies
				<-h.acks
			}
			in.link.close()
			<-ended
		})
	}
}
