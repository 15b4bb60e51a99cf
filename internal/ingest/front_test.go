package ingest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/journal"
)

const goodHead = "POST /v1/messages HTTP/1.1\r\nHost: api.example.com:8080\r\nAuthorization: Bearer " + benchKey + "\r\nContent-Type: application/json\r\n"

func post(head, body string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
}

// serveFront serves an API with a Front, or with net/http alone, and returns its address.
func serveFront(t testing.TB, a *API, withFront bool, o FrontOptions) (address string, front *Front) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: a, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan error, 2)
	var serving net.Listener = l
	if withFront {
		o.Metrics = prometheus.NewRegistry()
		front = NewFront(a, l, o)
		serving = front
		go func() { done <- front.Run() }()
	} else {
		done <- nil
	}
	go func() { done <- srv.Serve(serving) }()
	t.Cleanup(func() {
		if front != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := front.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		}
		srv.Close()
		<-done
		<-done
	})
	return l.Addr().String(), front
}

var patient = FrontOptions{HeaderTimeout: 10 * time.Second, BodyTimeout: 10 * time.Second, IdleTimeout: time.Minute}

// outcome is what of an answer must be the same whoever gives it.
type outcome struct {
	status int
	kind   string // Content-Type
	code   string // of a problem
	closed bool   // the server ended the connection after it
	limits string // the RateLimit fields, but for the times, and whether there is a Retry-After
}

func (o outcome) String() string {
	return fmt.Sprintf("%d %s %s closed=%v%s", o.status, o.kind, o.code, o.closed, o.limits)
}

// limitsOf tells what must be the same of the fields about limits.
func limitsOf(h http.Header) (s string) {
	for _, name := range []string{"RateLimit-Policy", "RateLimit"} {
		if v := h.Get(name); v != "" {
			s += " " + name + ": " + regexp.MustCompile(`t=\d+`).ReplaceAllString(v, "t=#")
		}
	}
	if h.Get("Retry-After") != "" {
		s += " Retry-After"
	}
	return s
}

// ask sends raw bytes on a connection of their own, in the given pieces, and returns the outcomes of all
// answers that come.
func ask(t testing.TB, address string, pieces ...string) []outcome {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, p := range pieces {
		if _, err := io.WriteString(c, p); err != nil {
			break // the server may have had enough
		}
	}
	c.(*net.TCPConn).CloseWrite()
	var all []outcome
	r := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodPost})
		if err != nil {
			return all
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("answer to %.100q cut off: %v", pieces, err)
		}
		var p struct{ Code string }
		_ = json.Unmarshal(body, &p) // net/http's own answers are plain text
		if resp.StatusCode == http.StatusAccepted && (resp.Header.Get("Location") == "" || resp.Header.Get("Date") == "" || resp.ContentLength < 0) {
			t.Errorf("incomplete answer: %v", resp.Header)
		}
		all = append(all, outcome{resp.StatusCode, resp.Header.Get("Content-Type"), p.Code, resp.Close, limitsOf(resp.Header)})
	}
}

// Front and net/http must say the same to every request, whoever of them serves it.
func TestFrontAgreesWithNetHTTP(t *testing.T) {
	// One API each, so that what one of them takes of a client's limits is not missing to the other.
	plain, _ := serveFront(t, benchAPI(t), false, patient)
	front, _ := serveFront(t, benchAPI(t), true, patient)
	good := post(goodHead, benchBody)
	with := func(fields string) string { return post(goodHead+fields, benchBody) }
	without := func(line string) string { return strings.Replace(good, line, "", 1) }
	requests := map[string]string{
		"good":                  good,
		"two in one piece":      good + good,
		"good, then a question": good + "GET /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + benchKey + "\r\n\r\n" + good,
		"good, then rubbish":    good + "\x16\x03\x01\x02\x00",
		"bad JSON":              post(goodHead, `{"to":`),
		"bad JSON, then good":   post(goodHead, `{"to":`) + good,
		"unknown field":         post(goodHead, `{"to":"a","content":"b","x":1}`),
		"empty body":            post(goodHead, ""),
		"too large":             goodHead + "Content-Length: 70000\r\n\r\n",
		"64 KiB":                post(goodHead, `{"to":"a","content":"`+strings.Repeat("x", 65000)+`"}`),
		"no host":               without("Host: api.example.com:8080\r\n"),
		"two hosts":             with("Host: b\r\n"),
		"odd host":              strings.Replace(good, "api.example.com", "a b", 1),
		"no key":                without("Authorization: Bearer " + benchKey + "\r\n"),
		"wrong key":             strings.Replace(good, benchKey, "wrong", 1),
		"two keys":              with("Authorization: Bearer x\r\n"),
		"no type":               without("Content-Type: application/json\r\n"),
		"wrong type":            strings.Replace(good, "application/json", "text/plain", 1),
		"two types":             with("Content-Type: text/plain\r\n"),
		"lower-case names":      strings.ReplaceAll(strings.ReplaceAll(good, "Authorization", "authorization"), "Content-Length", "content-length"),
		"idempotency key":       with("Idempotency-Key: \"k1\"\r\n"),
		"bad idempotency key":   with("Idempotency-Key: \r\n"),
		"two idempotency keys":  with("Idempotency-Key: a\r\nIdempotency-Key: b\r\n"),
		"traceparent":           with("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"),
		"chunked":               goodHead + "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(benchBody), benchBody),
		"chunked and length":    goodHead + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(benchBody), benchBody),
		"two lengths":           with("Content-Length: 7\r\n"),
		"negative length":       goodHead + "Content-Length: -1\r\n\r\n",
		"signed length":         goodHead + "Content-Length: +5\r\n\r\n{}{}{",
		"huge length":           goodHead + "Content-Length: 99999999999999999999\r\n\r\n",
		"list of lengths":       goodHead + "Content-Length: 5, 5\r\n\r\n{}{}{",
		"no length":             goodHead + "\r\n" + benchBody,
		"expect":                with("Expect: 100-continue\r\n"),

		"expect something":       with("Expect: the worst\r\n"),
		"keep-alive":             with("Connection: keep-alive\r\n"),
		"close":                  with("Connection: close\r\n") + good,
		"origin":                 with("Origin: https://example.com\r\n"),
		"blank before the colon": with("X-A : b\r\n"),
		"folded field":           with("X-A: b\r\n c\r\n"),
		"no colon":               with("nonsense\r\n"),
		"control character":      with("X-A: b\x01\r\n"),
		"NUL":                    with("X-A: b\x00\r\n"),
		"high byte":              with("X-A: b\xe9\r\n"),
		"bare line feeds":        strings.ReplaceAll(good, "\r\n", "\n"),
		"bare carriage return":   with("X-A: b\rX-B: c\r\n"),
		"empty name":             with(": b\r\n"),
		"empty value":            with("X-A:\r\n"),
		"tab in a value":         with("X-A:\ta\tb\t\r\n"),
		"HTTP/1.0":               strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1),
		"HTTP/2.0":               strings.Replace(good, "HTTP/1.1", "HTTP/2.0", 1),
		"query":                  strings.Replace(good, "/v1/messages ", "/v1/messages?x=1 ", 1),
		"absolute form":          strings.Replace(good, "/v1/messages ", "http://h/v1/messages ", 1),
		"another route":          strings.Replace(good, "/v1/messages ", "/v1/messagez ", 1),
		"another method":         strings.Replace(good, "POST", "PATCH", 1),
		"two blanks":             strings.Replace(good, "POST ", "POST  ", 1),
		"long header":            with("X-A: " + strings.Repeat("x", 6000) + "\r\n"),
		"many fields":            with(strings.Repeat("X-A: b\r\n", 300)),
		"nothing":                "",
		"cut in the line":        good[:20],
		"cut in the header":      good[:80],
		"cut in the body":        good[:len(good)-10],
		"over the rate":          strings.Repeat(strings.ReplaceAll(good, benchKey, ratedKey), 3),
		"over the quota":         strings.Repeat(strings.ReplaceAll(good, benchKey, quotaKey), 3),
		"TLS":                    "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
	}
	for name, raw := range requests {
		want, got := ask(t, plain, raw), ask(t, front, raw)
		if name == "cut in the body" && len(got) == 0 {
			// net/http tells the half-closed connection that its body was short; Front just closes it.
			continue
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\nnet/http %v\nfront    %v", name, want, got)
		}
	}
}

// A request may arrive cut at any byte.
func TestFrontTakesAnyPieces(t *testing.T) {
	address, front := serveFront(t, benchAPI(t), true, patient)
	raw := post(goodHead, benchBody)
	for cut := 1; cut < len(raw); cut += 7 {
		if got := ask(t, address, raw[:cut], raw[cut:]+raw); len(got) != 2 || got[0].status != 202 || got[1].status != 202 {
			t.Fatalf("cut at %d: %v", cut, got)
		}
	}
	if n := handedOver(t, front); n != 0 {
		t.Errorf("%v plain connections were handed over", n)
	}
}

func handedOver(t *testing.T, f *Front) float64 {
	t.Helper()
	families, err := f.opts.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families {
		if m.GetName() == "esh3ar_connections_handed_over_total" {
			return m.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no such metric")
	return 0
}

func TestFrontCutsOffTheSlow(t *testing.T) {
	o := FrontOptions{HeaderTimeout: 50 * time.Millisecond, BodyTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond}
	address, _ := serveFront(t, benchAPI(t), true, o)
	raw := post(goodHead, benchBody)
	for name, sent := range map[string]string{"silent": "", "header": raw[:40], "body": raw[:len(raw)-5], "idle": raw} {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

// A shutdown lets the answer under way be given and says that it is the last.
func TestFrontShutdown(t *testing.T) {
	held := &heldJournal{entered: make(chan struct{}), release: make(chan struct{})}
	a, err := New(Options{Keys: oneKey{}, Journal: held, Messages: noMessages{}, Operator: struct{ Operator }{}, Auditor: struct{ Auditor }{}, Shards: 2, IdempotencyWindow: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	address, front := serveFront(t, a, true, patient)
	answers := make(chan []outcome, 1)
	go func() { answers <- ask(t, address, post(goodHead, benchBody)) }()
	<-held.entered
	done := make(chan error, 1)
	go func() { done <- front.Shutdown(context.Background()) }()
	<-front.closed
	close(held.release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := <-answers; len(got) != 1 || got[0].status != 202 || !got[0].closed {
		t.Errorf("got %v", got)
	}
}

// heldJournal keeps one append waiting.
type heldJournal struct {
	noJournal
	entered, release chan struct{}
}

func (h *heldJournal) Append(context.Context, journal.Partition, []byte) error {
	close(h.entered)
	<-h.release
	return nil
}

// FuzzReadHead holds what readHead takes for plain against net/http's reading of it.
func FuzzReadHead(f *testing.F) {
	f.Add([]byte(post(goodHead, benchBody)))
	f.Add([]byte(post(goodHead+"X-A: b\r\nConnection: keep-alive\r\n", "{}")))
	f.Add([]byte(post(goodHead+"Idempotency-Key: \"k\"\r\nTRACEPARENT: x\r\n", "")))
	front := &Front{api: &API{jsonType: []string{"application/json"}}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &frontConn{front: front, header: make(http.Header)}
		h, v := readHead(raw, c)
		if v != headPlain {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			t.Fatalf("net/http refuses what is taken for plain: %v", err)
		}
		if r.Method != "POST" || r.URL.String() != "/v1/messages" || r.ContentLength != int64(h.length) || len(r.TransferEncoding) > 0 || r.Close {
			t.Fatalf("read as %s %s, %d bytes, %v, close %v", r.Method, r.URL, r.ContentLength, r.TransferEncoding, r.Close)
		}
		for _, name := range []string{"Authorization", "Content-Type", "Idempotency-Key", "Traceparent"} {
			if got, want := fmt.Sprintf("%q", c.header[name]), fmt.Sprintf("%q", r.Header[name]); got != want {
				t.Fatalf("%s: %s, net/http has %s", name, got, want)
			}
		}
	})
}
