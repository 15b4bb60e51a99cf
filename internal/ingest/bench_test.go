package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	benchKey  = "esh_benchmark"
	ratedKey  = "esh_ratelimit" // of a client that may send two messages at once, and then one a second
	quotaKey  = "esh_dailylimi" // of one that may send two a day
	benchBody = `{"to":"+962791234567","type":"otp","content":"Your code is 482913. It is valid for five minutes; do not share it with anyone."}`
)

// oneKey is Keys with a single client without limits, and one for each kind of limit.
type oneKey struct{}

func (oneKey) ClientByKey(_ context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	c := esh3ar.Client{ID: "bench", Name: "Benchmark", Tier: esh3ar.TierSilver, Scopes: esh3ar.AllScopes}
	switch hash {
	case esh3ar.HashKey(benchKey):
	case esh3ar.HashKey(ratedKey):
		c.ID, c.Rate, c.Burst = "rated", 1, 2
	case esh3ar.HashKey(quotaKey):
		c.ID, c.DailyQuota = "quota", 2
	default:
		return esh3ar.APIKey{}, esh3ar.Client{}, store.ErrNotFound
	}
	return esh3ar.APIKey{Hash: hash, Client: c.ID}, c, nil
}

func (oneKey) TouchKeys(context.Context, map[[32]byte]time.Time) error { return nil }

// noJournal takes every record and keeps none.
type noJournal struct{}

func (noJournal) Append(context.Context, journal.Partition, []byte) error { return nil }
func (noJournal) AppendAll(context.Context, []journal.Item)               {}

// noMessages knows of no message.
type noMessages struct{}

func (noMessages) Message(context.Context, string, esh3ar.ID) (store.Row, error) {
	return store.Row{}, store.ErrNotFound
}
func (noMessages) Messages(context.Context, store.Query) (store.Page, error) {
	return store.Page{}, nil
}
func (noMessages) Idempotent(context.Context, string, string) (store.Remembered, error) {
	return store.Remembered{}, store.ErrNotFound
}

func benchAPI(tb testing.TB) *API {
	tb.Helper()
	a, err := New(Options{Keys: oneKey{}, Journal: noJournal{}, Messages: noMessages{}, Operator: struct{ Operator }{}, Auditor: struct{ Auditor }{}, Shards: 2, IdempotencyWindow: 24 * time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// nobody is a response writer that drops what it is given.
type nobody struct {
	header http.Header
	status int
}

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n *nobody) WriteHeader(status int)      { n.status = status }

// body is a request body that can be read again.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

func benchHandler(b *testing.B, h http.Handler, path, text string, header http.Header, want int) {
	b.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1"+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header, r.ContentLength = header, int64(len(text))
	var rd body
	r.Body = &rd
	w := &nobody{header: make(http.Header)}
	raw := []byte(text)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		rd.Reset(raw)
		clear(w.header)
		h.ServeHTTP(w, r)
		if w.status != want {
			b.Fatalf("status %d", w.status)
		}
	}
}

func jsonHeader() http.Header {
	return http.Header{"Authorization": {"Bearer " + benchKey}, "Content-Type": {"application/json"}}
}

func BenchmarkAccept(b *testing.B) {
	benchHandler(b, benchAPI(b), "/v1/messages", benchBody, jsonHeader(), http.StatusAccepted)
}

// Every message has the same key, so that all but the first are repetitions.
func BenchmarkAcceptRepeated(b *testing.B) {
	h := jsonHeader()
	h.Set("Idempotency-Key", "0198c0de-7a1b-7c3d-8e4f-0123456789ab")
	benchHandler(b, benchAPI(b), "/v1/messages", benchBody, h, http.StatusAccepted)
}

func BenchmarkAcceptBatch100(b *testing.B) {
	text := `{"messages":[` + string(bytes.TrimSuffix(bytes.Repeat([]byte(benchBody+","), 100), []byte(","))) + `]}`
	benchHandler(b, benchAPI(b), "/v1/messages/batch", text, jsonHeader(), http.StatusAccepted)
}

// BenchmarkBareHandler is what the accept path is measured against: decode with encoding/json, answer.
func BenchmarkBareHandler(b *testing.B) {
	benchHandler(b, http.HandlerFunc(bareHandler), "/v1/messages", benchBody, jsonHeader(), http.StatusAccepted)
}

func bareHandler(w http.ResponseWriter, r *http.Request) {
	var m struct {
		To       string            `json:"to"`
		Type     string            `json:"type"`
		Content  string            `json:"content"`
		Data     json.RawMessage   `json:"data"`
		Metadata map[string]string `json:"metadata"`
		TTL      int64             `json:"ttl"`
		SendAt   *time.Time        `json:"send_at"`
	}
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func BenchmarkDecode(b *testing.B) {
	data := `{"to":"+962791234567","data":{"order":[1,2,3],"total":12.5e1,"note":"caf\u00e9"},"metadata":{"trace":"abc","kind":"x"},"ttl":3600,"send_at":"2026-11-25T08:30:00Z"}`
	long, _ := json.Marshal(map[string]string{"to": "alice", "content": string(bytes.Repeat([]byte("A text of some length. "), 2600))})
	for _, c := range []struct{ name, text string }{{"text", benchBody}, {"data", data}, {"60KiB", string(long)}} {
		text, now := []byte(c.text), time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
		b.Run(c.name, func(b *testing.B) {
			var d decoder
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if err := d.read(text, now, false); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/encoding-json", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var m struct {
					To, Type, Content string
					Data              json.RawMessage
					Metadata          map[string]string
					TTL               int64
					SendAt            string `json:"send_at"`
				}
				if err := json.Unmarshal(text, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncodeRecord(b *testing.B) {
	var d decoder
	now := time.Now()
	if err := d.read([]byte(benchBody), now, false); err != nil {
		b.Fatal(err)
	}
	var m esh3ar.Message
	d.fill(&m, now)
	m.Client, m.From = "bench", "Benchmark"
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = record.AppendMessage(buf[:0], &m)
	}
}
