package ingest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
)

type resultJSON struct {
	Status     int          `json:"status"`
	ID         esh3ar.ID    `json:"id"`
	To         string       `json:"to"`
	AcceptedAt time.Time    `json:"accepted_at"`
	Problem    *problemJSON `json:"problem"`
}

// batch posts a batch that must be answered message by message.
func (s *service) batch(status int, messages ...string) []resultJSON {
	s.t.Helper()
	a := s.do(http.MethodPost, "/v1/messages/batch", `{"messages":[`+strings.Join(messages, ",")+`]}`)
	if a.status != status {
		s.t.Fatalf("%d %s", a.status, a.body)
	}
	var out struct {
		Results []resultJSON `json:"results"`
	}
	s.decode(a, &out)
	if len(out.Results) != len(messages) {
		s.t.Fatalf("%d results for %d messages", len(out.Results), len(messages))
	}
	for i, r := range out.Results {
		if (r.Status == http.StatusAccepted) != (r.Problem == nil) || r.Problem != nil && r.Problem.Status != r.Status {
			s.t.Errorf("result %d: %+v", i, r)
		}
	}
	return out.Results
}

func TestBatch(t *testing.T) {
	s := newService(t)
	var texts []string
	for i := range esh3ar.MaxBatch {
		texts = append(texts, fmt.Sprintf(`{"to":"user-%d","content":"%d","metadata":{"n":"%d"}}`, i%7, i, i))
	}
	results := s.batch(http.StatusAccepted, texts...)
	all, _ := s.records()
	byID := make(map[esh3ar.ID]esh3ar.Message)
	last := make(map[string]int) // of each recipient, in the order of the journal
	for _, m := range all {
		byID[m.ID] = m
		var n int
		fmt.Sscan(m.Content, &n)
		if before, ok := last[m.To]; ok && n < before {
			t.Errorf("%s gets %d before %d", m.To, before, n)
		}
		last[m.To] = n
	}
	for i, r := range results {
		m := byID[r.ID]
		if m.Content != fmt.Sprint(i) || m.To != r.To || !m.AcceptedAt.Equal(r.AcceptedAt) || m.Metadata["n"] != fmt.Sprint(i) {
			t.Fatalf("result %d %+v, record %+v", i, r, m)
		}
	}
	if len(byID) != esh3ar.MaxBatch {
		t.Errorf("%d records", len(byID))
	}
	if n := s.metric("esh3ar_messages_accepted_total", "gold"); n != esh3ar.MaxBatch {
		t.Errorf("%v accepted", n)
	}
	if n := s.api.batchBytes.Load(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

func TestBatchAnswersEachMessage(t *testing.T) {
	s := newService(t)
	good := `{"to":"alice","content":"hi"}`
	large := `{"to":"alice","content":"` + strings.Repeat("x", esh3ar.MaxMessageBytes) + `"}`
	results := s.batch(http.StatusMultiStatus,
		good, `{"to":"","content":"hi"}`, good, large, `7`, `"text"`, `null`, `[]`, `{}`, `{"to":"alice","content":"`+"\xff"+`"}`,
		`{"to":"alice","data":`+strings.Repeat("[", 99)+strings.Repeat("]", 99)+`}`, good,
		`{"to":"alice","content":"hi","idempotency_key":""}`, `{"to":"alice","content":"hi","idempotency_key":5}`)
	for i, want := range []string{"", "recipient_empty", "", "message_too_large", "not_an_object", "not_an_object", "not_an_object", "not_an_object",
		"invalid_fields", "invalid_utf8", "too_deep", "", "idempotency_key_length", "wrong_type"} {
		got := ""
		if p := results[i].Problem; p != nil {
			got = p.Code
		}
		if got != want {
			t.Errorf("message %d: %q, want %q", i, got, want)
		}
	}
	if results[1].Problem.Errors[0].Pointer == nil || *results[1].Problem.Errors[0].Pointer != "/to" {
		t.Errorf("pointer: %+v", results[1].Problem)
	}
	if all, _ := s.records(); len(all) != 3 {
		t.Errorf("%d records", len(all))
	}
}

// A batch that is refused as a whole has accepted nothing.
func TestBadBatches(t *testing.T) {
	s := newService(t)
	good := `{"to":"alice","content":"hi"}`
	for _, c := range []struct {
		name, body string
		status     int
		code       string
	}{
		{"empty body", ``, 400, "body_empty"},
		{"white space", " \n ", 400, "body_empty"},
		{"not an object", `[` + good + `]`, 400, "not_an_object"},
		{"null for all", `null`, 400, "not_an_object"},
		{"a number for all", ` 7`, 400, "not_an_object"},
		{"no JSON", `?`, 400, "malformed_json"},
		{"empty object", `{}`, 400, "messages_missing"},
		{"null", `{"messages":null}`, 400, "wrong_type"},
		{"one message", `{"messages":` + good + `}`, 400, "wrong_type"},
		{"no messages", `{"messages":[]}`, 400, "batch_empty"},
		{"unknown field", `{"items":[` + good + `]}`, 400, "unknown_field"},
		{"unknown field behind", `{"messages":[` + good + `],"x":1}`, 400, "unknown_field"},
		{"twice", `{"messages":[` + good + `],"messages":[]}`, 400, "duplicate_field"},
		{"no colon", `{"messages"[` + good + `]}`, 400, "malformed_json"},
		{"no comma", `{"messages":[` + good + good + `]}`, 400, "malformed_json"},
		{"trailing comma", `{"messages":[` + good + `,]}`, 400, "malformed_json"},
		{"leading comma", `{"messages":[,` + good + `]}`, 400, "malformed_json"},
		{"cut off in the array", `{"messages":[` + good, 400, "malformed_json"},
		{"cut off in a message", `{"messages":[` + good + `,{"to":"al`, 400, "malformed_json"},
		{"cut off at the end", `{"messages":[` + good + `]`, 400, "malformed_json"},
		{"cut off in the name", `{"mess`, 400, "malformed_json"},
		{"more behind", `{"messages":[` + good + `]} x`, 400, "malformed_json"},
		{"wrong brackets", `{"messages":[` + good + `,{"to":"alice"]]}`, 400, "malformed_json"},
		{"malformed message", `{"messages":[` + good + `,{"to":"alice","content":tru}]}`, 400, "malformed_json"},
		{"unquoted word", `{"messages":[` + good + `,hello]}`, 400, "malformed_json"},
		{"long name", `{"` + strings.Repeat("x", 70_000) + `":1}`, 400, "malformed_json"},
		{"too many", `{"messages":[` + strings.Repeat(good+",", esh3ar.MaxBatch) + good + `]}`, 413, "batch_too_long"},
		{"too large", `{"messages":[` + good + strings.Repeat(" ", esh3ar.MaxBatchBytes) + `]}`, 413, "body_too_large"},
	} {
		s.wantProblem(s.do(http.MethodPost, "/v1/messages/batch", c.body), c.status, c.code)
		// The same without an announced length.
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/messages/batch", io.MultiReader(strings.NewReader(c.body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+aliceKey)
		s.wantProblem(s.send(r), c.status, c.code)
	}
	s.wantProblem(s.do(http.MethodPost, "/v1/messages/batch", `{"messages":[`+good+`]}`, "Idempotency-Key", "k"), 400, "idempotency_key_of_batch")
	p := s.wantProblem(s.do(http.MethodPost, "/v1/messages/batch", `{"messages":[`+good+`,{"to":}]}`), 400, "malformed_json")
	if !strings.Contains(p.Detail, "message 1") {
		t.Errorf("detail %q does not say which message", p.Detail)
	}
	if all, _ := s.records(); len(all) != 0 {
		t.Errorf("%d records of refused batches", len(all))
	}
	if n := s.api.batchBytes.Load(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

func TestBatchIdempotency(t *testing.T) {
	s := newService(t)
	keyed := func(key, content string) string {
		return fmt.Sprintf(`{"to":"alice","content":%q,"idempotency_key":%q}`, content, key)
	}
	single := s.accept(`{"to":"alice","content":"one"}`, "Idempotency-Key", "k1")
	results := s.batch(http.StatusMultiStatus,
		keyed("k1", "one"), keyed("k2", "two"), keyed("k2", "two"), keyed("k2", "other"), keyed("k1", "other"), keyed("k3", "three"))
	if results[0].ID != single.ID || !results[0].AcceptedAt.Equal(single.AcceptedAt) {
		t.Errorf("a message that came alone before: %+v", results[0])
	}
	if results[1].ID != results[2].ID || results[1].ID == (esh3ar.ID{}) || results[1].ID == results[5].ID {
		t.Errorf("copies in one batch: %+v, %+v", results[1], results[2])
	}
	for _, i := range []int{3, 4} {
		if results[i].Status != http.StatusUnprocessableEntity || results[i].Problem.Code != "idempotency_key_reused" {
			t.Errorf("result %d: %+v", i, results[i])
		}
	}
	again := s.batch(http.StatusAccepted, keyed("k2", "two"), keyed("k3", "three"))
	if again[0].ID != results[1].ID || again[1].ID != results[5].ID {
		t.Errorf("the batch again: %+v", again)
	}
	if all, _ := s.records(); len(all) != 3 {
		t.Errorf("%d records", len(all))
	}
}

func TestBatchAppendFailure(t *testing.T) {
	s := newService(t)
	s.fail(journal.ErrUnknown)
	a := s.do(http.MethodPost, "/v1/messages/batch", `{"messages":[{"to":"alice","content":"hi"},{"to":"","content":"hi"}]}`)
	if a.status != http.StatusMultiStatus || a.header.Get("Retry-After") != "1" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	var out struct {
		Results []resultJSON `json:"results"`
	}
	s.decode(a, &out)
	if out.Results[0].Problem.Code != "outcome_unknown" || out.Results[1].Problem.Code != "recipient_empty" {
		t.Errorf("%s", a.body)
	}
}

func TestBatchMemoryIsBounded(t *testing.T) {
	s := newService(t, func(o *Options) { o.BatchMemory = 2 * slabSize })
	text := `{"to":"alice","content":"` + strings.Repeat("x", 60_000) + `"}`
	many := `{"messages":[` + strings.Repeat(text+",", 9) + text + `]}`
	p := s.wantProblem(s.do(http.MethodPost, "/v1/messages/batch", many), http.StatusServiceUnavailable, "overloaded")
	if p.Permanent {
		t.Error("permanent")
	}
	s.batch(http.StatusAccepted, text, text)
	if n := s.api.batchBytes.Load(); n != 0 {
		t.Errorf("%d bytes are still held", n)
	}
}

// The largest batch of the largest messages goes through.
func TestLargestBatch(t *testing.T) {
	s := newService(t)
	frame := `{"to":"user-000","content":""}`
	var texts []string
	for i := range (esh3ar.MaxBatchBytes - 20) / (esh3ar.MaxMessageBytes + 1) {
		texts = append(texts, fmt.Sprintf(`{"to":"user-%03d","content":"%s"}`, i, strings.Repeat("x", esh3ar.MaxMessageBytes-len(frame))))
	}
	s.batch(http.StatusAccepted, texts...)
	if all, _ := s.records(); len(all) != len(texts) {
		t.Errorf("%d records of %d", len(all), len(texts))
	}
}

// cutBatch cuts the elements out of a body, as the batch route does, and keeps a copy of each; nil for
// one that is too large.
func cutBatch(body io.Reader) (texts [][]byte, err error) {
	w := window{buf: make([]byte, windowSize)}
	w.reset(body)
	if err := w.openMessages(); err != nil {
		return nil, err
	}
	for {
		text, err := w.element(len(texts))
		if err != nil {
			return nil, err
		}
		if text == nil && !w.oversize {
			return texts, w.closeMessages(len(texts))
		}
		texts = append(texts, bytes.Clone(text))
	}
}

// FuzzBatch holds the cutting against encoding/json, however the body arrives.
func FuzzBatch(f *testing.F) {
	for _, body := range []string{
		`{"messages":[{"to":"alice","content":"hi"},{"to":"bob","data":[1,{"a":"]}"}]}]}`,
		` { "messages" : [ 1 , "a,]\"" , null , [ ] , { } ] } `, `{"messages":[]}`, `{}`, `{"messages":[{"a":"\\"}]}`, `{"messages":[1,]}`,
		`{"mess\u0061ges":[true]}`, `{"messages":[{]}`, `{"x":1}`, `{"messages":[1],"messages":[2]}`, `{"messages":["a"b]}`, `[1]`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		texts, err := cutBatch(bytes.NewReader(body))
		slow, slowErr := cutBatch(iotest.OneByteReader(bytes.NewReader(body)))
		if (err == nil) != (slowErr == nil) || len(texts) != len(slow) {
			t.Fatalf("all at once: %d, %v; byte by byte: %d, %v", len(texts), err, len(slow), slowErr)
		}
		for i := range texts {
			if !bytes.Equal(texts[i], slow[i]) {
				t.Fatalf("element %d is %q, or %q byte by byte", i, texts[i], slow[i])
			}
		}
		var want struct {
			Messages []json.RawMessage `json:"messages"`
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		jsonErr := dec.Decode(&want)
		if err != nil {
			// What is refused is not JSON, or not one array of some messages under exactly that name.
			return
		}
		for _, text := range texts {
			if text != nil && !json.Valid(text) {
				return // the decoder finds that
			}
		}
		if jsonErr != nil {
			t.Fatalf("%q is taken, encoding/json says %v", body, jsonErr)
		}
		if len(texts) != len(want.Messages) {
			t.Fatalf("%d elements, want %d", len(texts), len(want.Messages))
		}
		for i, text := range texts {
			if text != nil && !bytes.Equal(text, want.Messages[i]) {
				t.Fatalf("element %d is %q, want %q", i, text, want.Messages[i])
			}
		}
	})
}
