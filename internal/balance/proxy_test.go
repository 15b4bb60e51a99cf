package balance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

// echo answers with what it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Method", r.Method)
	w.Header().Set("X-Target", r.RequestURI)
	w.Header().Set("X-Host", r.Host)
	w.Header().Set("X-Agent", r.UserAgent())
	w.Header().Set("X-For", strings.Join(r.Header.Values("X-Forwarded-For"), "|"))
	if r.URL.Query().Has("chunks") {
		half := len(body) / 2
		w.Write(body[:half])
		w.(http.Flusher).Flush()
		w.Write(body[half:])
		return
	}
	if r.URL.Query().Has("nothing") {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusAccepted)
	w.Write(body)
}

func TestForwards(t *testing.T) {
	node := server(t, echo)
	plainHTTP := start(t, newSetNodes(node.URL), nil)
	cert, pool := writeCertificate(t, t.TempDir(), "one")
	overTLS := start(t, newSetNodes(node.URL), func(o *Options) { o.CertFile, o.KeyFile = cert.cert, cert.key })
	for _, via := range []struct {
		name   string
		b      *running
		client *http.Client
		proto  int
	}{
		{"HTTP/1.1", plainHTTP, httpClient(t), 1},
		{"HTTP/1.1 over TLS", overTLS, tlsClient(t, pool, false), 1},
		{"HTTP/2", overTLS, tlsClient(t, pool, true), 2},
	} {
		t.Run(via.name, func(t *testing.T) {
			for _, size := range []int{0, 1, 130, 5000, replayBuffer, replayBuffer + 1, 1 << 20} {
				body := strings.Repeat("0123456789", size/10+1)[:size]
				for _, query := range []string{"?a=%20b", "?chunks", "?nothing"} {
					for _, method := range []string{"POST", "GET", "HEAD", "DELETE"} {
						r, err := http.NewRequest(method, via.b.url+"/v1/x"+query, strings.NewReader(body))
						if err != nil {
							t.Fatal(err)
						}
						r.Header.Set("User-Agent", "test")
						r.Header.Set("X-Forwarded-For", "1.2.3.4")
						resp, err := via.client.Do(r)
						if err != nil {
							t.Fatalf("%s of %d bytes, %s: %v", method, size, query, err)
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						want := body
						if method == "HEAD" || query == "?nothing" {
							want = ""
						}
						if err != nil || string(got) != want {
							t.Fatalf("%s of %d bytes, %s: answered %d bytes, %v", method, size, query, len(got), err)
						}
						h := resp.Header
						if h.Get("X-Method") != method || h.Get("X-Target") != "/v1/x"+query || h.Get("X-Host") != r.URL.Host ||
							h.Get("X-Agent") != "test" || h.Get("X-For") != "127.0.0.1" || resp.ProtoMajor != via.proto {
							t.Fatalf("%s of %d bytes, %s: HTTP/%d, %v", method, size, query, resp.ProtoMajor, h)
						}
					}
				}
			}
		})
	}
}

func TestUploadsWithoutALength(t *testing.T) {
	node := server(t, echo)
	b := start(t, newSetNodes(node.URL), nil)
	c := httpClient(t)
	for _, size := range []int{1, 70_000, 1 << 20} {
		body := strings.Repeat("x", size)
		r, err := http.NewRequest("POST", b.url+"/v1/x", io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Expect", "100-continue")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != body || resp.StatusCode != 202 {
			t.Errorf("%d bytes: %d, %d bytes, %v", size, resp.StatusCode, len(got), err)
		}
	}
}

// rawAsk sends bytes on a connection of its own and returns everything that comes back until the other end closes.
func rawAsk(t *testing.T, address, sent string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, sent)
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("after %q: %v", got, err)
	}
	return string(got)
}

// What two readers could take for different requests never reaches a node, neither as a first request nor
// behind a good one.
func TestAmbiguousRequestsAreRefused(t *testing.T) {
	node := raw(t, accepts)
	b := start(t, newSetNodes(node.url), nil)
	const good = "POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
	const line = "POST /v1/messages HTTP/1.1\r\nHost: a\r\n"
	const hidden = "GET /v1/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, c := range map[string]struct {
		in     string
		status string
	}{
		"length and chunks":        {line + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400"},
		"chunks and length":        {line + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + hidden, "400"},
		"two lengths":              {line + "Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + hidden, "400"},
		"hidden chunks":            {line + "Content-Length: 4\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden, "400"},
		"chunks on a folded line":  {line + "Content-Length: 4\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400"},
		"a bare line feed":         {"POST /v1/messages HTTP/1.1\r\nHost: a\nContent-Length: 44\r\n\r\n" + hidden, "400"},
		"a bad chunk size":         {line + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + hidden, "400"},
		"a chunk with a long tail": {line + "Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n" + hidden, "400"},
		"a negative chunk":         {line + "Transfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n" + hidden, "400"},
		"a chunk ended by LF":      {line + "Transfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n" + hidden, "400"},
		"chunks in HTTP/1.0":       {"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, "400"},
		"no host":                  {"GET / HTTP/1.1\r\n\r\n", "400"},
		"a header without end":     {line + "X: " + strings.Repeat("y", maxRequestHeader) + "\r\n\r\n", "431"},
	} {
		for _, before := range []string{"", good} {
			got := rawAsk(t, b.Addr().String(), before+c.in)
			if before != "" {
				_, rest, ok := strings.Cut(got, "\r\n\r\nok")
				if !ok {
					t.Fatalf("%s: the good request before it was answered %q", name, got)
				}
				got = rest
			}
			if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) {
				t.Errorf("%s: answered %q, want %s", name, got, c.status)
			}
			if strings.Count(got, "HTTP/1.1 ") > 1 {
				t.Errorf("%s: more than one answer: %q", name, got)
			}
		}
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	for _, r := range node.got {
		if r.URL.Path == "/v1/hidden" {
			t.Error("a hidden request reached the node")
		}
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	node := server(t, echo)
	b := start(t, newSetNodes(node.URL), nil)
	var sent strings.Builder
	for i := range 20 {
		body := strings.Repeat(string(rune('a'+i)), i*700)
		fields := ""
		if i == 19 {
			fields = "Connection: close\r\n"
		}
		fmt.Fprintf(&sent, "POST /%d HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n%s", i, fields, len(body), body)
	}
	br := bufio.NewReader(strings.NewReader(rawAsk(t, b.Addr().String(), sent.String())))
	for i := range 20 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if want := strings.Repeat(string(rune('a'+i)), i*700); err != nil || string(body) != want || resp.Header.Get("X-Target") != fmt.Sprintf("/%d", i) {
			t.Fatalf("answer %d: %s, %d bytes, %v", i, resp.Header.Get("X-Target"), len(body), err)
		}
	}
}

func TestMetricsOfNodesAreNotShown(t *testing.T) {
	node := server(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "secret "+r.URL.Path) })
	b := start(t, newSetNodes(node.URL), nil)
	c := httpClient(t)
	for _, path := range []string{"/metrics", "/%6detrics", "//metrics", "/v1/../metrics", "/./metrics", "/metrics?x=1", "/metrics/"} {
		got := rawAsk(t, b.Addr().String(), "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if strings.Contains(got, "secret /metrics") || !strings.HasPrefix(got, "HTTP/1.1 404") {
			t.Errorf("%s: %q", path, got)
		}
	}
	if a := ask(t, c, "GET", b.url+"/readyz", ""); a.status != 200 || strings.Contains(a.body, "secret") {
		t.Errorf("/readyz: %+v", a)
	}
}

func TestNoNode(t *testing.T) {
	b := start(t, newSetNodes(nobody(t)), func(o *Options) { o.PollEvery = time.Hour })
	c := httpClient(t)
	a := ask(t, c, "POST", b.url+"/v1/messages", "{}")
	if a.status != 502 || a.code() != "node_unreachable" || a.header.Get("Retry-After") == "" || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("answered %+v", a)
	}
	var p struct {
		Status    int
		Type      string
		Permanent *bool
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Permanent == nil || *p.Permanent || p.Status != 502 || p.Type != "/problems/node-unreachable" {
		t.Errorf("the problem is %q, %v", a.body, err)
	}
}

// For each way in which a node can fail: what becomes of a request without a key, of one with a key and of one
// that may be repeated, when there is another node that works.
func TestFailingNodes(t *testing.T) {
	for _, c := range []struct {
		name               string
		bad                func(net.Conn, *http.Request, []byte) bool // nil refuses connections
		once, keyed, other string
	}{
		{name: "refuses connections", once: "202", keyed: "202", other: "202"},
		{name: "hangs up", bad: hangsUp, once: "502 outcome_unknown", keyed: "202", other: "202"},
		{name: "keeps silent", bad: func(c net.Conn, _ *http.Request, _ []byte) bool {
			c.Read(make([]byte, 1)) // until the balancer gives up
			return false
		}, once: "504 outcome_unknown", keyed: "202", other: "202"},
		{name: "falls silent in the body", bad: func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nabc")
			c.Read(make([]byte, 1))
			return false
		}, once: "504 outcome_unknown", keyed: "202", other: "202"},
		{name: "breaks off in the header", bad: func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, "HTTP/1.1 202 Acc")
			return false
		}, once: "502 outcome_unknown", keyed: "202", other: "202"},
		{name: "breaks off in the body", bad: func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nabc")
			return false
		}, once: "502 outcome_unknown", keyed: "202", other: "202"},
		{name: "speaks something else", bad: func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, "SSH-2.0-x\r\n\r\n")
			return false
		}, once: "502 outcome_unknown", keyed: "202", other: "202"},
		{name: "is overloaded", bad: refuses(503, "overloaded"), once: "202", keyed: "202", other: "202"},
		{name: "has a full disk", bad: refuses(507, "journal_full"), once: "202", keyed: "202", other: "202"},
		{name: "does not know", bad: refuses(503, "outcome_unknown"), once: "503 outcome_unknown", keyed: "202", other: "202"},
		{name: "limits the client", bad: refuses(429, "rate_limited"), once: "429 rate_limited", keyed: "429 rate_limited", other: "429 rate_limited"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			badURL := ""
			var bad *rawNode
			if c.bad == nil {
				badURL = nobody(t)
			} else {
				bad = raw(t, c.bad)
				badURL = bad.url
			}
			good := raw(t, accepts)
			for _, engine := range []string{"own", "net/http"} {
				for _, r := range []struct {
					kind, method, key, want string
				}{{"without a key", "POST", "", c.once}, {"with a key", "POST", "k", c.keyed}, {"repeatable", "DELETE", "", c.other}} {
					// A balancer each: the bad node is picked in half of the cases, while it is not ejected.
					b := start(t, newSetNodes(badURL, good.url), func(o *Options) {
						o.ResponseTimeout = 100 * time.Millisecond
						o.Picker.Failures = 1000
						o.RetryShare = 1
					})
					eventually(t, "the good node is known to be ready", func() bool {
						return slices.ContainsFunc(b.views(), func(v picker.View) bool { return v.ID == good.url && v.State == picker.Ready })
					})
					client := httpClient(t)
					seen := make(map[string]int)
					for range 30 {
						fields := []string{"Idempotency-Key", r.key}
						if engine == "net/http" {
							fields = append(fields, "Accept", "text/event-stream") // a stream is not for the engine
						}
						a := ask(t, client, r.method, b.url+"/v1/messages", "{}", fields...)
						s := fmt.Sprint(a.status)
						if code := a.code(); code != "" {
							s += " " + code
						}
						seen[s]++
						if c.bad != nil && seen[r.want] > 0 && bad.requests() > 0 && len(seen) > 1 {
							break
						}
					}
					for s := range seen {
						if s != "202" && s != r.want {
							t.Errorf("%s, %s: answered %s, want 202 or %s", engine, r.kind, s, r.want)
						}
					}
					if r.want != "202" && seen[r.want] == 0 {
						t.Errorf("%s, %s: never answered %s: %v", engine, r.kind, r.want, seen)
					}
					b.stop()
					<-b.ended
				}
			}
			if bad != nil && bad.requests() == 0 {
				t.Error("the bad node was never asked")
			}
		})
	}
}

// A request without a key reaches at most one node that reads it.
func TestWithoutAKeyNothingIsDoneTwice(t *testing.T) {
	one, two := raw(t, hangsUp), raw(t, hangsUp)
	b := start(t, newSetNodes(one.url, two.url), func(o *Options) { o.RetryShare = 1 })
	c := httpClient(t)
	const n = 20
	for range n {
		if a := ask(t, c, "POST", b.url+"/v1/messages", "{}"); a.status != 502 || a.code() != "outcome_unknown" {
			t.Fatalf("answered %+v", a)
		}
	}
	if got := one.requests() + two.requests(); got != n {
		t.Errorf("%d requests reached a node %d times", n, got)
	}
	if a := ask(t, c, "POST", b.url+"/v1/messages", "{}", "Idempotency-Key", "k"); a.status != 502 || a.code() != "outcome_unknown" {
		t.Errorf("with a key, and no node that works: %+v", a)
	}
	if a := ask(t, c, "GET", b.url+"/v1/messages", ""); a.status != 502 || a.code() != "node_failed" {
		t.Errorf("a GET, and no node that works: %+v", a)
	}
}

// When an attempt may have been carried out, a later refusal is not shown: the client would take it for
// the truth.
func TestRefusalDoesNotHideAnUnknownOutcome(t *testing.T) {
	for _, later := range []func(net.Conn, *http.Request, []byte) bool{refuses(503, "overloaded"), refuses(429, "rate_limited"), refuses(503, "timeout")} {
		first := raw(t, hangsUp)
		second := raw(t, later)
		b := start(t, newSetNodes(first.url, second.url), func(o *Options) { o.RetryShare, o.Picker.Failures = 1, 1000 })
		c := httpClient(t)
		for range 40 {
			before := first.requests()
			for _, accept := range []string{"*/*", "text/event-stream"} {
				a := ask(t, c, "POST", b.url+"/v1/messages", "{}", "Idempotency-Key", "k", "Accept", accept)
				if first.requests() > before && a.code() != "outcome_unknown" {
					t.Fatalf("an attempt may have been carried out, and the answer is %+v", a)
				}
				before = first.requests()
			}
		}
		if first.requests() == 0 {
			t.Error("the node that hangs up was never asked")
		}
		b.stop()
		<-b.ended
	}
}

// What is longer than a message is not kept, so it is not sent again once a node may have some of it.
func TestLongBodiesAreNotRepeated(t *testing.T) {
	body := strings.Repeat("x", 2<<20)
	one, two := raw(t, hangsUp), raw(t, hangsUp)
	b := start(t, newSetNodes(one.url, two.url), func(o *Options) { o.RetryShare = 1 })
	c := httpClient(t)
	for range 5 {
		if a := ask(t, c, "POST", b.url+"/v1/messages/batch", body, "Idempotency-Key", "k"); a.status != 502 || a.code() != "outcome_unknown" {
			t.Fatalf("answered %+v", a)
		}
	}
	if got := one.requests() + two.requests(); got != 5 {
		t.Errorf("5 requests reached a node %d times", got)
	}
	// But a node that cannot be reached got nothing.
	good := server(t, echo)
	reach := start(t, newSetNodes(nobody(t), good.URL), func(o *Options) { o.PollEvery, o.Picker.Failures = time.Hour, 1000 })
	for i := range 16 {
		var from io.Reader = strings.NewReader(body)
		if i%2 == 1 {
			from = io.MultiReader(from) // without a length: read by net/http
		}
		r, err := http.NewRequest("POST", reach.url+"/v1/messages/batch", from)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 202 || string(got) != body {
			t.Fatalf("answered %d, %d bytes, %v", resp.StatusCode, len(got), err)
		}
	}
}

func TestTooLongBodies(t *testing.T) {
	node := raw(t, accepts)
	b := start(t, newSetNodes(node.url), func(o *Options) { o.MaxBody = 100_000 })
	c := httpClient(t)
	body := strings.Repeat("x", 100_001)
	if a := ask(t, c, "POST", b.url+"/v1/x", body); a.status != 413 || a.code() != "body_too_large" {
		t.Errorf("answered %+v", a)
	}
	r, err := http.NewRequest("POST", b.url+"/v1/x", io.MultiReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("without a length: answered %d", resp.StatusCode)
	}
}

// A node may refuse an upload before it has read all of it; its answer arrives.
func TestEarlyAnswerToAnUpload(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			br := bufio.NewReader(c)
			if r, err := http.ReadRequest(br); err == nil && r.Method == "POST" {
				respond(c, 413, "Connection: close\r\n", "too much")
				io.CopyN(io.Discard, br, 1<<18)
			}
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	b := start(t, newSetNodes("http://"+l.Addr().String()), nil)
	a := ask(t, httpClient(t), "POST", b.url+"/v1/x", strings.Repeat("x", 1<<19))
	if a.status != 413 || a.body != "too much" {
		t.Errorf("answered %+v", a)
	}
}

// A connection that the node closed while it was idle is no failure of a request.
func TestIdleConnectionsMayBeClosed(t *testing.T) {
	closed := make(chan struct{})
	node := raw(t, func(c net.Conn, r *http.Request, _ []byte) bool {
		if !respond(c, 202, "", "ok") {
			return false
		}
		if r.URL.Path == "/close" {
			c.Close()
			close(closed)
		}
		return true
	})
	b := start(t, newSetNodes(node.url), nil)
	c := httpClient(t)
	ask(t, c, "POST", b.url+"/close", "{}")
	<-closed
	eventually(t, "the connection has been idle long enough to be looked at", func() bool {
		n := b.nodes()[0]
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.idle) == 1 && time.Since(n.idle[0].since) > 2*doubtAfter
	})
	if a := ask(t, c, "POST", b.url+"/v1/messages", "{}"); a.status != 202 {
		t.Errorf("a POST without a key on a connection that was closed meanwhile: %+v", a)
	}
}

// Retries cannot make an overload worse than it is.
func TestRetriesAreBounded(t *testing.T) {
	one, two := raw(t, refuses(503, "overloaded")), raw(t, refuses(503, "overloaded"))
	b := start(t, newSetNodes(one.url, two.url), func(o *Options) { o.RetryShare = 0.25 })
	eventually(t, "both nodes are ready", func() bool {
		return !slices.ContainsFunc(b.views(), func(v picker.View) bool { return v.State != picker.Ready })
	})
	c := httpClient(t)
	const n = 300
	for range n {
		if a := ask(t, c, "POST", b.url+"/v1/messages", "{}"); a.status != 503 || a.code() != "overloaded" || a.header.Get("Retry-After") == "" {
			t.Fatalf("answered %+v", a)
		}
	}
	// Every first refusal asks for one retry; the budget begins with its savings.
	want := retrySavings + n/4
	if got := one.requests() + two.requests() - n; got > want || got < want-10 {
		t.Errorf("%d retries of %d requests, want about %d", got, n, want)
	}
	if metric(t, b, "esh3ar_balance_retries_denied_total") == 0 {
		t.Error("no retry was denied")
	}
}

// What a node sends without being asked is never taken for an answer.
func TestUnaskedAnswersAreDropped(t *testing.T) {
	node := raw(t, func(c net.Conn, r *http.Request, _ []byte) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		return true
	})
	b := start(t, newSetNodes(node.url), nil)
	c := httpClient(t)
	for range 50 {
		if a := ask(t, c, "GET", b.url+"/v1/x", ""); a.body != "good" {
			t.Fatalf("answered %q", a.body)
		}
	}
}

func TestAnswersThatBreakOff(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	silent := func(serve string) func(net.Conn, *http.Request, []byte) bool {
		return func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, serve)
			c.Read(make([]byte, 1))
			return false
		}
	}
	for name, serve := range map[string]func(net.Conn, *http.Request, []byte) bool{
		"with a length, silently": silent("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + long),
		"in chunks, silently":     silent("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n" + long + "\r\n"),
		"with a length": func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"+long)
			return false
		},
		"in chunks": func(c net.Conn, _ *http.Request, _ []byte) bool {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n"+long+"\r\n")
			return false
		},
	} {
		node := raw(t, serve)
		b := start(t, newSetNodes(node.url), func(o *Options) { o.ResponseTimeout = 200 * time.Millisecond })
		for _, path := range []string{"/v1/x", "/v1/%78"} { // the second is for net/http
			if a := ask(t, httpClient(t), "GET", b.url+path, ""); a.status != 200 || a.err == nil {
				t.Errorf("%s: the client takes %d bytes for the whole answer of %s", name, len(a.body), path)
			}
		}
	}
}

func TestClientAddressesOverThePROXYProtocol(t *testing.T) {
	trusted := mustTrust(t, "127.0.0.1")
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	node := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s", r.RemoteAddr, r.Header.Get("X-Forwarded-For"))
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		node.Serve(trusted.Listener(inner, 5*time.Second))
	}()
	defer func() { node.Close(); <-served }()
	b := start(t, newSetNodes("http://"+inner.Addr().String()), func(o *Options) { o.ProxyProtocol, o.Trusted = true, trusted })
	const request = "GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n"
	const stream = "GET /v1/x HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
	for i, header := range []string{"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"} {
		want := []string{"203.0.113.9:4711|203.0.113.9", "[2001:db8::7]:4711|2001:db8::7"}[i]
		got := rawAsk(t, b.Addr().String(), header+request+request+stream)
		if n := strings.Count(got, want); n != 3 {
			t.Errorf("the node saw %q, want %s three times", got, want)
		}
	}
}

func TestSlowClients(t *testing.T) {
	node := raw(t, accepts)
	b := start(t, newSetNodes(node.url), func(o *Options) {
		o.HeaderTimeout, o.BodyTimeout, o.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	})
	for sent, want := range map[string]string{
		"":                      "",
		"POST / HTTP/1.1\r\nHo": "408",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab":                                  "408",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 80_000): "408",
	} {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, sent)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(c)
		c.Close()
		if err != nil || want == "" && len(got) > 0 || want != "" && !strings.HasPrefix(string(got), "HTTP/1.1 "+want) {
			t.Errorf("after %.40q: %q, %v", sent, got, err)
		}
	}
}

// A client that sends a header byte by byte is not waited for any longer than one that stops.
func TestDrippingClients(t *testing.T) {
	node := raw(t, accepts)
	b := start(t, newSetNodes(node.url), func(o *Options) { o.HeaderTimeout = 200 * time.Millisecond })
	c, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ended := make(chan []byte, 1)
	go func() {
		got, _ := io.ReadAll(c)
		ended <- got
	}()
	io.WriteString(c, "GET / HTTP/1.1\r\nX: ")
	for {
		select {
		case <-tick.C:
			io.WriteString(c, "x")
			if time.Since(begin) > 15*time.Second {
				t.Fatal("the balancer waits for ever")
			}
		case got := <-ended:
			if !strings.HasPrefix(string(got), "HTTP/1.1 408") {
				t.Errorf("answered %q", got)
			}
			return
		}
	}
}

// Many clients at once, answers of every length, nodes that come and go: no answer is mixed up.
func TestAnswersAreNotMixedUp(t *testing.T) {
	nodes := []string{server(t, echo).URL, server(t, echo).URL, server(t, echo).URL}
	source := newSetNodes(nodes...)
	b := start(t, source, nil)
	c := httpClient(t)
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 16)
	for i := range 16 {
		go func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			var err error
			for n := 0; n < 60 && err == nil; n++ {
				body := bytes.Repeat([]byte{byte('a' + i)}, rnd.IntN(60_000))
				query := ""
				if rnd.IntN(3) == 0 {
					query = "?chunks"
				}
				target := fmt.Sprintf("/v1/%d/%d%s", i, n, query)
				r, _ := http.NewRequestWithContext(ctx, "POST", b.url+target, bytes.NewReader(body))
				var resp *http.Response
				if resp, err = c.Do(r); err != nil {
					break
				}
				var got []byte
				got, err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if err == nil && (!bytes.Equal(got, body) || resp.Header.Get("X-Target") != target) {
					err = fmt.Errorf("%s of %d bytes was answered %d for %s with %d bytes", target, len(body), resp.StatusCode, resp.Header.Get("X-Target"), len(got))
				}
			}
			failed <- err
		}()
	}
	for i := range 16 {
		select {
		case source.change <- nodes[:1+i%3]:
		case <-ctx.Done():
		}
		if err := <-failed; err != nil {
			cancel()
			t.Error(err)
		}
	}
	cancel()
}
