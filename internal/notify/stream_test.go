package notify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
)

// serve serves the world's events over HTTP, to whom the header Client names. Keys stop to work when
// revoked is set.
func serve(w *world) (url string, revoked *atomic.Bool) {
	revoked = new(atomic.Bool)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		err := w.ServeEvents(rw, r, r.Header.Get("Client"), func(context.Context) error {
			if revoked.Load() {
				return esh3ar.Errorf(esh3ar.KindForbidden, "client_suspended", "not any more") // like KindUnauthorized, see hub_test.go
			}
			return nil
		})
		if err != nil {
			var e *esh3ar.Error
			if !errors.As(err, &e) {
				e = esh3ar.Errorf(esh3ar.KindInternal, "internal", "%v", err)
			}
			http.Error(rw, e.Code+" "+e.Pointer, http.StatusTeapot)
		}
	}))
	server.Config.ReadTimeout = 300 * time.Millisecond // streams go on for longer
	server.Start()
	w.Cleanup(server.Close)
	return server.URL, revoked
}

// frame is one block of server-sent events, by field; comments are under "".
type frame map[string]string

// sse is one open stream.
type sse struct {
	t      testing.TB
	resp   *http.Response
	frames chan frame // closed at the end
	hangUp func()
}

func openStream(t testing.TB, url, client, lastID string) *sse {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;q=0.1, text/event-stream")
	req.Header.Set("Client", client)
	req.Header.Set("Last-Event-ID", lastID)
	transport := &http.Transport{}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s := &sse{t: t, resp: resp, frames: make(chan frame)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(s.frames)
		f := make(frame)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ":")
			switch {
			case lines.Text() != "":
				f[name] = strings.TrimPrefix(value, " ")
			case len(f) > 0:
				select {
				case s.frames <- f:
				case <-ctx.Done():
					return
				}
				f = make(frame)
			}
		}
	}()
	s.hangUp = func() {
		cancel()
		<-ended
		resp.Body.Close()
		transport.CloseIdleConnections()
	}
	t.Cleanup(s.hangUp)
	return s
}

// next returns the next frame, nil at the end.
func (s *sse) next() frame {
	s.t.Helper()
	select {
	case f := <-s.frames:
		return f
	case <-time.After(patience):
		s.t.Fatal("nothing came")
		return nil
	}
}

// event returns the next event, as its JSON says.
func (s *sse) event() (id string, e wireEvent) {
	s.t.Helper()
	for {
		f := s.next()
		if f == nil {
			s.t.Fatal("the stream ended")
		}
		if f["data"] == "" {
			continue
		}
		if err := json.Unmarshal([]byte(f["data"]), &e); err != nil {
			s.t.Fatalf("%v: %v", err, f)
		}
		if e.ID != f["id"] || e.Type != f["event"] || e.Type != "message."+e.Data.Status {
			s.t.Fatalf("the frame says otherwise than its data: %v", f)
		}
		return f["id"], e
	}
}

// wireEvent is an event as clients see it.
type wireEvent struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Time string `json:"time"` // a string in MessagePack, too
	Data struct {
		ID      string `json:"id"`
		To      string `json:"to"`
		Status  string `json:"status"`
		Seq     int    `json:"status_seq"`
		Attempt int    `json:"attempt"`
		Reason  string `json:"reason"`
	} `json:"data"`
}

func TestStream(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Heartbeat = 50 * time.Millisecond })
	url, _ := serve(w)
	s := openStream(t, url, "alice", "")
	if h := s.resp.Header; s.resp.StatusCode != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v", s.resp.Status, h)
	}
	hello := s.next()
	if hello["id"] == "" || hello["retry"] == "" {
		t.Fatalf("the first frame does not say where the client is: %v", hello)
	}
	w.commit(1, delivered, "alice", "bob")
	var last string
	for i, want := range []string{"queued", "sent", "delivered"} {
		id, e := s.event()
		if e.Data.Status != want || e.Data.Seq != i+2 || e.Data.To == "" || e.Time != w.now.Format("2006-01-02T15:04:05.000000Z") {
			t.Errorf("event %d: %+v", i, e)
		}
		last = id
	}
	// It lives on its heartbeats, beyond the server's time for reading.
	for begun := time.Now(); time.Since(begun) < time.Second; {
		f := s.next()
		if f == nil || f[""] != "still here" || f["id"] == "" {
			t.Fatalf("not a heartbeat: %v", f)
		}
	}
	s.hangUp()
	w.commit(0, delivered, "alice")
	resumed := openStream(t, url+"?cursor=ignored", "alice", last)
	if _, e := resumed.event(); e.Data.Status != "queued" || e.Data.Seq != 2 {
		t.Errorf("%+v", e)
	}
	// From the very beginning, and only what is asked for.
	only := openStream(t, url+"?from=start&status=delivered", "alice", "")
	for range 2 {
		if _, e := only.event(); e.Data.Status != "delivered" {
			t.Errorf("%+v", e)
		}
	}
}

func TestStreamEndsWithItsKey(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CheckEvery = 20 * time.Millisecond })
	url, revoked := serve(w)
	s := openStream(t, url, "alice", "")
	s.next()
	revoked.Store(true)
	if f := s.next(); f["event"] != "problem" || !strings.Contains(f["data"], "not any more") {
		t.Errorf("%v", f)
	}
	if f := s.next(); f != nil {
		t.Errorf("goes on: %v", f)
	}
}

func TestStreamsDrain(t *testing.T) {
	w := newWorld(t)
	url, _ := serve(w)
	s := openStream(t, url, "alice", "")
	s.next()
	w.Drain()
	w.Drain()
	if f := s.next(); f["retry"] == "" {
		t.Errorf("%v", f)
	}
	if f := s.next(); f != nil {
		t.Errorf("goes on: %v", f)
	}
	if late := openStream(t, url, "alice", ""); late.resp.StatusCode != http.StatusTeapot {
		t.Errorf("a stream begins while draining: %s", late.resp.Status)
	}
}

func TestStreamOfLostEvents(t *testing.T) {
	w := newWorld(t)
	url, _ := serve(w)
	w.commit(0, delivered, "alice")
	s := openStream(t, url, "alice", "")
	s.next()
	w.commit(0, delivered, "alice")
	s.event()
	w.faults.restored.Store(true)
	for {
		f := s.next()
		if f == nil {
			t.Fatal("ended without a word")
		}
		if f["event"] == "problem" {
			break
		}
	}
	if f := s.next(); f != nil {
		t.Errorf("goes on: %v", f)
	}
}

func TestTooManyStreams(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxStreams = 2 })
	url, _ := serve(w)
	first := openStream(t, url, "alice", "")
	openStream(t, url, "alice", "").next()
	openStream(t, url, "bob", "").next()
	if s := openStream(t, url, "alice", ""); s.resp.StatusCode != http.StatusTeapot {
		t.Fatalf("a third: %s", s.resp.Status)
	}
	first.hangUp()
	for begun := time.Now(); ; {
		s := openStream(t, url, "alice", "")
		if s.resp.StatusCode == 200 {
			break
		}
		s.hangUp()
		if time.Since(begun) > patience {
			t.Fatal("the place of one that hung up is not free")
		}
	}
}

// TestStreamNobodyReads gives up a client that does not read, and another gets everything meanwhile.
func TestStreamNobodyReads(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.WriteTimeout = 200 * time.Millisecond })
	url, _ := serve(w)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nClient: alice\r\nAccept: text/event-stream\r\n\r\n")
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Fatalf("%q, %v", head, err)
	}
	other := openStream(t, url, "alice", "")
	other.next()
	many := make([]string, 300)
	for i := range many {
		many[i] = "alice"
	}
	for sent := 0; ; sent++ {
		w.Service.mu.Lock()
		left := w.streams["alice"]
		w.Service.mu.Unlock()
		if left == 1 {
			break
		}
		if sent == 200 {
			t.Fatal("the one that does not read is still there")
		}
		w.commit(0, delivered, many...)
		for range 3 * len(many) {
			other.event()
		}
	}
}

func TestRequests(t *testing.T) {
	w := newWorld(t)
	url, _ := serve(w)
	for query, want := range map[string]string{
		"?cursor=x":        "bad_cursor cursor",
		"?limit=0":         "bad_limit limit",
		"?limit=501":       "bad_limit limit",
		"?from=then":       "bad_from from",
		"?status=accepted": "unknown_status status",
		"?type=delivered":  "unknown_status type",
		"?colour=red":      "unknown_parameter colour",
		"?limit=1&limit=2": "duplicate_parameter limit",
		"?a=%zz":           "malformed_query ",
		"?cursor=" + strings.Repeat("A", maxCursor+1): "bad_cursor cursor",
	} {
		resp, err := http.Get(url + "/" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || strings.TrimRight(string(body), "\n") != want {
			t.Errorf("%.40s: %s %q, %v; want %q", query, resp.Status, body, err, want)
		}
	}
	if s := openStream(t, url+"?limit=&cursor=&from=&status=&type=", "alice", ""); s.resp.StatusCode != 200 {
		t.Errorf("parameters without values: %s", s.resp.Status)
	}
	if s := openStream(t, url+"?limit=3", "alice", ""); s.resp.StatusCode == 200 {
		t.Error("a stream with a limit")
	}
	w.commit(0, delivered, "alice")
	req, err := http.NewRequest(http.MethodGet, url+"?from=start&type=message.sent,message.delivered&limit=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Client", "alice")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	var page struct {
		Events []wireEvent `json:"events"`
		Next   string      `json:"next_cursor"`
		More   bool        `json:"more"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	if len(page.Events) != 1 || page.Events[0].Data.Status != "sent" || page.Events[0].Data.Attempt != 1 || !page.More || page.Next != page.Events[0].ID {
		t.Errorf("%+v", page)
	}
}

func TestAcceptsStream(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                     false,
		"*/*":                                  false,
		"text/event-stream":                    true,
		"Text/Event-Stream; charset=utf-8":     true,
		"application/json, text/event-stream":  true,
		"text/event-stream;q=0":                false,
		"text/event-stream;q=0.0, */*":         false,
		"application/json;q=0.1, text/*, x/y,": false,
	} {
		if got := acceptsStream(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// BenchmarkAppendEvent measures what telling one event takes.
func BenchmarkAppendEvent(b *testing.B) {
	var ids esh3ar.IDs
	now := time.Now()
	e := Event{Event: esh3ar.Event{Message: ids.New(now, 1), Client: "alice", To: "+962791234567",
		Transition: esh3ar.Transition{Seq: 4, Status: esh3ar.StatusDelivered, At: now, Attempt: 1}}}
	cursor := Cursor{{Number: 123456, Offset: 17}, {Number: 123400}}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		e.Cursor = cursor.String()
		buf = e.AppendJSON(buf[:0])
	}
}
