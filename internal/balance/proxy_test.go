package balance

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
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
	cert, pool := certificatetest.Write(t, t.TempDir(), "one")
	overTLS := start(t, newSetNodes(node.URL), func(o *Options) { o.CertFile, o.KeyFile = cert.Cert, cert.Key })
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
