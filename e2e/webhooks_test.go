package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// hook is a webhook with its receiver, which keeps what it accepted.
type hook struct {
	id     string
	server *httptest.Server
	// answer, if set, decides about a request; 0 is 200.
	answer func(n int) int
	told   func(h happening) // if set, is told of each event that was accepted

	mu       sync.Mutex
	verifier *standardwebhooks.Webhook
	n        int
	accepted map[string][]int  // status_seq in the order they came, by message
	wrong    string            // what was wrong with a request
	trace    map[string]string // traceparent, by message
}

// hooked makes a webhook for the client, with these further fields.
func (a *api) hooked(t testing.TB, fields map[string]any, answer func(n int) int, told func(happening)) *hook {
	t.Helper()
	h := &hook{answer: answer, told: told, accepted: make(map[string][]int), trace: make(map[string]string)}
	h.server = httptest.NewServer(h)
	t.Cleanup(h.server.Close)
	in := map[string]any{"url": h.server.URL}
	for k, v := range fields {
		in[k] = v
	}
	var out struct{ ID, Secret string }
	resp, err := a.call(t.Context(), http.MethodPost, "/v1/webhooks", "", in, &out)
	if err != nil || resp.StatusCode != http.StatusCreated || resp.Header.Get("Location") != "/v1/webhooks/"+out.ID {
		t.Fatalf("creating a webhook: %v, %+v", err, resp)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.id = out.ID
	if h.verifier, err = standardwebhooks.NewWebhook(out.Secret); err != nil {
		t.Fatal(err)
	}
	return h
}

// ServeHTTP takes a request as a careful receiver does.
func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the server was killed
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.verifier.Verify(body, r.Header); err != nil {
		h.wrong = fmt.Sprintf("a request does not verify: %v", err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var events []happening
	if bytes.HasPrefix(body, []byte("[")) {
		err = json.Unmarshal(body, &events)
	} else {
		events = make([]happening, 1)
		err = json.Unmarshal(body, &events[0])
	}
	if err != nil {
		h.wrong = fmt.Sprintf("a body that is not events: %v: %s", err, body)
	}
	h.n++
	if h.answer != nil {
		if code := h.answer(h.n); code != 0 {
			w.WriteHeader(code)
			return
		}
	}
	for _, e := range events {
		h.accepted[e.Data.ID] = append(h.accepted[e.Data.ID], e.Data.Seq)
		h.trace[e.Data.ID] = r.Header.Get("Traceparent")
		if h.told != nil {
			h.told(e)
		}
	}
}

// has reports whether every event of the message up to that one was accepted.
func (h *hook) has(id string, seq int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.accepted[id], seq)
}

// check compares what was accepted with the messages' own timelines.
func (h *hook) check(t testing.TB, a *api, ids ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong != "" {
		t.Error(h.wrong)
	}
	for _, id := range ids {
		d, err := a.message(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		highest := 1 // accepted is not told
		for _, seq := range h.accepted[id] {
			if seq > highest+1 {
				t.Errorf("message %s: events %v", id, h.accepted[id])
			}
			highest = max(highest, seq)
		}
		if highest != len(d.Timeline) {
			t.Errorf("message %s: events %v, timeline %v", id, h.accepted[id], d.statuses())
		}
	}
}

// TestWebhooksOverCrashes: every event of every message reaches the receiver, in order, while it fails now
// and then and the server is killed.
func TestWebhooksOverCrashes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// A killed server's right to post ends with its next start, since it is the same node.
	args := []string{"--webhook-allow", "127.0.0.0/8", "--webhook-timeout", "2s"}
	s := start(t, dir, args...)
	a := s.api()
	h := a.hooked(t, map[string]any{"batch_max": 5}, func(n int) int {
		if n%5 == 2 && n < 40 {
			return http.StatusServiceUnavailable
		}
		return 0
	}, nil)
	newPhone(t, s, "alice", false)
	var ids []string
	send := func() {
		for i := range 40 {
			ids = append(ids, a.mustSend(t, outgoing{To: []string{"alice", "nobody"}[i%2], Content: "x"}).ID)
		}
	}
	send()
	for range 2 {
		s.kill()
		s = start(t, dir, args...)
		a = s.api()
		newPhone(t, s, "alice", false)
		send()
	}
	for i, id := range ids {
		last := "delivered"
		if i%2 == 1 {
			last = "queued"
		}
		s.awaitStatus(a, id, last)
	}
	s.await("every event at the webhook", func() bool {
		for _, id := range ids {
			d, err := a.message(t.Context(), id)
			if err != nil || !h.has(id, len(d.Timeline)) {
				return false
			}
		}
		return true
	})
	h.check(t, a, ids...)
	s.stop()
}

// TestWebhookCarriesTheTrace: the traceparent of a message's request reaches the receiver, and private
// addresses are refused where nobody has allowed them.
func TestWebhookCarriesTheTrace(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	a := s.api()
	_, err := a.call(t.Context(), http.MethodPost, "/v1/webhooks", "", map[string]any{"url": "http://127.0.0.1:1/"}, nil)
	if p, ok := err.(*problem); !ok || p.Code != "https_required" || p.HTTP != http.StatusBadRequest {
		t.Errorf("a loopback address: %v", err)
	}
	s.stop()
	s = start(t, t.TempDir(), "--webhook-allow", "127.0.0.0/8")
	a = s.api()
	h := a.hooked(t, nil, nil, nil)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	body := bytes.NewReader([]byte(`{"to":"nobody","content":"x"}`))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/messages", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", trace)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var sent receipt
	if err := json.NewDecoder(resp.Body).Decode(&sent); err != nil {
		t.Fatal(err)
	}
	s.await("the event", func() bool { return h.has(sent.ID, 2) })
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := h.trace[sent.ID]; len(got) != len(trace) || got[:35] != trace[:35] {
		t.Errorf("traceparent %q", got)
	}
}

// BenchmarkWebhookLatency measures, at 5,000 messages/s, the time from a device's acknowledgement until a
// webhook's receiver has the event, in batches of up to 100. Server, devices, senders and receiver share the
// machine.
func BenchmarkWebhookLatency(b *testing.B) {
	for _, run := range []struct{ perSecond, batch int }{{5000, 100}, {1000, 1}} {
		b.Run(fmt.Sprintf("%d/s,batch=%d", run.perSecond, run.batch), func(b *testing.B) { webhookLatency(b, run.perSecond, run.batch) })
	}
}

func webhookLatency(b *testing.B, perSecond, batch int) {
	const devices = 200
	asUsersRunIt(b)
	s := start(b, b.TempDir(), "--webhook-allow", "127.0.0.0/8")
	a := s.api()
	acknowledged := s.notingDevices(b, devices)
	var latencies []time.Duration
	heard := make(chan struct{})
	a.hooked(b, map[string]any{"types": []string{"message.delivered"}, "batch_max": batch}, nil, func(h happening) {
		if at, ok := acknowledged.LoadAndDelete(h.Data.ID); ok {
			if latencies = append(latencies, time.Since(at.(time.Time))); len(latencies) == b.N {
				close(heard)
			}
		}
	})
	b.ResetTimer()
	took := s.sendPaced(b, perSecond, devices)
	<-heard
	b.StopTimer()
	reportLatencies(b, latencies, took)
	b.ReportMetric(0, "ns/op")
	s.stop()
}
