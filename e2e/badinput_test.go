package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lxzan/gws"
)

// TestBadRequests shows that each kind of bad request gets its precise problem, that none of them is
// worth a line in the log, and that the server goes on.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	long := strings.Repeat("x", 129)
	tests := []struct {
		name, body string
		key        string // Idempotency-Key
		auth       string // API key, "" for the right one
		status     int
		mentions   string // in code or detail
	}{
		{name: "malformed JSON", body: `{"to": "alice", "content": `, status: 400},
		{name: "not an object", body: `["alice"]`, status: 400},
		{name: "nothing", body: ``, status: 400},
		{name: "trailing data", body: `{"to":"a","content":"b"} x`, status: 400},
		{name: "unknown field", body: `{"to":"a","content":"b","contnet":"c"}`, status: 400, mentions: "contnet"},
		{name: "no content", body: `{"to":"a"}`, status: 400, mentions: "content"},
		{name: "content and data", body: `{"to":"a","content":"b","data":1}`, status: 400, mentions: "data"},
		{name: "no recipient", body: `{"content":"b"}`, status: 400, mentions: "recipient"},
		{name: "empty recipient", body: `{"to":" ","content":"b"}`, status: 400, mentions: "recipient"},
		{name: "long recipient", body: `{"to":"` + long + `","content":"b"}`, status: 400, mentions: "recipient"},
		{name: "NUL in the recipient", body: `{"to":"a\u0000b","content":"b"}`, status: 400, mentions: "recipient"},
		{name: "NUL in the type", body: `{"to":"a","content":"b","type":"t\u0000"}`, status: 400, mentions: "type"},
		{name: "invalid UTF-8", body: "{\"to\":\"a\",\"content\":\"\xff\xfe\"}", status: 400, mentions: "UTF-8"},
		{name: "negative ttl", body: `{"to":"a","content":"b","ttl":-1}`, status: 400, mentions: "ttl"},
		{name: "absurd ttl", body: `{"to":"a","content":"b","ttl":99999999999}`, status: 400, mentions: "ttl"},
		{name: "ttl of another type", body: `{"to":"a","content":"b","ttl":"1h"}`, status: 400, mentions: "ttl"},
		{name: "send_at too far", body: `{"to":"a","content":"b","send_at":"2126-01-01T00:00:00Z"}`, status: 400, mentions: "send_at"},
		{name: "metadata that is not flat", body: `{"to":"a","content":"b","metadata":{"a":{}}}`, status: 400, mentions: "metadata"},
		{name: "too large", body: `{"to":"a","content":"` + strings.Repeat("x", 64<<10) + `"}`, status: 413},
		{name: "wrong key", body: `{"to":"a","content":"b"}`, auth: "esh_wrong", status: 401},
		{name: "long idempotency key", body: `{"to":"a","content":"b"}`, key: strings.Repeat("k", 256), status: 400, mentions: "idempotency key"},
	}
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	before := logSize(t, s)
	for round := range 20 {
		for _, test := range tests {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/messages", strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+apiKey)
			if test.auth != "" {
				req.Header.Set("Authorization", "Bearer "+test.auth)
			}
			if test.key != "" {
				req.Header.Set("Idempotency-Key", test.key)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			raw, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if round > 0 {
				continue // the rest of the rounds are for the log
			}
			var p problem
			if err := json.Unmarshal(raw, &p); err != nil || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: HTTP %d, %s, %v: %s", test.name, resp.StatusCode, resp.Header.Get("Content-Type"), err, raw)
				continue
			}
			if resp.StatusCode != test.status || p.Status != test.status || p.Type == "" || p.Title == "" || p.Code == "" || p.Detail == "" || !p.Permanent {
				t.Errorf("%s: HTTP %d, want %d: %s", test.name, resp.StatusCode, test.status, raw)
			}
			if !strings.Contains(string(raw), test.mentions) {
				t.Errorf("%s: no word of %q in %s", test.name, test.mentions, raw)
			}
		}
	}
	if grown := logSize(t, s) - before; grown > 4<<10 {
		t.Errorf("the log grew by %d bytes:\n%s", grown, s.tail(4<<10))
	}
	s.api().mustSend(t, outgoing{To: "alice", Content: "all is well"})
	s.stop()
}

// TestBadFrames shows that a device that does not speak the protocol is told so and cut off, without a
// flood in the log, and that the server goes on.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	handshake := `{"protocol":"json","version":1}` + recordSeparator
	before := logSize(t, s)
	for name, frames := range map[string][]string{
		"not a handshake":      {"hello" + recordSeparator},
		"unknown protocol":     {`{"protocol":"xml","version":1}` + recordSeparator},
		"unknown version":      {`{"protocol":"json","version":99}` + recordSeparator},
		"not JSON":             {handshake, "{{{" + recordSeparator},
		"unfinished":           {handshake, strings.Repeat("x", 100<<10)},
		"not a message":        {handshake, `{"type":"one"}` + recordSeparator},
		"arguments of no list": {handshake, `{"type":1,"target":"AcknowledgeMessage","arguments":7}` + recordSeparator},
		"deeply nested": {handshake, `{"type":1,"target":"AcknowledgeMessages","arguments":` +
			strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + "}" + recordSeparator},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				said, err := rudeDevice(s.url, token(t, "mallory", time.Hour), frames)
				if err != nil {
					t.Fatalf("%v after %q", err, said)
				}
				if !strings.Contains(said, `"error":"`) && !strings.Contains(said, "reason=") {
					t.Fatalf("cut off without a reason: %q", said)
				}
			}
		})
	}
	if grown := logSize(t, s) - before; grown > 8<<10 {
		t.Errorf("the log grew by %d bytes:\n%s", grown, s.tail(4<<10))
	}
	s.api().mustSend(t, outgoing{To: "alice", Content: "all is well"})
	s.stop()
}

// rudeDevice connects, writes the frames and returns what the server says until it closes the
// connection. It fails if the server does not close it.
func rudeDevice(serverURL, token string, frames []string) (string, error) {
	d := &rude{closed: make(chan struct{})}
	conn, _, err := gws.NewClient(d, &gws.ClientOption{
		Addr:             strings.Replace(serverURL, "http://", "ws://", 1) + "/hubs/mobile?access_token=" + token,
		HandshakeTimeout: 10 * time.Second,
	})
	if err != nil {
		return "", err
	}
	go conn.ReadLoop()
	for _, frame := range frames {
		if conn.WriteMessage(gws.OpcodeText, []byte(frame)) != nil {
			break // closed already
		}
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-d.closed:
		return d.said.String(), nil
	case <-timer.C:
		conn.NetConn().Close()
		<-d.closed
		return d.said.String(), fmt.Errorf("the server keeps the connection")
	}
}

// rude collects what the server says to a rudeDevice. Its one reader owns it until closed is closed.
type rude struct {
	gws.BuiltinEventHandler
	said   strings.Builder
	closed chan struct{}
}

// OnMessage implements gws.Event.
func (d *rude) OnMessage(_ *gws.Conn, m *gws.Message) {
	d.said.Write(m.Bytes())
	m.Close()
}

// OnClose implements gws.Event.
func (d *rude) OnClose(_ *gws.Conn, err error) {
	fmt.Fprintf(&d.said, " (%v)", err)
	close(d.closed)
}

func logSize(t *testing.T, s *server) int64 {
	t.Helper()
	info, err := os.Stat(s.log)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
