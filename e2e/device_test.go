package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"

	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// device is a phone: a SignalR client over a WebSocket, JSON protocol, without negotiation. It is
// written from the protocol's description and shares no code with the server, so that the two do not
// agree on a mistake.
type device struct {
	conn    *gws.Conn
	receive func(delivery)
	greeted chan struct{} // closed by the answer to the handshake
	closed  chan struct{} // closed when the connection has ended, after why is set
	why     error
	// reconnect says that the server closed the connection and asked the device to come back.
	reconnect bool

	writing sync.Mutex // frames of concurrent callers do not mix
}

// delivery is one message as a device gets it.
type delivery struct {
	ID         string            `json:"id"`
	From       string            `json:"from"`
	Content    string            `json:"content"`
	Data       json.RawMessage   `json:"data"`
	Type       string            `json:"type"`
	Metadata   map[string]string `json:"metadata"`
	AcceptedAt time.Time         `json:"accepted_at"`
	Attempt    int               `json:"attempt"`
	// TraceParent is that of the message's request.
	TraceParent string `json:"traceparent"`
}

// recordSeparator ends each message of the JSON protocol.
const recordSeparator = "\x1e"

// dial connects a device. receive is called for each delivery, in order, by one goroutine; it must
// not call hangUp.
func dial(serverURL, token string, receive func(delivery)) (*device, error) {
	d := &device{receive: receive, greeted: make(chan struct{}), closed: make(chan struct{})}
	conn, resp, err := gws.NewClient(d, &gws.ClientOption{
		Addr:             strings.Replace(serverURL, "http://", "ws://", 1) + "/hubs/mobile?access_token=" + url.QueryEscape(token),
		HandshakeTimeout: 10 * time.Second,
	})
	if err != nil {
		if resp != nil {
			return nil, &problem{HTTP: resp.StatusCode, Detail: err.Error()}
		}
		return nil, err
	}
	d.conn = conn
	go conn.ReadLoop()
	if err := d.write(map[string]any{"protocol": "json", "version": 1}); err != nil {
		d.hangUp()
		return nil, err
	}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-d.greeted:
		return d, nil
	case <-d.closed:
		return nil, d.why
	case <-timer.C:
		d.hangUp()
		return nil, errors.New("no answer to the handshake")
	}
}

// receive connects a device of the recipient until the test ends. It acknowledges what it gets and hands on what
// that says.
func (s *server) receive(t *testing.T, recipient string) <-chan string {
	t.Helper()
	got := make(chan string, 16)
	var phone *device
	listening := make(chan struct{})
	phone, err := dial(s.url, token(t, recipient, time.Hour), func(m delivery) {
		<-listening
		got <- m.Content
		_ = phone.acknowledge(m.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	close(listening)
	t.Cleanup(phone.hangUp)
	return got
}

// negotiate connects a device of the recipient with the Go SignalR client until the test ends: it follows where it is sent. Its
// handler answers result, and hands on what the device gets.
func (s *server) negotiate(t *testing.T, recipient, query string, reconnect func(int, error) (time.Duration, bool), result any) (*signalr.Client, <-chan delivery) {
	t.Helper()
	received := make(chan delivery, 10)
	phone, err := signalr.New(s.url+"/hubs/mobile"+query, signalr.Options{
		AccessToken: func(context.Context) (string, error) { return token(t, recipient, time.Hour), nil }, Reconnect: reconnect,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { phone.Close() })
	phone.On("ReceiveMessage", func(_ context.Context, call *signalr.Call) (any, error) {
		var m delivery
		err := call.Decode(0, &m)
		received <- m
		return result, err
	})
	if err := phone.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return phone, received
}

// acknowledge tells the server that the messages are shown.
func (d *device) acknowledge(ids ...string) error {
	if len(ids) == 1 {
		return d.invoke("AcknowledgeMessage", ids[0])
	}
	return d.invoke("AcknowledgeMessages", ids)
}

func (d *device) invoke(method string, argument any) error {
	return d.write(map[string]any{"type": 1, "target": method, "arguments": []any{argument}})
}

func (d *device) write(message any) error {
	raw, err := json.Marshal(message)
	if err != nil {
		return err
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	return d.conn.WriteMessage(gws.OpcodeText, append(raw, recordSeparator...))
}

// hangUp cuts the connection off as a lost network does, and waits until nothing is received any more.
func (d *device) hangUp() {
	d.conn.NetConn().Close()
	<-d.closed
}

// OnOpen implements gws.Event.
func (d *device) OnOpen(*gws.Conn) {}

// OnPing implements gws.Event.
func (d *device) OnPing(conn *gws.Conn, payload []byte) { _ = conn.WritePong(payload) }

// OnPong implements gws.Event.
func (d *device) OnPong(*gws.Conn, []byte) {}

// OnClose implements gws.Event.
func (d *device) OnClose(_ *gws.Conn, err error) {
	if d.why == nil {
		d.why = err
	}
	close(d.closed)
}

// OnMessage implements gws.Event.
func (d *device) OnMessage(conn *gws.Conn, frame *gws.Message) {
	defer frame.Close()
	for raw := range bytes.SplitSeq(frame.Bytes(), []byte(recordSeparator)) {
		if len(raw) == 0 {
			continue
		}
		if err := d.handle(raw); err != nil {
			if d.why == nil {
				d.why = err
			}
			conn.NetConn().Close()
			return
		}
	}
}

func (d *device) handle(raw []byte) error {
	var m struct {
		Type      int               `json:"type"`
		Target    string            `json:"target"`
		Arguments []json.RawMessage `json:"arguments"`
		Error     string            `json:"error"`
		Reconnect bool              `json:"allowReconnect"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("%w in %.200q", err, raw)
	}
	select {
	case <-d.greeted:
	default:
		if m.Error != "" {
			return fmt.Errorf("handshake: %s", m.Error)
		}
		close(d.greeted)
		return nil
	}
	switch {
	case m.Type == 1 && m.Target == "ReceiveMessage" && len(m.Arguments) == 1:
		var del delivery
		if err := json.Unmarshal(m.Arguments[0], &del); err != nil {
			return fmt.Errorf("%w in %.200q", err, raw)
		}
		d.receive(del)
	case m.Type == 6:
	case m.Type == 7:
		d.reconnect = m.Reconnect
		return fmt.Errorf("closed by the server: %s", m.Error)
	default:
		return fmt.Errorf("not expected: %.200q", raw)
	}
	return nil
}

// unauthorized reports whether err is an HTTP 401.
func unauthorized(err error) bool {
	p, ok := errors.AsType[*problem](err)
	return ok && p.HTTP == http.StatusUnauthorized
}
