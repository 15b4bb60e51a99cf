package ingest

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
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/apidoc"
	"github.com/esh3artech/esh3ar/internal/devicetoken"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	aliceKey   = "esh_alice"   // of a client that may mint tokens
	bobKey     = "esh_bob"     // of one that may not
	revokedKey = "esh_revoked" // of Bob, not valid any more
)

// service is an API behind a real HTTP server, over a journal in memory and a real store. What lies in
// the journal gets into the store when the test calls settle.
type service struct {
	t       *testing.T
	api     *API
	url     string
	http    *http.Client
	log     *memory.Log
	store   *sqlite.Store
	tokens  *devicetoken.HS256
	claims  []store.Claim
	logged  *syncBuffer
	metrics *prometheus.Registry

	mu         sync.Mutex
	failAppend error // what the journal's next appends fail with
}

const testShards = 4

// syncBuffer is a buffer that may be written and read at one time.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newService(t *testing.T, change ...func(*Options)) *service {
	t.Helper()
	s := &service{t: t, logged: new(syncBuffer), metrics: prometheus.NewRegistry()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{})
	must(err)
	t.Cleanup(func() { s.store.Close() })
	for _, c := range []esh3ar.Client{
		{ID: "alice", Name: "Alice's shop", Tier: esh3ar.TierGold, Scopes: esh3ar.AllScopes, CreatedAt: testNow},
		{ID: "bob", Name: "Bob", Tier: esh3ar.TierBronze, Scopes: esh3ar.DefaultScopes, CreatedAt: testNow},
	} {
		_, err = s.store.PutClient(t.Context(), c, store.AuditEntry{At: testNow})
		must(err)
	}
	for _, k := range []esh3ar.APIKey{
		{ID: "a", Hash: esh3ar.HashKey(aliceKey), Client: "alice", CreatedAt: testNow},
		{ID: "b", Hash: esh3ar.HashKey(bobKey), Client: "bob", CreatedAt: testNow},
		{ID: "r", Hash: esh3ar.HashKey(revokedKey), Client: "bob", CreatedAt: testNow, RevokedAt: testNow},
	} {
		must(s.store.PutKeys(t.Context(), []esh3ar.APIKey{k}, store.AuditEntry{At: testNow}))
	}
	s.claims = make([]store.Claim, testShards)
	for i := range s.claims {
		s.claims[i], err = s.store.Claim(t.Context(), uint16(i))
		must(err)
	}

	s.log, err = memory.Open(new(memory.Disk), memory.Options{Shards: testShards, Fail: func(op string, _ journal.Partition) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if op == memory.OpAppend {
			return s.failAppend
		}
		return nil
	}})
	must(err)
	t.Cleanup(func() { s.log.Close() })
	appender, err := journal.NewAppender(s.log, journal.AppenderOptions{Shards: testShards, Tiers: esh3ar.Tiers})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- appender.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})

	s.tokens, err = devicetoken.NewHS256([]byte("secret"), nil)
	must(err)
	o := Options{
		Keys: s.store, Journal: appender, Messages: s.store, Operator: noOperator{}, Auditor: s.store, Tokens: s.tokens, Shards: testShards,
		Usage: s.store, IdempotencyWindow: 24 * time.Hour, Metrics: s.metrics, Log: slog.New(slog.NewTextHandler(s.logged, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	s.api, err = New(o)
	must(err)
	srv := httptest.NewServer(s.api)
	t.Cleanup(srv.Close)
	s.url, s.http = srv.URL, srv.Client()
	return s
}

// fail makes the appends fail with err, or succeed with nil.
func (s *service) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failAppend = err
}

// noOperator is for tests that change nothing.
type noOperator struct{ Operator }

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request with Alice's key and JSON unless headers, name and value in turn, say otherwise;
// an empty value takes a header away.
func (s *service) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+aliceKey)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	return s.send(r)
}

func (s *service) send(r *http.Request) answer {
	s.t.Helper()
	resp, err := s.http.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// decode reads the JSON of an answer into v, which must have a field for everything.
func (s *service) decode(a answer, v any) {
	s.t.Helper()
	if want := "application/json"; a.header.Get("Content-Type") != want {
		s.t.Fatalf("content type %q of %s", a.header.Get("Content-Type"), a.body)
	}
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		s.t.Fatalf("%v in %s", err, a.body)
	}
}

type receiptJSON struct {
	ID         esh3ar.ID `json:"id"`
	Status     string    `json:"status"`
	To         string    `json:"to"`
	AcceptedAt time.Time `json:"accepted_at"`
}

// accept posts a message that must be accepted.
func (s *service) accept(body string, headers ...string) receiptJSON {
	s.t.Helper()
	a := s.do(http.MethodPost, "/v1/messages", body, headers...)
	if a.status != http.StatusAccepted {
		s.t.Fatalf("%d %s", a.status, a.body)
	}
	var r receiptJSON
	s.decode(a, &r)
	if got, want := a.header.Get("Location"), "/v1/messages/"+r.ID.String(); got != want {
		s.t.Fatalf("location %q, want %q", got, want)
	}
	return r
}

// problemJSON is a problem document as clients read it.
type problemJSON struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	Permanent bool   `json:"permanent"`
	Errors    []struct {
		Pointer   *string `json:"pointer"`
		Parameter *string `json:"parameter"`
		Code      string  `json:"code"`
		Detail    string  `json:"detail"`
	} `json:"errors"`
}

// wantProblem fails the test unless the answer is a problem with that status and code.
func (s *service) wantProblem(a answer, status int, code string) problemJSON {
	s.t.Helper()
	var p problemJSON
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		s.t.Fatalf("%v in %s", err, a.body)
	}
	wantType := "/problems/" + strings.ReplaceAll(code, "_", "-")
	if a.status != status || p.Status != status || p.Code != code || p.Type != wantType || p.Title == "" || p.Detail == "" {
		s.t.Fatalf("%d %s, want %d %s", a.status, a.body, status, code)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		s.t.Fatalf("content type %q", ct)
	}
	if waits := a.header.Get("Retry-After") != ""; waits == p.Permanent && status != http.StatusRequestTimeout && status != 500 {
		s.t.Fatalf("permanent is %t with Retry-After %q", p.Permanent, a.header.Get("Retry-After"))
	}
	return p
}

// records returns the messages of the journal, by shard and tier and in order.
func (s *service) records() (all []esh3ar.Message, places []journal.Partition) {
	s.t.Helper()
	for shard := range uint16(testShards) {
		for tier := range uint8(esh3ar.Tiers) {
			p := journal.Partition{Shard: shard, Tier: tier}
			last, err := s.log.Last(s.t.Context(), p)
			if err != nil {
				s.t.Fatal(err)
			}
			r, err := s.log.Read(s.t.Context(), p, 0)
			if err != nil {
				s.t.Fatal(err)
			}
			for seq := uint64(0); seq < last; {
				e, err := r.Next(s.t.Context())
				if err != nil {
					s.t.Fatal(err)
				}
				seq = e.Seq
				for rec, err := range journal.Records(e.Data) {
					var m esh3ar.Message
					if err == nil {
						err = record.DecodeMessage(rec, &m)
					}
					if err != nil {
						s.t.Fatal(err)
					}
					all, places = append(all, m), append(places, p)
				}
			}
			r.Close()
		}
	}
	return all, places
}

// settle stores what lies in the journal, in the state that edit, which may be nil, makes of it.
func (s *service) settle(edit func(*esh3ar.Message, *esh3ar.State)) {
	s.t.Helper()
	all, places := s.records()
	for i := range all {
		state := esh3ar.NewState(all[i].AcceptedAt)
		state.Move(esh3ar.StatusQueued, all[i].AcceptedAt.Add(time.Millisecond), esh3ar.ReasonRecipientOffline)
		if edit != nil {
			edit(&all[i], &state)
		}
		shard := places[i].Shard
		err := s.store.Commit(s.t.Context(), &store.Batch{
			Shard: shard, Epoch: s.claims[shard].Epoch, At: testNow,
			Changes: []store.Change{{Message: &all[i], State: state, Ord: uint64(i + 1)}},
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestAccept(t *testing.T) {
	s := newService(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	before := time.Now().Truncate(time.Microsecond)
	r := s.accept(`{"to":"00962 79 123 4567","content":"héllo","type":"otp","metadata":{"order":"42"},"ttl":300}`, "Traceparent", parent)
	if r.Status != "accepted" || r.To != "+962791234567" || r.AcceptedAt.Before(before) || r.AcceptedAt.After(time.Now()) || r.ID.Version() != 7 {
		t.Errorf("%+v", r)
	}
	all, places := s.records()
	if len(all) != 1 {
		t.Fatalf("%d records", len(all))
	}
	m := all[0]
	if m.ID != r.ID || m.Client != "alice" || m.From != "Alice's shop" || m.Tier != esh3ar.TierGold || m.To != r.To || m.Type != "otp" ||
		m.Content != "héllo" || m.Metadata["order"] != "42" || !m.AcceptedAt.Equal(r.AcceptedAt) ||
		!m.ExpiresAt.Equal(r.AcceptedAt.Add(5*time.Minute)) || m.Key != "" || m.TraceParent != parent {
		t.Errorf("%+v", m)
	}
	if want := esh3ar.ShardOf(m.To, testShards); places[0] != (journal.Partition{Shard: want, Tier: uint8(esh3ar.TierGold)}) || m.ID.Shard() != want {
		t.Errorf("lies at %+v, the id says shard %d, want %d", places[0], m.ID.Shard(), want)
	}
	if v := s.metric("esh3ar_messages_accepted_total", "gold"); v != 1 {
		t.Errorf("%v accepted", v)
	}
}

// metric returns the value of a counter, or of the one with that label.
func (s *service) metric(name, label string) (v float64) {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				v += m.GetCounter().GetValue()
			}
		}
	}
	return v
}

func TestAcceptTakesChunkedBodies(t *testing.T) {
	s := newService(t)
	body := `{"to":"alice","content":"` + strings.Repeat("x", 10_000) + `"}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/messages", io.MultiReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "bearer "+aliceKey)
	if a := s.send(r); a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
	r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/messages", io.MultiReader(strings.NewReader(strings.Repeat(" ", 100_000))))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+aliceKey)
	s.wantProblem(s.send(r), http.StatusRequestEntityTooLarge, "body_too_large")
}

func TestSizeLimit(t *testing.T) {
	s := newService(t)
	frame := `{"to":"alice","content":""}`
	largest := `{"to":"alice","content":"` + strings.Repeat("x", esh3ar.MaxMessageBytes-len(frame)) + `"}`
	s.accept(largest)
	p := s.wantProblem(s.do(http.MethodPost, "/v1/messages", largest+" "), http.StatusRequestEntityTooLarge, "body_too_large")
	if !p.Permanent {
		t.Error("not permanent")
	}
}

func TestBadMessagesOverHTTP(t *testing.T) {
	s := newService(t)
	for _, c := range badMessages {
		a := s.do(http.MethodPost, "/v1/messages", c.text)
		list := strings.Split(c.want, ", ")
		code, _, _ := strings.Cut(list[0], " ")
		if len(list) > 1 {
			code = "invalid_fields"
		}
		p := s.wantProblem(a, http.StatusBadRequest, code)
		if strings.Contains(c.want, " ") && len(p.Errors) != len(list) {
			t.Errorf("%s: %d errors in %s", c.name, len(p.Errors), a.body)
		}
	}
	if all, _ := s.records(); len(all) != 0 {
		t.Errorf("%d records of refused messages", len(all))
	}
	if log := s.logged.String(); log != "" {
		t.Errorf("callers' mistakes are logged:\n%s", log)
	}
}

func TestIncompleteBody(t *testing.T) {
	s := newService(t)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(`{"to":`))
	r.ContentLength = 100
	r.Header.Set("Authorization", "Bearer "+aliceKey)
	s.api.ServeHTTP(w, r)
	s.wantProblem(answer{w.Code, w.Header(), w.Body.String()}, http.StatusBadRequest, "body_incomplete")
}

func TestSlowBody(t *testing.T) {
	s := newService(t)
	srv := httptest.NewUnstartedServer(s.api)
	srv.Config.ReadTimeout = 50 * time.Millisecond
	srv.Start()
	defer srv.Close()
	body, hold := io.Pipe()
	defer hold.Close()
	go hold.Write([]byte(`{"to":`)) // the rest never comes
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v1/messages", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+aliceKey)
	s.wantProblem(s.send(r), http.StatusRequestTimeout, "body_timeout")
}

func TestContentTypes(t *testing.T) {
	s := newService(t)
	for ct, ok := range map[string]bool{
		"":                                   true,
		"application/json":                   true,
		"application/json; charset=utf-8":    true,
		"Application/JSON;charset=\"UTF-8\"": true,
		"text/json":                          true,
		"application/vnd.shop+json":          true,
		"application/json; charset=utf-16":   false,
		"text/plain":                         false,
		"application/x-www-form-urlencoded":  false,
		"multipart/form-data; boundary=x":    false,
		"application/":                       false,
		";":                                  false,
	} {
		a := s.do(http.MethodPost, "/v1/messages", `{"to":"alice","content":"hi"}`, "Content-Type", ct)
		if ok && a.status != http.StatusAccepted {
			t.Errorf("%q: %d %s", ct, a.status, a.body)
		} else if !ok {
			s.wantProblem(a, http.StatusUnsupportedMediaType, "unsupported_media_type")
		}
	}
}

func TestAuthentication(t *testing.T) {
	s := newService(t)
	for _, c := range []struct{ header, code string }{
		{"", "api_key_missing"},
		{"Bearer", "bad_authorization"},
		{"Bearer ", "bad_authorization"},
		{"Basic dXNlcjpwYXNz", "bad_authorization"},
		{aliceKey, "bad_authorization"},
		{"Bearer esh_wrong", "api_key_unknown"},
		{"Bearer " + aliceKey + "x", "api_key_unknown"},
		{"Bearer " + strings.Repeat("x", 1000), "api_key_unknown"},
		{"Bearer " + revokedKey, "api_key_revoked"},
	} {
		for _, route := range []struct{ method, path string }{
			{http.MethodPost, "/v1/messages"}, {http.MethodPost, "/v1/messages/batch"}, {http.MethodPost, "/v1/recipient-tokens"},
			{http.MethodGet, "/v1/messages"}, {http.MethodGet, "/v1/messages/0198c0de-7a1b-7c3d-8e4f-0123456789ab"},
		} {
			a := s.do(route.method, route.path, "", "Authorization", c.header)
			s.wantProblem(a, http.StatusUnauthorized, c.code)
			if a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s: no WWW-Authenticate", route.method, route.path)
			}
			if strings.Contains(a.body, "wrong") {
				t.Errorf("the key is in the answer: %s", a.body)
			}
		}
	}
	if log := s.logged.String(); log != "" {
		t.Errorf("wrong keys are logged:\n%s", log)
	}
}

func TestRouting(t *testing.T) {
	s := newService(t)
	for _, c := range []struct{ method, path, allow string }{
		{http.MethodPut, "/v1/messages", "GET, HEAD, POST"},
		{http.MethodGet, "/v1/messages/batch", "POST"},
		{http.MethodGet, "/v1/recipient-tokens", "POST"},
		{http.MethodPost, "/v1/messages/0198c0de-7a1b-7c3d-8e4f-0123456789ab", "DELETE, GET, HEAD"},
	} {
		a := s.do(c.method, c.path, "")
		s.wantProblem(a, http.StatusMethodNotAllowed, "method_not_allowed")
		if a.header.Get("Allow") != c.allow {
			t.Errorf("%s %s allows %q", c.method, c.path, a.header.Get("Allow"))
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/messages/a/b", "/v2/messages", "/v1/message"} {
		s.wantProblem(s.do(http.MethodGet, path, ""), http.StatusNotFound, "no_such_route")
	}
}

func TestAppendFailures(t *testing.T) {
	s := newService(t)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{journal.ErrUnknown, 503, "outcome_unknown"},
		{fmt.Errorf("stream: %w", journal.ErrFull), 507, "journal_full"},
		{journal.ErrOverloaded, 503, "overloaded"},
		{journal.ErrUnavailable, 503, "journal_unavailable"},
		{journal.ErrClosed, 503, "journal_unavailable"},
		{errors.New("sector 7 at /dev/sda"), 500, "internal"},
	} {
		s.fail(c.err)
		a := s.do(http.MethodPost, "/v1/messages", `{"to":"alice","content":"hi"}`)
		p := s.wantProblem(a, c.status, c.code)
		if p.Permanent || strings.Contains(a.body, "sda") {
			t.Errorf("%s", a.body)
		}
		if c.status != 500 && a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.code)
		}
	}
	for range 50 {
		s.do(http.MethodPost, "/v1/messages", `{"to":"alice","content":"hi"}`)
	}
	log := s.logged.String()
	if strings.Count(log, "\n") != 2 || strings.Count(log, "level=WARN") != 1 || strings.Count(log, "level=ERROR") != 1 {
		t.Errorf("want one line of each level, got:\n%s", log)
	}
	s.fail(nil)
	s.accept(`{"to":"alice","content":"hi"}`)
}

// TestLevels: an error is what an operator must look at, and ordinary answers are not logged at all.
func TestLevels(t *testing.T) {
	rows, err := apidoc.Problems()
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range ordinary {
		if !slices.ContainsFunc(rows, func(p apidoc.Problem) bool { return p.Code == code && p.Status == http.StatusServiceUnavailable }) {
			t.Errorf("%s is no code of a 503", code)
		}
	}
	unavailable := func(code string) error { return esh3ar.Errorf(esh3ar.KindUnavailable, code, "try again") }
	for _, c := range []struct {
		err  error
		want slog.Level
	}{
		{errors.New("a defect"), slog.LevelError},
		{appendError(journal.ErrFull), slog.LevelError},
		{appendError(journal.ErrUnavailable), slog.LevelWarn},
		{appendError(journal.ErrUnknown), slog.LevelWarn},
		{appendError(journal.ErrOverloaded), slog.LevelDebug},
		{readError(errors.New("connection refused")), slog.LevelWarn},
		{readError(context.DeadlineExceeded), slog.LevelWarn},
		{readError(context.Canceled), slog.LevelDebug},
		{unavailable("message_not_stored_yet"), slog.LevelDebug},
		{unavailable("stopping"), slog.LevelDebug},
		{noRoute(), slog.LevelDebug},
		{unknownKey(), slog.LevelDebug},
	} {
		p := problemOf(c.err)
		if level := levelOf(&p, c.err); level != c.want {
			t.Errorf("%v: %v, want %v", c.err, level, c.want)
		}
	}
}

// panicking is a journal that panics.
type panicking struct{ Journal }

func (panicking) Append(context.Context, journal.Partition, []byte) error { panic("a defect") }

func TestPanicIsContained(t *testing.T) {
	s := newService(t, func(o *Options) { o.Journal = panicking{o.Journal} })
	a := s.do(http.MethodPost, "/v1/messages", `{"to":"alice","content":"hi"}`)
	s.wantProblem(a, http.StatusInternalServerError, "internal")
	if strings.Contains(a.body, "defect") || !strings.Contains(s.logged.String(), "a defect") {
		t.Errorf("answer %s, log %s", a.body, s.logged)
	}
}

func TestIdempotency(t *testing.T) {
	s := newService(t)
	const body, other = `{"to":"alice","content":"hi"}`, `{"to":"alice","content":"ho"}`
	first := s.accept(body, "Idempotency-Key", "order-1")
	if first.ID.Version() != 8 {
		t.Errorf("id %s of a key without a time", first.ID)
	}
	for _, c := range []struct{ body, key string }{
		{body, "order-1"},
		{body, `"order-1"`},
		{` { "content" : "hi" , "to" : "alice" } `, "order-1"},
	} {
		if again := s.accept(c.body, "Idempotency-Key", c.key); again != first {
			t.Errorf("%s under %s: %+v, first %+v", c.body, c.key, again, first)
		}
	}
	p := s.wantProblem(s.do(http.MethodPost, "/v1/messages", other, "Idempotency-Key", "order-1"), http.StatusUnprocessableEntity, "idempotency_key_reused")
	if !p.Permanent {
		t.Error("not permanent")
	}
	if bobs := s.accept(body, "Idempotency-Key", "order-1", "Authorization", "Bearer "+bobKey); bobs.ID == first.ID {
		t.Error("two clients share a key")
	}
	if all, _ := s.records(); len(all) != 2 {
		t.Errorf("%d records", len(all))
	}
	if n := s.metric("esh3ar_messages_repeated_total", ""); n != 3 {
		t.Errorf("%v repeated", n)
	}

	// Another process, or one that has forgotten, finds the first in the store.
	s.settle(nil)
	s.api.recent = newRecentKeys(16)
	if again := s.accept(body, "Idempotency-Key", "order-1"); again != first {
		t.Errorf("from the store: %+v, first %+v", again, first)
	}
	s.wantProblem(s.do(http.MethodPost, "/v1/messages", other, "Idempotency-Key", "order-1"), http.StatusUnprocessableEntity, "idempotency_key_reused")
}

func TestIdempotencyKeyThatIsATime(t *testing.T) {
	s := newService(t)
	var ids esh3ar.IDs
	key := ids.New(time.Now().Add(-time.Hour), 0)
	r := s.accept(`{"to":"alice","content":"hi"}`, "Idempotency-Key", key.String())
	if r.ID.Version() != 7 || !r.ID.Time().Equal(key.Time()) {
		t.Errorf("id %s of key %s", r.ID, key)
	}
}

func TestBadIdempotencyKeys(t *testing.T) {
	s := newService(t)
	for key, code := range map[string]string{
		strings.Repeat("k", 256): "idempotency_key_length",
		"clé":                    "idempotency_key_not_ascii",
		"a\tb":                   "idempotency_key_not_ascii",
	} {
		s.wantProblem(s.do(http.MethodPost, "/v1/messages", `{"to":"alice","content":"hi"}`, "Idempotency-Key", key), http.StatusBadRequest, code)
	}
	s.accept(`{"to":"alice","content":"hi"}`, "Idempotency-Key", strings.Repeat("k", 255))
	h := http.Header{"Idempotency-Key": {"a", "b"}}
	if _, err := headerKey(h); asError(err).Code != "idempotency_key_twice" {
		t.Errorf("two keys: %v", err)
	}
	if _, err := headerKey(http.Header{"Idempotency-Key": {""}}); asError(err).Code != "idempotency_key_length" {
		t.Errorf("empty key: %v", err)
	}
	// NUL cannot come in a header; in a batch it can.
	if _, err := idempotencyKey("a\x00"); asError(err).Code != "idempotency_key_not_ascii" {
		t.Errorf("NUL: %v", err)
	}
}

// forgetful is Messages whose look-ups of keys fail.
type forgetful struct{ noMessages }

func (forgetful) Idempotent(ctx context.Context, _, _ string) (store.Remembered, error) {
	<-ctx.Done()
	return store.Remembered{}, ctx.Err()
}

func TestKeyLookupFailureStillAccepts(t *testing.T) {
	s := newService(t, func(o *Options) { o.Messages = forgetful{}; o.RecentKeys = 1 })
	const body = `{"to":"alice","content":"hi"}`
	first := s.accept(body, "Idempotency-Key", "order-1")
	// What is remembered in memory is pushed out, so that the look-up fails for the copy as well.
	s.api.recent = newRecentKeys(16)
	if again := s.accept(body, "Idempotency-Key", "order-1"); again.ID != first.ID {
		t.Errorf("copies have the ids %s and %s", first.ID, again.ID)
	}
	all, _ := s.records()
	for _, m := range all {
		if !m.Unchecked || m.Key != "order-1" {
			t.Errorf("%+v does not say that it is unchecked", m)
		}
	}
	if n := s.metric("esh3ar_idempotency_lookup_failures_total", ""); n != 2 || len(all) != 2 {
		t.Errorf("%v failures, %d records", n, len(all))
	}
}

func TestFailedAppendIsNotRemembered(t *testing.T) {
	s := newService(t)
	const body = `{"to":"alice","content":"hi"}`
	s.fail(journal.ErrUnavailable)
	s.wantProblem(s.do(http.MethodPost, "/v1/messages", body, "Idempotency-Key", "k"), 503, "journal_unavailable")
	s.fail(nil)
	s.accept(body, "Idempotency-Key", "k")
	if all, _ := s.records(); len(all) != 1 {
		t.Errorf("%d records", len(all))
	}
}

type messageJSON struct {
	ID            esh3ar.ID         `json:"id"`
	Status        string            `json:"status"`
	StatusSeq     int               `json:"status_seq"`
	Attempts      int               `json:"attempts"`
	To            string            `json:"to"`
	From          string            `json:"from"`
	Type          string            `json:"type"`
	Content       *string           `json:"content"`
	Data          json.RawMessage   `json:"data"`
	Metadata      map[string]string `json:"metadata"`
	AcceptedAt    time.Time         `json:"accepted_at"`
	SendAt        *time.Time        `json:"send_at"`
	ExpiresAt     *time.Time        `json:"expires_at"`
	NextAttemptAt *time.Time        `json:"next_attempt_at"`
	Timeline      []struct {
		Status    string    `json:"status"`
		StatusSeq int       `json:"status_seq"`
		At        time.Time `json:"at"`
		Attempt   int       `json:"attempt"`
		Reason    string    `json:"reason"`
	} `json:"timeline"`
}

func TestShow(t *testing.T) {
	s := newService(t)
	r := s.accept(`{"to":"alice","data":{"a":[1,"\u0000"]},"type":"x","metadata":{"b":"\"2\"","a":"1"},"ttl":3600}`)
	a := s.do(http.MethodGet, "/v1/messages/"+r.ID.String(), "")
	s.wantProblem(a, http.StatusNotFound, "message_not_found") // this service asks nobody but the store
	next := r.AcceptedAt.Add(5 * time.Second)
	s.settle(func(m *esh3ar.Message, st *esh3ar.State) {
		st.Attempts = 1
		st.Move(esh3ar.StatusSent, m.AcceptedAt.Add(2*time.Millisecond), esh3ar.ReasonNone)
		st.Move(esh3ar.StatusQueued, m.AcceptedAt.Add(time.Second), esh3ar.ReasonAckTimeout)
		st.NotBefore = next
	})
	a = s.do(http.MethodGet, "/v1/messages/"+strings.ToUpper(r.ID.String()), "")
	if a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	var m messageJSON
	s.decode(a, &m)
	if m.ID != r.ID || m.Status != "queued" || m.StatusSeq != 4 || m.Attempts != 1 || m.To != "alice" || m.From != "Alice's shop" ||
		m.Type != "x" || m.Content != nil || string(m.Data) != `{"a":[1,"\u0000"]}` || m.Metadata["b"] != `"2"` ||
		!m.AcceptedAt.Equal(r.AcceptedAt) || m.SendAt != nil || !m.ExpiresAt.Equal(r.AcceptedAt.Add(time.Hour)) || !m.NextAttemptAt.Equal(next) {
		t.Errorf("%s", a.body)
	}
	if tl := m.Timeline; len(tl) != 4 || tl[0].Status != "accepted" || tl[1].Reason != "recipient_offline" || tl[2].Attempt != 1 ||
		tl[3].Reason != "ack_timeout" || tl[3].StatusSeq != 4 {
		t.Errorf("timeline %+v", m.Timeline)
	}
	s.wantProblem(s.do(http.MethodGet, "/v1/messages/"+r.ID.String(), "", "Authorization", "Bearer "+bobKey), http.StatusNotFound, "message_not_found")
	s.wantProblem(s.do(http.MethodGet, "/v1/messages/latest", ""), http.StatusBadRequest, "bad_id")
	s.wantProblem(s.do(http.MethodGet, "/v1/messages/"+r.ID.String()+"?expand=all", ""), http.StatusBadRequest, "unknown_parameter")
	if a := s.do(http.MethodHead, "/v1/messages/"+r.ID.String(), ""); a.status != http.StatusOK || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}

// failing is Messages that fails with one error.
type failing struct {
	noMessages
	err error
}

func (f failing) Message(context.Context, string, esh3ar.ID) (store.Row, error) {
	return store.Row{}, f.err
}
func (f failing) Messages(context.Context, store.Query) (store.Page, error) {
	return store.Page{}, f.err
}

func TestReadFailures(t *testing.T) {
	for _, c := range []struct {
		err  error
		code string
	}{
		{errors.New("connection refused to db.internal"), "store_unavailable"},
		{esh3ar.Errorf(esh3ar.KindUnavailable, "not_known_yet", "ask again").After(1500 * time.Millisecond), "not_known_yet"},
		{context.DeadlineExceeded, "timeout"},
	} {
		s := newService(t, func(o *Options) { o.Messages = failing{err: c.err} })
		for _, path := range []string{"/v1/messages", "/v1/messages/0198c0de-7a1b-7c3d-8e4f-0123456789ab"} {
			a := s.do(http.MethodGet, path, "")
			s.wantProblem(a, http.StatusServiceUnavailable, c.code)
			if strings.Contains(a.body, "db.internal") {
				t.Errorf("internals in %s", a.body)
			}
			if c.code == "not_known_yet" && a.header.Get("Retry-After") != "2" {
				t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
			}
		}
	}
}

func TestList(t *testing.T) {
	s := newService(t)
	var ids []string
	for i := range 7 {
		to := "alice"
		if i%2 == 1 {
			to = "+962791234567"
		}
		ids = append(ids, s.accept(fmt.Sprintf(`{"to":%q,"content":"secret","metadata":{"n":"%d"}}`, to, i)).ID.String())
	}
	s.accept(`{"to":"alice","content":"bob's"}`, "Authorization", "Bearer "+bobKey)
	s.settle(func(m *esh3ar.Message, st *esh3ar.State) {
		if m.Metadata["n"] == "0" {
			st.Move(esh3ar.StatusDelivered, m.AcceptedAt, esh3ar.ReasonNone)
		}
	})
	list := func(query string) (got []string, next string) {
		t.Helper()
		a := s.do(http.MethodGet, "/v1/messages"+query, "")
		var page struct {
			Messages []messageJSON `json:"messages"`
			Next     string        `json:"next_cursor"`
		}
		if a.status != http.StatusOK {
			t.Fatalf("%s: %d %s", query, a.status, a.body)
		}
		s.decode(a, &page)
		if strings.Contains(a.body, "secret") {
			t.Errorf("a payload in the list: %s", a.body)
		}
		for _, m := range page.Messages {
			got = append(got, m.ID.String())
		}
		return got, page.Next
	}
	same := func(query string, got []string, want ...string) {
		t.Helper()
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	// Newest first.
	all := []string{ids[6], ids[5], ids[4], ids[3], ids[2], ids[1], ids[0]}
	got, next := list("")
	same("all", got, all...)
	if next != "" {
		t.Errorf("the last page has a cursor")
	}
	got = nil
	for query := "?limit=3"; ; {
		page, next := list(query)
		got = append(got, page...)
		if next == "" {
			break
		}
		query = "?limit=3&cursor=" + url.QueryEscape(next)
	}
	same("by pages", got, all...)
	got, _ = list("?to=%2B962791234567")
	same("to", got, ids[5], ids[3], ids[1])
	got, _ = list("?to=+962791234567")
	same("to, plus not encoded", got, ids[5], ids[3], ids[1])
	got, _ = list("?to=00962-79-1234567")
	same("to, normalised", got, ids[5], ids[3], ids[1])
	got, _ = list("?status=delivered")
	same("status", got, ids[0])
	got, _ = list("?until=2020-01-01T00:00:00Z")
	same("until", got)
	got, _ = list("?from=2020-01-01T00:00:00Z&to=nobody")
	same("nobody", got)
	got, _ = list("?limit=&cursor=&to=nobody&status=&from=&until=")
	same("parameters without values", got)
}

func TestBadQueries(t *testing.T) {
	s := newService(t)
	for query, want := range map[string]string{
		"?limit=0":                             "bad_limit limit",
		"?limit=201":                           "bad_limit limit",
		"?limit=ten":                           "bad_limit limit",
		"?status=lost":                         "unknown_status status",
		"?from=yesterday":                      "bad_time from",
		"?until=2026":                          "bad_time until",
		"?to=%00":                              "recipient_control_character to",
		"?to=a&to=b":                           "duplicate_parameter to",
		"?offset=10":                           "unknown_parameter offset",
		"?cursor=" + strings.Repeat("x", 2000): "bad_cursor cursor",
	} {
		code, parameter, _ := strings.Cut(want, " ")
		p := s.wantProblem(s.do(http.MethodGet, "/v1/messages"+query, ""), http.StatusBadRequest, code)
		if len(p.Errors) != 1 || p.Errors[0].Parameter == nil || *p.Errors[0].Parameter != parameter || p.Errors[0].Pointer != nil {
			t.Errorf("%s: %+v", query, p.Errors)
		}
	}
	s.wantProblem(s.do(http.MethodGet, "/v1/messages?limit=0&offset=1", ""), http.StatusBadRequest, "invalid_fields")
	s.wantProblem(s.do(http.MethodGet, "/v1/messages?a=%zz", ""), http.StatusBadRequest, "malformed_query")
	a := s.do(http.MethodGet, "/v1/messages?cursor=forged", "")
	if a.status != http.StatusBadRequest {
		t.Errorf("forged cursor: %d %s", a.status, a.body)
	}
}

func TestMintToken(t *testing.T) {
	s := newService(t)
	a := s.do(http.MethodPost, "/v1/recipient-tokens", `{"sub":"00962 79 123 4567","ttl":60}`)
	var minted struct {
		Token     string    `json:"token"`
		Sub       string    `json:"sub"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.decode(a, &minted)
	claims, err := s.tokens.Verify(minted.Token)
	if err != nil || claims.Subject != "+962791234567" || minted.Sub != claims.Subject || !claims.ExpiresAt.Equal(minted.ExpiresAt) {
		t.Errorf("%+v, %+v, %v", minted, claims, err)
	}
	if a := s.do(http.MethodPost, "/v1/recipient-tokens", `{"sub":"x"}`); a.status != http.StatusOK {
		t.Errorf("without a ttl: %d %s", a.status, a.body)
	}
	for body, code := range map[string]string{
		`{}`:                                "recipient_missing",
		`{"sub":null}`:                      "recipient_missing",
		`{"sub":""}`:                        "recipient_empty",
		`{"sub":7}`:                         "wrong_type",
		`{"sub":"a\u0000"}`:                 "recipient_control_character",
		`{"sub":"a","ttl":0}`:               "duration_too_short",
		`{"sub":"a","ttl":"x"}`:             "wrong_type",
		`{"sub":"a","ttl":2592001}`:         "token_ttl",
		`{"sub":"a","ttl":1e99}`:            "not_whole_seconds",
		`{"sub":"a","sub":"b"}`:             "duplicate_field",
		`{"sub":"a","role":"admin"}`:        "unknown_field",
		`{"sub":"a"`:                        "malformed_json",
		`[]`:                                "not_an_object",
		``:                                  "body_empty",
		`{"sub":"","ttl":0,"role":"admin"}`: "invalid_fields",
	} {
		s.wantProblem(s.do(http.MethodPost, "/v1/recipient-tokens", body), http.StatusBadRequest, code)
	}
	s.wantProblem(s.do(http.MethodPost, "/v1/recipient-tokens", `{"sub":"`+strings.Repeat("x", 5000)+`"}`), http.StatusRequestEntityTooLarge, "body_too_large")
	s.wantProblem(s.do(http.MethodPost, "/v1/recipient-tokens", `{"sub":"a"}`, "Authorization", "Bearer "+bobKey), http.StatusForbidden, "scope_missing")
	elsewhere := newService(t, func(o *Options) { o.Tokens = nil })
	elsewhere.wantProblem(elsewhere.do(http.MethodPost, "/v1/recipient-tokens", `{"sub":"a"}`), http.StatusForbidden, "tokens_not_minted_here")
}

func TestTraceParent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for in, want := range map[string]string{
		good:                   good,
		"":                     "",
		good[:54]:              "",
		good + "-x":            "", // version 00 has no more
		"cc" + good[2:] + "-x": good,
		"cc" + good[2:]:        good,
		"cc" + good[2:] + "x":  "",
		"ff" + good[2:]:        "",
		strings.ToUpper(good):  "",
		"00-" + strings.Repeat("0", 32) + good[35:]: "",
		good[:36] + strings.Repeat("0", 16) + "-01": "",
		strings.Replace(good, "-", "_", 2):          "",
	} {
		h := http.Header{}
		if in != "" {
			h.Set("Traceparent", in)
		}
		if got := traceParent(h); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Keys: oneKey{}, Journal: noJournal{}, Messages: noMessages{}, Operator: noOperator{}, Auditor: struct{ Auditor }{}, Shards: 1}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Options){
		"Keys":              func(o *Options) { o.Keys = nil },
		"Journal":           func(o *Options) { o.Journal = nil },
		"Messages":          func(o *Options) { o.Messages = nil },
		"Operator":          func(o *Options) { o.Operator = nil },
		"shards":            func(o *Options) { o.Shards = 0 },
		"IdempotencyWindow": func(o *Options) { o.IdempotencyWindow = -1 },
		"RecentKeys":        func(o *Options) { o.RecentKeys = -1 },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := prometheus.NewRegistry()
	good.Metrics = r
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	if _, err := New(good); err == nil {
		t.Error("the same metrics twice")
	}
}
