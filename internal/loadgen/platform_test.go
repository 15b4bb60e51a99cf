package loadgen

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/devicetoken"
	"github.com/esh3artech/esh3ar/signalr"
)

// platform is a small messaging platform in memory that keeps its promises, but for the faults that a
// test gives it.
type platform struct {
	t      *testing.T
	url    string
	tokens *devicetoken.HS256
	ids    esh3ar.IDs
	faults faults

	mu     sync.Mutex
	n      int // messages accepted so far
	boxes  map[string]*box
	status map[string]string
	acks   int
	looks  int     // at its metrics
	look   float64 // processor time that each costs, in seconds
}

// faults are what goes wrong: each with every so manyth message, 0 for never.
type faults struct {
	lose, reorder, repeat, refuse, hangUp, deliverRefused, otherID int
}

func hits(every, n int) bool { return every > 0 && n%every == every-1 }

// box is what waits for a recipient.
type box struct {
	conns   []*signalr.Conn
	waiting []*signalr.Message
	held    *signalr.Message // to be overtaken by the next one
}

const platformSecret = "a secret of the tests' own platform"

func startPlatform(t *testing.T, f faults) *platform {
	t.Helper()
	tokens, err := devicetoken.NewHS256([]byte(platformSecret), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{t: t, tokens: tokens, faults: f, boxes: map[string]*box{}, status: map[string]string{}}
	srv, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := srv.NewHub(signalr.HubOptions{
		Authenticate: func(r *http.Request) (signalr.Identity, error) {
			c, err := tokens.Verify(signalr.AccessToken(r))
			return signalr.Identity{UserID: c.Subject}, err
		},
		OnConnected: func(_ context.Context, c *signalr.Conn) error { return p.attach(c) },
		OnDisconnected: func(c *signalr.Conn, _ error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			b := p.box(c.UserID())
			for i := range b.conns {
				if b.conns[i] == c {
					b.conns = append(b.conns[:i:i], b.conns[i+1:]...)
					return
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	hub.Handle("AcknowledgeMessages", signalr.Action1(func(_ context.Context, _ *signalr.Conn, ids []string) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.acks += len(ids)
		return nil
	}))
	mux := http.NewServeMux()
	hub.Mount(mux, "/hubs/mobile")
	mux.HandleFunc("POST /v1/messages", p.accept)
	mux.HandleFunc("POST /v1/messages/batch", p.acceptBatch)
	mux.HandleFunc("GET /v1/messages/{id}", p.show)
	mux.HandleFunc("POST /v1/recipient-tokens", p.mint)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		fmt.Fprintf(w, "# TYPE x histogram\nx_seconds_bucket{le=\"0.5\"} %d\nx_seconds_bucket{le=\"+Inf\"} %d\nx_seconds_count %d\n", p.n, p.n, p.n)
		devices := 0
		for _, b := range p.boxes {
			devices += len(b.conns)
		}
		fmt.Fprintf(w, "process_resident_memory_bytes %d\n", platformMemory+devices*deviceMemory)
		p.looks++
		cpu := float64(p.n)*platformCPU/1e6 + float64(p.looks)*p.look
		fmt.Fprintf(w, "esh3ar_messages_accepted_total %d\nprocess_cpu_seconds_total %f\n", p.n, cpu)
	})
	p.url = serve(t, mux, srv)
	return p
}

// What the platform says it takes, for each device and, in microseconds, for each message.
const (
	platformMemory = 1 << 20
	deviceMemory   = 1 << 10
	platformCPU    = 1_000_000
)

// serve serves until the test's end, hubs included, and returns the URL.
func serve(t testing.TB, mux *http.ServeMux, srv *signalr.Server) string {
	web := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutting the hub down: %v", err)
		}
		web.Close()
	})
	return web.URL
}

func (p *platform) target() Target { return Target{URL: p.url, APIKey: "esh_test"} }

func (p *platform) box(to string) *box {
	b := p.boxes[to]
	if b == nil {
		b = &box{}
		p.boxes[to] = b
	}
	return b
}

func (p *platform) attach(c *signalr.Conn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.box(c.UserID())
	b.conns = append(b.conns, c)
	for _, m := range b.waiting {
		if err := c.Send(m); err != nil {
			return err
		}
	}
	b.waiting = nil
	return nil
}

type incoming struct{ To, Content string }

// take accepts one message or says why not. A status of 0 means that the connection shall break.
func (p *platform) take(in incoming) (id string, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.n
	p.n++
	now := time.Now().UTC()
	id = p.ids.New(now, 0).String()
	told := id
	if hits(p.faults.otherID, n) {
		told = p.ids.New(now, 0).String()
	}
	p.status[told] = "delivered"
	b := p.box(in.To)
	send := func() {
		content, _ := json.Marshal(in.Content)
		m := signalr.NewMessage("ReceiveMessage", signalr.RawJSON(fmt.Sprintf(
			`{"id":"%s","from":"test","content":%s,"accepted_at":"%s","attempt":1}`, id, content, now.Format(time.RFC3339Nano))))
		messages := []*signalr.Message{m}
		switch {
		case b.held != nil:
			messages, b.held = []*signalr.Message{m, b.held}, nil
		case hits(p.faults.reorder, n):
			b.held = m
			return
		case hits(p.faults.repeat, n):
			messages = []*signalr.Message{m, m}
		}
		if len(b.conns) == 0 {
			b.waiting = append(b.waiting, messages...)
		}
		for _, c := range b.conns {
			for _, m := range messages {
				_ = c.Send(m) // an error means that the connection has ended
			}
		}
	}
	switch {
	case hits(p.faults.hangUp, n):
		return "", 0
	case hits(p.faults.refuse, n):
		if p.faults.deliverRefused > 0 {
			send()
		}
		return "", http.StatusServiceUnavailable
	case hits(p.faults.lose, n):
		p.status[told] = "queued"
	default:
		send()
	}
	return told, http.StatusAccepted
}

const overloaded = `{"title":"Not available now","status":503,"code":"overloaded","permanent":false}`

func (p *platform) accept(w http.ResponseWriter, r *http.Request) {
	var in incoming
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		p.t.Errorf("a request that does not decode: %v", err)
	}
	switch id, status := p.take(in); status {
	case 0:
		panic(http.ErrAbortHandler)
	case http.StatusAccepted:
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"id":"%s","status":"accepted"}`, id)
	default:
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(status)
		fmt.Fprint(w, overloaded)
	}
}

func (p *platform) acceptBatch(w http.ResponseWriter, r *http.Request) {
	var in struct{ Messages []incoming }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		p.t.Errorf("a batch that does not decode: %v", err)
	}
	var results []string
	for _, m := range in.Messages {
		if id, status := p.take(m); status == http.StatusAccepted {
			results = append(results, fmt.Sprintf(`{"status":202,"id":"%s"}`, id))
		} else {
			results = append(results, `{"status":503,"problem":`+overloaded+`}`)
		}
	}
	w.WriteHeader(http.StatusMultiStatus)
	fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ","))
}

func (p *platform) show(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	status := p.status[r.PathValue("id")]
	p.mu.Unlock()
	if status == "" {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"status":404,"code":"message_not_found","permanent":true}`)
		return
	}
	fmt.Fprintf(w, `{"id":"%s","status":"%s"}`, r.PathValue("id"), status)
}

func (p *platform) mint(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Sub string
		TTL int64
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		p.t.Errorf("a request for a token that does not decode: %v", err)
	}
	token, expires, err := p.tokens.Mint(in.Sub, time.Duration(in.TTL)*time.Second)
	if err != nil {
		p.t.Errorf("minting a token: %v", err)
	}
	fmt.Fprintf(w, `{"token":"%s","expires_at":"%s"}`, token, expires.Format(time.RFC3339))
}
