package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// happening is one event as a business system sees it, written down by hand once more.
type happening struct {
	ID   string    `json:"id"`
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	// Trace is the traceparent of the message's request.
	Trace string `json:"traceparent"`
	Data  struct {
		ID      string `json:"id"`
		To      string `json:"to"`
		Status  string `json:"status"`
		Seq     int    `json:"status_seq"`
		Attempt int    `json:"attempt"`
		Reason  string `json:"reason"`
	} `json:"data"`
}

// feed is one open stream of events.
type feed struct {
	events chan happening // closed when the stream has ended
	place  string         // the id of the first frame
	why    error          // set before events is closed, nil for an orderly end
	hangUp func()
}

// watch opens a stream that goes on behind the cursor, or begins now if that is "".
func (a *api) watch(t testing.TB, cursor string) *feed {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	req.Header.Set("Accept", "text/event-stream")
	if cursor != "" {
		req.Header.Set("Last-Event-ID", cursor)
	}
	transport := &http.Transport{}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the event stream: HTTP %d", resp.StatusCode)
	}
	f := &feed{events: make(chan happening, 100_000)}
	began, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(f.events)
		lines := bufio.NewScanner(resp.Body)
		var id, kind, data string
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				id = value
			case "event":
				kind = value
			case "data":
				data = value
			case "":
				if f.place == "" && id != "" {
					f.place = id
					close(began)
				}
				if data == "" {
					continue
				}
				var h happening
				if err := json.Unmarshal([]byte(data), &h); err != nil || h.ID != id || h.Type != kind || h.Type != "message."+h.Data.Status {
					f.why = fmt.Errorf("%w: a frame of id %q, event %q and data %s", err, id, kind, data)
					return
				}
				f.events <- h
				data = ""
			}
		}
		f.why = lines.Err()
	}()
	f.hangUp = sync.OnceFunc(func() {
		cancel()
		<-ended
		resp.Body.Close()
		transport.CloseIdleConnections()
	})
	t.Cleanup(f.hangUp)
	select {
	case <-began:
	case <-ended:
		t.Fatalf("the event stream ended before it began: %v", f.why)
	}
	return f
}

// record is what a business system has been told.
type record struct {
	messages map[string][]happening
	cursor   string // behind the last event
}

// add notes an event, which must be the next of its message.
func (r *record) add(t testing.TB, h happening) {
	t.Helper()
	told := r.messages[h.Data.ID]
	if want := len(told) + 2; h.Data.Seq != want {
		t.Fatalf("message %s: status_seq %d (%s), want %d, after %+v", h.Data.ID, h.Data.Seq, h.Data.Status, want, told)
	}
	r.messages[h.Data.ID] = append(told, h)
	r.cursor = h.ID
}

// until reads events until all of these messages have come to that status.
func (r *record) until(t testing.TB, f *feed, status string, ids ...string) {
	t.Helper()
	open := make(map[string]bool)
	for _, id := range ids {
		if told := r.messages[id]; len(told) == 0 || told[len(told)-1].Data.Status != status {
			open[id] = true
		}
	}
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	for len(open) > 0 {
		select {
		case h, ok := <-f.events:
			if !ok {
				t.Fatalf("the stream ended (%v); %d messages are not %s", f.why, len(open), status)
			}
			r.add(t, h)
			if h.Data.Status == status {
				delete(open, h.Data.ID)
			}
		case <-limit.C:
			t.Fatalf("%d of %d messages are not %s", len(open), len(ids), status)
		}
	}
}

// check compares what was told of the messages with their timelines.
func (r *record) check(t testing.TB, a *api, ids ...string) {
	t.Helper()
	for _, id := range ids {
		d, err := a.message(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		told := r.messages[id]
		for i, tr := range d.Timeline[1:] {
			if i >= len(told) || told[i].Data.Status != tr.Status || told[i].Data.Reason != tr.Reason || told[i].Data.Attempt != tr.Attempt ||
				!told[i].Time.Equal(tr.At) || told[i].Data.To != d.To {
				t.Fatalf("message %s: told of %+v, happened %+v", id, told, d.Timeline)
			}
		}
		if len(told) != len(d.Timeline)-1 {
			t.Fatalf("message %s: told of %+v, happened %+v", id, told, d.Timeline)
		}
	}
	if len(r.messages) != len(ids) {
		t.Fatalf("told of %d messages, %d were sent", len(r.messages), len(ids))
	}
}

func newRecord() *record { return &record{messages: make(map[string][]happening)} }

// otherKey is the key of a second business client, which secondClient brings into a data directory.
const otherKey = "esh_the-other-client-of-the-event-tests"

func secondClient(t *testing.T, dir string) { addClient(t, dir, "other", otherKey, esh3ar.TierGold) }

// addClient brings a client with that API key into a data directory that no server is using.
func addClient(t testing.TB, dir, id, secret string, tier esh3ar.Tier) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the store in %s: %v, %v", dir, files, err)
	}
	s, err := sqlite.Open(t.Context(), files[0], sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := esh3ar.Client{ID: id, Name: id, Tier: tier, Scopes: esh3ar.DefaultScopes, CreatedAt: time.Now()}
	if _, err := s.PutClient(t.Context(), client, store.AuditEntry{At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	key := esh3ar.APIKey{ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: id, CreatedAt: time.Now()}
	if err := s.PutKeys(t.Context(), []esh3ar.APIKey{key}, store.AuditEntry{At: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

// TestEventsTellEachClientItsOwn follows two clients who write to one recipient.
func TestEventsTellEachClientItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir).stop()
	secondClient(t, dir)
	s := start(t, dir)
	clients := []*api{s.api(), s.api()}
	clients[1].key = otherKey
	feeds := []*feed{clients[0].watch(t, ""), clients[1].watch(t, "")}
	newPhone(t, s, "alice", false)
	var ids [2][]string
	for i := range 30 {
		ids[i%2] = append(ids[i%2], clients[i%2].mustSend(t, outgoing{To: "alice", Content: fmt.Sprint(i)}).ID)
	}
	for i, a := range clients {
		r := newRecord()
		r.until(t, feeds[i], "delivered", ids[i]...)
		r.check(t, a, ids[i]...)

		// The same by pages, from the start.
		paged, q := newRecord(), url.Values{"from": {"start"}, "limit": {"7"}}
		for more := true; more; {
			var page struct {
				Events []happening `json:"events"`
				Next   string      `json:"next_cursor"`
				More   bool        `json:"more"`
			}
			if _, err := a.call(t.Context(), http.MethodGet, "/v1/events?"+q.Encode(), "", nil, &page); err != nil {
				t.Fatal(err)
			}
			for _, h := range page.Events {
				paged.add(t, h)
			}
			more, q = page.More, url.Values{"cursor": {page.Next}, "limit": {"7"}}
		}
		paged.check(t, a, ids[i]...)
	}
	s.stop()
	for _, f := range feeds {
		for h := range f.events {
			t.Errorf("%+v", h)
		}
		if f.why != nil {
			t.Errorf("a stream did not end in order: %v", f.why)
		}
	}
}

// TestEventsResume disconnects, kills the server and starts it again, and goes on each time behind the last
// event that it saw: it misses nothing, and is told nothing twice.
func TestEventsResume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir)
	a := s.api()
	r := newRecord()
	newPhone(t, s, "alice", false)
	var ids []string
	send := func(n int, to string) {
		for range n {
			ids = append(ids, a.mustSend(t, outgoing{To: to, Content: "x"}).ID)
		}
	}

	// A stream that is lost before its first event has told where it began.
	f := a.watch(t, "")
	f.hangUp()
	send(10, "alice")
	f = a.watch(t, f.place)
	r.until(t, f, "delivered", ids...)

	// Lost in the middle.
	send(40, "alice")
	for range 25 {
		r.add(t, <-f.events)
	}
	f.hangUp()
	send(5, "alice")
	f = a.watch(t, r.cursor)
	r.until(t, f, "delivered", ids...)

	for range 3 {
		// Killed with news under way, and with messages that wait.
		send(30, "alice")
		send(10, "bob")
		for range 20 {
			r.add(t, <-f.events)
		}
		s.kill()
		f.hangUp()
		s = start(t, dir)
		a = s.api()
		phone := newPhone(t, s, "alice", false)
		bob := newPhone(t, s, "bob", false)
		f = a.watch(t, r.cursor)
		r.until(t, f, "delivered", ids...)
		phone.hangUp()
		bob.hangUp()
		newPhone(t, s, "alice", false)
	}
	r.check(t, a, ids...)
	f.hangUp()
	s.stop()
}

// TestEventsOfASlowReader shows that a client which does not read holds up nobody, and finds everything
// when it comes back.
func TestEventsOfASlowReader(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	a := s.api()
	quick := a.watch(t, "")
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: esh3ar\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\n\r\n", apiKey)
	newPhone(t, s, "alice", false)
	var ids []string
	r := newRecord()
	for range 10 {
		batch := make([]outgoing, 200)
		for i := range batch {
			batch[i] = outgoing{To: "alice", Content: "x"}
		}
		results, err := a.sendBatch(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range results {
			ids = append(ids, res.ID)
		}
		r.until(t, quick, "delivered", ids...)
	}
	r.check(t, a, ids...)
	resumed := newRecord()
	resumed.until(t, a.watch(t, quick.place), "delivered", ids...)
	resumed.check(t, a, ids...)
	conn.Close()
	s.stop()
}

// TestTrace follows a traceparent from the request to the device and to every event, also over a restart of
// the server, and shows that nothing is made up where there is none.
func TestTrace(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	dir := t.TempDir()
	s := start(t, dir)
	a := s.api()
	began := a.watch(t, "").place
	send := func(body, trace string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/messages", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+a.key)
		if trace != "" {
			req.Header.Set("traceparent", trace)
		}
		resp, err := a.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var got receipt
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != http.StatusAccepted {
			t.Fatalf("HTTP %d, %v", resp.StatusCode, err)
		}
		return got.ID
	}
	want := map[string]string{}
	traced, untraced := send(`{"to":"alice","content":"x"}`, trace), send(`{"to":"alice","content":"y"}`, "")
	want[traced], want[untraced] = trace, ""
	r := newRecord()
	r.until(t, a.watch(t, began), "queued", traced, untraced)
	s.stop()

	s = start(t, dir)
	a = s.api()
	arrived := make(chan delivery, 2)
	d, err := dial(s.url, token(t, "alice", time.Hour), func(m delivery) { arrived <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer d.hangUp()
	for range 2 {
		m := <-arrived
		if m.TraceParent != want[m.ID] {
			t.Errorf("the device gets traceparent %q, want %q", m.TraceParent, want[m.ID])
		}
		if err := d.acknowledge(m.ID); err != nil {
			t.Fatal(err)
		}
	}
	r.until(t, a.watch(t, r.cursor), "delivered", traced, untraced)
	for id, told := range r.messages {
		for _, h := range told {
			if h.Trace != want[id] {
				t.Errorf("%s %s: traceparent %q, want %q", id, h.Data.Status, h.Trace, want[id])
			}
		}
	}
	r.check(t, a, traced, untraced)
	s.stop()
}

// TestEventProblems shows how cursors from elsewhere are refused.
func TestEventProblems(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	a := s.api()
	for query, want := range map[string]int{
		"cursor=nonsense": http.StatusBadRequest,
		"cursor=AQIUANuj": http.StatusBadRequest,
		"status=accepted": http.StatusBadRequest,
		"from=yesterday":  http.StatusBadRequest,
	} {
		var page any
		resp, err := a.call(t.Context(), http.MethodGet, "/v1/events?"+query, "", nil, &page)
		if p, ok := err.(*problem); !ok || p.HTTP != want || !p.Permanent {
			t.Errorf("%s: %v, %v", query, resp, err)
		}
	}
	stranger := s.api()
	stranger.key = "esh_nobody"
	if _, err := stranger.call(t.Context(), http.MethodGet, "/v1/events", "", nil, new(any)); !unauthorized(err) {
		t.Errorf("a stranger: %v", err)
	}
	s.stop()
}

// BenchmarkEventLatency measures, at 5,000 messages/s, the time from a device's acknowledgement until a
// business client that follows its events hears of it. Server, devices and clients share the machine.
func BenchmarkEventLatency(b *testing.B) {
	const (
		perSecond = 5000
		devices   = 200
	)
	asUsersRunIt(b)
	s := start(b, b.TempDir())
	a := s.api()
	acknowledged := s.notingDevices(b, devices)
	f := a.watch(b, "")
	b.ResetTimer()
	var latencies []time.Duration
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for h := range f.events {
			if h.Data.Status != "delivered" {
				continue
			}
			if at, ok := acknowledged.LoadAndDelete(h.Data.ID); ok {
				latencies = append(latencies, time.Since(at.(time.Time)))
			}
			if len(latencies) == b.N {
				return
			}
		}
	}()
	took := s.sendPaced(b, perSecond, devices)
	<-heard
	b.StopTimer()
	reportLatencies(b, latencies, took)
	b.ReportMetric(0, "ns/op")
	s.stop()
}

// TestBusinessHub follows events over SignalR and sees the server's goodbye.
func TestBusinessHub(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	a := s.api()
	connect := func(key string) (*signalr.Client, chan happening, error) {
		events := make(chan happening, 100)
		c, err := signalr.New(s.url+"/hubs/business", signalr.Options{
			AccessToken: func(context.Context) (string, error) { return key, nil },
			Reconnect:   signalr.NoReconnect,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.On("MessageStatusChanged", func(_ context.Context, call *signalr.Call) (any, error) {
			var h happening
			if err := call.Decode(0, &h); err != nil {
				t.Error(err)
			}
			events <- h
			return nil, nil
		})
		t.Cleanup(func() { _ = c.Close() }) // some have ended already
		return c, events, c.Start(t.Context())
	}
	_, _, err := connect("esh_nobody")
	if refused, ok := errors.AsType[*signalr.HTTPError](err); !ok || refused.Status != http.StatusUnauthorized {
		t.Errorf("a stranger: %v", err)
	}
	c, events, err := connect(apiKey)
	if err != nil {
		t.Fatal(err)
	}
	var begins string
	if err := c.Invoke(t.Context(), &begins, "Subscribe", nil); err != nil {
		t.Fatal(err)
	}
	newPhone(t, s, "alice", false)
	id := a.mustSend(t, outgoing{To: "alice", Content: "x"}).ID
	told := func(events chan happening) {
		t.Helper()
		r := newRecord()
		r.until(t, &feed{events: events}, "delivered", id)
		r.check(t, a, id)
	}
	told(events)
	c2, again, err := connect(apiKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := c2.Invoke(t.Context(), nil, "Subscribe", begins); err != nil {
		t.Fatal(err)
	}
	told(again)
	s.stop()
	<-c.Done()
	<-c2.Done()
}
