package node_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/node"
)

// bootWith runs a server with that configuration, on a free port and an empty data directory, until the
// test ends.
func bootWith(t *testing.T, change func(*node.Config)) node.Info {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", t.TempDir()
	change(&cfg)
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	n, err := node.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not stop")
		}
	})
	return n.Info()
}

// exchange makes one request on a connection and returns the answer, with its body read.
func exchange(t *testing.T, conn net.Conn, in *bufio.Reader, method, target, body string, fields ...string) *http.Response {
	t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: esh3ar\r\nContent-Length: %d\r\n", method, target, len(body))
	for _, f := range fields {
		out.WriteString(f + "\r\n")
	}
	if _, err := conn.Write([]byte(out.String() + "\r\n" + body)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Discard(int(max(resp.ContentLength, 0))); err != nil && method != http.MethodHead {
		t.Fatal(err)
	}
	return resp
}

// TestCrossOrigin speaks as browsers do for a page of an allowed origin and for one of another, on
// connections that began with what a business system sends.
func TestCrossOrigin(t *testing.T) {
	const ours, theirs = "https://app.example.com", "https://evil.example.com"
	info := bootWith(t, func(c *node.Config) { c.AllowedOrigins = []string{"http://localhost:3000", ours} })
	conn, err := net.Dial("tcp", info.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	auth := "Authorization: Bearer " + info.DevKey
	const message = `{"to":"alice","content":"x"}`

	if r := exchange(t, conn, in, "POST", "/v1/messages", message, auth); r.StatusCode != http.StatusAccepted || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without an origin: %s %v", r.Status, r.Header)
	}
	for _, method := range []string{"GET", "POST", "DELETE", "PUT", "PATCH"} {
		for _, path := range []string{"/v1/messages", "/v1/messages/x", "/v1/events", "/v1/nothing"} {
			ask := []string{"Access-Control-Request-Method: " + method, "Access-Control-Request-Headers: authorization,content-type,idempotency-key,traceparent"}
			r := exchange(t, conn, in, "OPTIONS", path, "", append(ask, "Origin: "+ours)...)
			h := r.Header
			if r.StatusCode != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != ours || h.Get("Access-Control-Allow-Methods") != method ||
				h.Get("Access-Control-Allow-Headers") != "authorization,content-type,idempotency-key,traceparent" || h.Get("Access-Control-Max-Age") != "7200" {
				t.Errorf("preflight of %s %s: %s %v", method, path, r.Status, h)
			}
			if vary := strings.Join(h["Vary"], ", "); !strings.Contains(vary, "Origin") {
				t.Errorf("preflight of %s %s: Vary %q", method, path, vary)
			}
			r = exchange(t, conn, in, "OPTIONS", path, "", append(ask, "Origin: "+theirs)...)
			if h := r.Header; h.Get("Access-Control-Allow-Origin") != "" || h.Get("Access-Control-Allow-Methods") != "" {
				t.Errorf("preflight of another origin for %s %s: %v", method, path, h)
			}
		}
	}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
	}{
		"accepted":  {"POST", "/v1/messages", message, http.StatusAccepted},
		"refused":   {"POST", "/v1/messages", `{}`, http.StatusBadRequest},
		"listed":    {"GET", "/v1/messages", "", http.StatusOK},
		"events":    {"GET", "/v1/events", "", http.StatusOK},
		"no route":  {"GET", "/v1/nothing", "", http.StatusNotFound},
		"no method": {"PATCH", "/v1/messages", "", http.StatusMethodNotAllowed},
	} {
		r := exchange(t, conn, in, c.method, c.path, c.body, auth, "Origin: "+ours)
		h := r.Header
		if r.StatusCode != c.status || h.Get("Access-Control-Allow-Origin") != ours || !strings.Contains(strings.Join(h["Vary"], ", "), "Origin") {
			t.Errorf("%s: %s %v", name, r.Status, h)
		}
		if h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: browsers may send credentials of their own", name)
		}
		for _, field := range []string{"Location", "Retry-After", "Ratelimit", "Ratelimit-Policy"} {
			if !strings.Contains(h.Get("Access-Control-Expose-Headers"), field) {
				t.Errorf("%s: pages may not see %s: %q", name, field, h.Get("Access-Control-Expose-Headers"))
			}
		}
		r = exchange(t, conn, in, c.method, c.path, c.body, auth, "Origin: "+theirs)
		if r.StatusCode != c.status || r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s, of another origin: %s %v", name, r.Status, r.Header)
		}
	}
	// A connection may begin with a page's post, too.
	first, err := net.Dial("tcp", info.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	r := exchange(t, first, bufio.NewReader(first), "POST", "/v1/messages", message, auth, "origin: "+ours)
	if r.StatusCode != http.StatusAccepted || r.Header.Get("Access-Control-Allow-Origin") != ours {
		t.Errorf("on a fresh connection: %s %v", r.Status, r.Header)
	}
}

// TestCrossOriginByConfiguration: any origin if so configured, none without configuration.
func TestCrossOriginByConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		origins   []string
		allow     string
		preflight int
	}{
		"any":  {[]string{"*"}, "*", http.StatusNoContent},
		"none": {nil, "", http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			info := bootWith(t, func(cfg *node.Config) { cfg.AllowedOrigins = c.origins })
			conn, err := net.Dial("tcp", info.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			r := exchange(t, conn, in, "OPTIONS", "/v1/messages", "", "Origin: https://a.example", "Access-Control-Request-Method: POST")
			if got := r.Header.Get("Access-Control-Allow-Origin"); r.StatusCode != c.preflight || got != c.allow {
				t.Errorf("preflight: %s, %q", r.Status, got)
			}
			r = exchange(t, conn, in, "GET", "/v1/messages", "", "Origin: https://a.example", "Authorization: Bearer "+info.DevKey)
			if got := r.Header.Get("Access-Control-Allow-Origin"); r.StatusCode != http.StatusOK || got != c.allow {
				t.Errorf("GET: %s, %q", r.Status, got)
			}
		})
	}
}
