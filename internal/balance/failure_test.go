package balance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

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
