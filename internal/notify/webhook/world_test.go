package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/notify"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

const testShards = 2

// patience is far above what anything takes here: reaching it is a failure.
const patience = 20 * time.Second

// retention is that of the world's events.
const retention = 30 * 24 * time.Hour

// world is a service over a real store, with a committer for each shard.
type world struct {
	testing.TB
	store  *sqlite.Store
	notify *notify.Service
	*Service

	opts Options
	stop func()

	mu     sync.Mutex
	ids    esh3ar.IDs
	epochs [testShards]store.Epoch
	ord    uint64
}

// loopback allows what the tests' receivers listen on.
func loopback() Addresses {
	return Addresses{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
}

// newWorld returns a running world. Retries are quick unless changed.
func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	w := &world{TB: t}
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	for shard := range w.epochs {
		claim, err := w.store.Claim(t.Context(), uint16(shard))
		if err != nil {
			t.Fatal(err)
		}
		w.epochs[shard] = claim.Epoch
	}
	w.opts = Options{
		Store: w.store, Retention: retention, Addresses: loopback(), WatchEvery: time.Hour,
		Backoff:      Backoff{Base: 5 * time.Millisecond, Cap: 20 * time.Millisecond},
		BreakerPause: 5 * time.Millisecond,
		Logger:       slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&w.opts)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts a service over the store, as a server does.
func (w *world) start() {
	w.Helper()
	var err error
	if w.notify, err = notify.New(notify.Options{
		Store: w.store, Shards: testShards, WatchEvery: time.Hour, Logger: w.opts.Logger,
		Problem: func(err error) (int, []byte) { return 0, fmt.Appendf(nil, "%q", err) },
	}); err != nil {
		w.Fatal(err)
	}
	o := w.opts
	o.Events = w.notify
	if w.Service, err = New(o); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{w.notify.Run, w.Service.Run} {
		running.Go(func() {
			if err := run(ctx); !errors.Is(err, context.Canceled) {
				w.Errorf("Run: %v", err)
			}
		})
	}
	w.stop = func() {
		cancel()
		running.Wait()
		w.stop = func() {}
	}
}

// restart stops the service and starts another one over the same store.
func (w *world) restart() {
	w.Helper()
	w.stop()
	w.start()
}

// life is the life of a message that is delivered at once: three events are told of it.
func life() []esh3ar.Status {
	return []esh3ar.Status{esh3ar.StatusQueued, esh3ar.StatusSent, esh3ar.StatusDelivered}
}

// message stores, in one write, a message that went through the statuses, and announces it.
func (w *world) message(client string, statuses ...esh3ar.Status) esh3ar.ID {
	w.Helper()
	return w.messages(client, 1, statuses...)[0]
}

func (w *world) messages(client string, n int, statuses ...esh3ar.Status) []esh3ar.ID {
	w.Helper()
	ids := make([]esh3ar.ID, n)
	for i := range ids {
		ids[i] = w.ids.New(time.Now(), 0)
	}
	w.commit(client, ids, statuses...)
	return ids
}

// messageOf is message with an id that the test knows before.
func (w *world) messageOf(id esh3ar.ID, client string, statuses ...esh3ar.Status) {
	w.Helper()
	w.commit(client, []esh3ar.ID{id}, statuses...)
}

func (w *world) commit(client string, ids []esh3ar.ID, statuses ...esh3ar.Status) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	shard := uint16(w.ord % testShards) // which the id does not say here
	b := &store.Batch{Shard: shard, Epoch: w.epochs[shard], At: now}
	for _, id := range ids {
		w.ord++
		state := esh3ar.NewState(now)
		for _, s := range statuses {
			if !state.Move(s, now, esh3ar.ReasonNone) {
				w.Fatalf("%v cannot become %v", state.Status, s)
			}
		}
		b.Changes = append(b.Changes, store.Change{
			Message: &esh3ar.Message{ID: id, Client: client, To: "+962791234567", Content: "x", AcceptedAt: now, TraceParent: traceParent},
			State:   state, Ord: w.ord,
		})
	}
	if err := w.store.Commit(context.Background(), b); err != nil {
		w.Error(err)
	}
	w.notify.Committed(shard)
}

const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// call makes a request of the API as a client, and returns the answer, or how it was refused.
func (w *world) call(client, method, path, body string) (*httptest.ResponseRecorder, error) {
	w.Helper()
	mux := http.NewServeMux()
	var refused error
	served := false
	for _, route := range w.Routes() {
		mux.HandleFunc(route.Pattern, func(rw http.ResponseWriter, r *http.Request) {
			served = true
			refused = route.Serve(rw, r, Caller{Client: client, Actor: client + "/key", Address: "192.0.2.7"})
		})
	}
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, httptest.NewRequestWithContext(w.Context(), method, path, strings.NewReader(body)))
	if !served {
		w.Fatalf("%s %s: no such route", method, path)
	}
	return rec, refused
}

// ask makes a request that must succeed and reads the answer.
func (w *world) ask(method, path, body string, answer any) {
	w.Helper()
	rec, err := w.call("c", method, path, body)
	if err != nil {
		w.Fatalf("%s %s: %v", method, path, err)
	}
	if answer == nil {
		return
	}
	if err := json.Unmarshal(rec.Body.Bytes(), answer); err != nil {
		w.Fatalf("%s %s: %v in %s", method, path, err, rec.Body)
	}
}

// create creates a webhook and returns its id and its secret.
func (w *world) create(url, more string) view {
	w.Helper()
	var v view
	w.ask(http.MethodPost, "/v1/webhooks", `{"url":"`+url+`"`+more+`}`, &v)
	if v.ID == "" || v.Secret == "" || v.URL != url || v.Status != "enabled" {
		w.Fatalf("created: %+v", v)
	}
	return v
}

func (w *world) show(id string) view {
	w.Helper()
	var v view
	w.ask(http.MethodGet, "/v1/webhooks/"+id, "", &v)
	return v
}

// log returns the log of a webhook, newest first.
func (w *world) log(id string) []delivery {
	w.Helper()
	var page struct {
		Deliveries []delivery `json:"deliveries"`
	}
	w.ask(http.MethodGet, "/v1/webhooks/"+id+"/deliveries?limit=200", "", &page)
	return page.Deliveries
}

// eventually waits until something holds.
func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			w.Fatal("never happened: " + what)
		}
	}
}

// told is an event as a receiver got it.
type told struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Data struct {
		ID  string `json:"id"`
		Seq uint32 `json:"status_seq"`
	} `json:"data"`
	SpecVersion string `json:"specversion"`
}

// got is one request that a receiver got.
type got struct {
	at     time.Time
	code   int // of the answer, 0 for none
	header http.Header
	body   []byte
	events []told
}

// receiver is a webhook receiver, on a real listener unless the test brings its own.
type receiver struct {
	testing.TB
	url string
	// answer answers the n-th request, n ≥ 1, whose signature was found right. Nil answers 200.
	answer func(n int, w http.ResponseWriter, r *http.Request, g got)

	mu      sync.Mutex
	secrets []string
	all     []got
	news    chan struct{}
}

func newReceiver(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request, g got)) *receiver {
	t.Helper()
	r := &receiver{TB: t, answer: answer, news: make(chan struct{}, 1)}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// knows tells the receiver a secret that it takes; without any it does not look at signatures.
func (r *receiver) knows(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, secret)
}

// ServeHTTP verifies a request with a library that is not ours.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	g := got{at: time.Now(), header: req.Header.Clone()}
	var err error
	if g.body, err = io.ReadAll(req.Body); err != nil {
		r.Errorf("reading a request: %v", err)
	}
	if bytes.HasPrefix(g.body, []byte("[")) {
		err = json.Unmarshal(g.body, &g.events)
	} else {
		g.events = make([]told, 1)
		err = json.Unmarshal(g.body, &g.events[0])
	}
	if err != nil {
		r.Errorf("request with %s: %v", g.body, err)
	}
	r.mu.Lock()
	for _, secret := range r.secrets {
		v, err := standardwebhooks.NewWebhook(secret)
		if err == nil {
			err = v.Verify(g.body, req.Header)
		}
		if err != nil {
			r.Errorf("a request that does not verify: %v", err)
		}
	}
	r.all = append(r.all, g)
	n := len(r.all)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
	if r.answer != nil {
		r.answer(n, &answering{ResponseWriter: w, r: r, n: n}, req, g)
	}
	r.answered(n, http.StatusOK)
}

// answered notes the first answer to the n-th request, before its sender gets to know it.
func (r *receiver) answered(n, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := &r.all[n-1]; g.code == 0 {
		g.code = code
	}
}

// answering notes what is answered.
type answering struct {
	http.ResponseWriter
	r *receiver
	n int
}

// WriteHeader implements http.ResponseWriter.
func (a *answering) WriteHeader(code int) {
	a.r.answered(a.n, code)
	a.ResponseWriter.WriteHeader(code)
}

// inOrder makes sure that no event was posted before the earlier ones of its message were accepted, or
// came before it in the same request.
func inOrder(t testing.TB, r *receiver) {
	t.Helper()
	accepted := map[string]uint32{} // the highest, by message
	for _, g := range r.requests() {
		inside := map[string]uint32{}
		for _, e := range g.events {
			id := e.Data.ID
			if e.Data.Seq > max(accepted[id], inside[id], 1)+1 {
				t.Fatalf("event %d of message %s, of which %d is accepted", e.Data.Seq, id, accepted[id])
			}
			inside[id] = e.Data.Seq
		}
		if g.code >= 200 && g.code <= 299 {
			for id, seq := range inside {
				accepted[id] = max(accepted[id], seq)
			}
		}
	}
}

func (r *receiver) requests() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]got(nil), r.all...)
}

// await waits for the first n requests.
func (r *receiver) await(n int) []got {
	r.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		if all := r.requests(); len(all) >= n {
			return all
		}
		select {
		case <-r.news:
		case <-deadline.C:
			r.Fatalf("%d requests of %d", len(r.requests()), n)
		}
	}
}
