package signalr_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

func TestNegotiateVersions(t *testing.T) {
	f := start(t, signalr.HubOptions{StatefulReconnect: true}, nil)
	for query, want := range map[string]int{
		"": 0, "?negotiateVersion=0": 0, "?negotiateVersion=1": 1, "?NEGOTIATEVERSION=7": 1,
	} {
		n := negotiate(t, f.url, query, nil)
		if n.Status != 200 || n.NegotiateVersion == nil || *n.NegotiateVersion != want {
			t.Errorf("%q: status %d, version %v", query, n.Status, n.NegotiateVersion)
		}
		if n.ConnectionID == "" || (n.ConnectionToken != "") != (want == 1) || n.ConnectionID == n.ConnectionToken {
			t.Errorf("%q: id %q, token %q", query, n.ConnectionID, n.ConnectionToken)
		}
		if n.UseStatefulReconnect != nil {
			t.Errorf("%q: stateful reconnect told unasked", query)
		}
		if got := fmt.Sprint(n.AvailableTransports); got != "[{WebSockets [Text Binary]} {ServerSentEvents [Text]} {LongPolling [Text Binary]}]" {
			t.Errorf("%q: transports %s", query, got)
		}
	}
	n := negotiate(t, f.url, "?negotiateVersion=1&useStatefulReconnect=true", nil)
	if n.UseStatefulReconnect == nil || !*n.UseStatefulReconnect {
		t.Error("stateful reconnect not told")
	}
	if n := negotiate(t, f.url, "?negotiateVersion=x", nil); n.Status != 200 || n.Error == "" {
		t.Errorf("a bad version: status %d, error %q", n.Status, n.Error)
	}
	if resp, _ := request(t, http.MethodGet, f.url+"/negotiate", nil, ""); resp.StatusCode != 405 {
		t.Errorf("GET negotiate: %d", resp.StatusCode)
	}
}

func TestRequestsAgainstTheRules(t *testing.T) {
	f := start(t, signalr.HubOptions{}, nil)
	poll := func() string { // the query of a fresh long polling connection
		q := "?id=" + negotiate(t, f.url, "?negotiateVersion=1", nil).ConnectionToken
		if resp, body := request(t, http.MethodGet, f.url+q, nil, ""); resp.StatusCode != 200 || body != "" {
			t.Fatalf("first poll: %d %q", resp.StatusCode, body)
		}
		return q
	}
	status := func(method, query string, header http.Header) int {
		resp, _ := request(t, method, f.url+query, header, "")
		return resp.StatusCode
	}
	events := http.Header{"Accept": {"text/event-stream"}}
	socket := func(query string) int { _, s := dialRaw(t, f.url+query, nil); return s }

	polled := poll()
	upgraded := "?id=" + negotiate(t, f.url, "?negotiateVersion=1", nil).ConnectionToken
	if s := socket(upgraded); s != 101 {
		t.Fatalf("upgrade: %d", s)
	}
	for _, test := range []struct {
		what      string
		got, want int
	}{
		{"poll without id", status("GET", "", nil), 400},
		{"poll with an unknown id", status("GET", "?id=x", nil), 404},
		{"events with an unknown id", status("GET", "?id=x", events), 404},
		{"upgrade with an unknown id", socket("?id=x"), 404},
		{"POST without id", status("POST", "", nil), 400},
		{"POST with an unknown id", status("POST", "?id=x", nil), 404},
		{"DELETE with an unknown id", status("DELETE", "?id=x", nil), 404},
		{"PUT", status("PUT", polled, nil), 405},
		{"events on a polled connection", status("GET", polled, events), 400},
		{"upgrade of a polled connection", socket(polled), 400},
		{"second upgrade", socket(upgraded), 409},
		{"poll of a WebSocket", status("GET", upgraded, nil), 400},
		{"POST on a WebSocket", status("POST", upgraded, nil), 405},
		{"DELETE of a WebSocket", status("DELETE", upgraded, nil), 400},
		{"DELETE of a polled connection", status("DELETE", polled, nil), 202},
		{"poll after the end", status("GET", polled, nil), 204},
		{"poll after that", status("GET", polled, nil), 404},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d, want %d", test.what, test.got, test.want)
		}
	}
}

func TestAuthentication(t *testing.T) {
	f := start(t, signalr.HubOptions{Authenticate: byToken}, echoHub)
	bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	if n := negotiate(t, f.url, "", nil); n.Status != 401 || n.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("no token: %d", n.Status)
	}
	if n := negotiate(t, f.url, "", bearer("busy")); n.Status != 429 {
		t.Errorf("an HTTPError: %d", n.Status)
	}
	if _, s := dialRaw(t, f.url, bearer("bad")); s != 401 {
		t.Errorf("upgrade with a bad token: %d", s)
	}
	if s, status := dialRaw(t, f.url+"?access_token=alice", nil); s == nil {
		t.Errorf("upgrade with a token in the query: %d", status)
	}
	id := "?id=" + negotiate(t, f.url, "?negotiateVersion=1", bearer("alice")).ConnectionToken
	if _, s := dialRaw(t, f.url+id, bearer("mallory")); s != 403 {
		t.Errorf("upgrade by another user: %d", s)
	}
	id = "?id=" + negotiate(t, f.url, "?negotiateVersion=1", bearer("alice")).ConnectionToken
	if resp, _ := request(t, "GET", f.url+id, bearer("alice"), ""); resp.StatusCode != 200 {
		t.Fatalf("first poll: %d", resp.StatusCode)
	}
	if resp, _ := request(t, "POST", f.url+id, bearer("mallory"), ""); resp.StatusCode != 403 {
		t.Errorf("POST by another user: %d", resp.StatusCode)
	}

	c, err := client.New(f.url, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *client.HTTPError
	if err := c.Start(testContext(t)); !errors.As(err, &refused) || refused.Status != 401 {
		t.Errorf("client without token: %v", err)
	}
}

func TestOrigins(t *testing.T) {
	f := start(t, signalr.HubOptions{AllowedOrigins: []string{"https://good.example"}}, nil)
	from := func(origin string) http.Header { return http.Header{"Origin": {origin}} }
	n := negotiate(t, f.url, "", from("https://good.example"))
	if n.Status != 200 || n.Header.Get("Access-Control-Allow-Origin") != "https://good.example" ||
		n.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("allowed origin: %d %v", n.Status, n.Header)
	}
	if n := negotiate(t, f.url, "", from("https://evil.example")); n.Status != 403 {
		t.Errorf("other origin: %d", n.Status)
	}
	if n := negotiate(t, f.url, "", from(strings.TrimSuffix(f.url, "/hub"))); n.Status != 200 {
		t.Errorf("own origin: %d", n.Status)
	}
	if _, s := dialRaw(t, f.url, from("https://evil.example")); s != 403 {
		t.Errorf("WebSocket from another origin: %d", s)
	}
	h := from("https://good.example")
	h.Set("Access-Control-Request-Method", "POST")
	h.Set("Access-Control-Request-Headers", "x-signalr-user-agent")
	resp, _ := request(t, http.MethodOptions, f.url+"/negotiate", h, "")
	if resp.StatusCode != 204 || !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "x-signalr-user-agent") {
		t.Errorf("preflight: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestRedirect(t *testing.T) {
	target := start(t, signalr.HubOptions{Authenticate: byToken}, echoHub)
	first := start(t, signalr.HubOptions{
		Redirect: func(*http.Request, signalr.Identity) (signalr.Redirect, error) {
			return signalr.Redirect{URL: target.url, AccessToken: "alice"}, nil
		},
	}, nil)
	c := first.dial(t, client.Options{}, nil)
	var s string
	if err := c.Invoke(testContext(t), &s, "Echo", "there"); err != nil || s != "there" {
		t.Errorf("Echo: %q, %v", s, err)
	}
	if len(target.hub.User("alice").Conns()) != 1 {
		t.Error("the redirect's token was not used")
	}
}

func TestMaxConnections(t *testing.T) {
	refusals := make(chan string, 1000)
	f := startServer(t, signalr.Options{MaxConnections: 1, MaxNegotiations: 2, Metrics: signalr.Metrics{
		Refused: func(status int, reason string) { refusals <- fmt.Sprint(status, " ", reason) },
	}}, signalr.HubOptions{}, nil)
	s := dialGreeted(t, f.url, "json")
	if _, status := dialRaw(t, f.url, nil); status != 503 {
		t.Errorf("a second connection: %d", status)
	}
	if got := receive(t, refusals, "the metric"); got != "503 too many connections" {
		t.Errorf("metric %q", got)
	}
	s.send(opText, "{\"type\":7}\x1e")
	s.rest()
	eventually(t, "there is room again", func() bool {
		s, _ := dialRaw(t, f.url, nil)
		return s != nil
	})
	for range 2 {
		if n := negotiate(t, f.url, "", nil); n.Status != 200 {
			t.Errorf("negotiation: %d", n.Status)
		}
	}
	if n := negotiate(t, f.url, "", nil); n.Status != 503 || n.Header.Get("Retry-After") == "" {
		t.Errorf("one negotiation too many: %d", n.Status)
	}
}

// Admit keeps new connections away, negotiated or not; those that negotiated before, and redirects, are not its business.
func TestAdmit(t *testing.T) {
	var closed, away atomic.Bool
	target := start(t, signalr.HubOptions{}, echoHub)
	f := start(t, signalr.HubOptions{
		Admit: func(*http.Request) error {
			if closed.Load() {
				return &signalr.HTTPError{Status: http.StatusServiceUnavailable, Message: "elsewhere"}
			}
			return nil
		},
		Redirect: func(*http.Request, signalr.Identity) (signalr.Redirect, error) {
			if away.Load() {
				return signalr.Redirect{URL: target.url}, nil
			}
			return signalr.Redirect{}, nil
		},
	}, echoHub)
	f.dial(t, client.Options{}, nil)
	f.dial(t, client.Options{SkipNegotiation: true}, nil)
	negotiated := 0
	for c := range f.hub.Connections() {
		if c.Negotiated() {
			negotiated++
		}
		if c.Age() < 0 || c.Age() > patience {
			t.Errorf("a connection of %s", c.Age())
		}
	}
	if n := f.hub.Len(); negotiated != 1 || n != 2 {
		t.Errorf("%d of %d connections negotiated, want 1 of 2", negotiated, n)
	}

	closed.Store(true)
	for _, skip := range []bool{false, true} {
		c, err := client.New(f.url, client.Options{SkipNegotiation: skip, Reconnect: client.NoReconnect})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(testContext(t)); err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("skipping the negotiation %t: %v, want 503", skip, err)
		}
		_ = c.Close()
	}
	away.Store(true)
	f.dial(t, client.Options{}, nil)
	if here, there := f.hub.Len(), target.hub.Len(); here != 2 || there != 1 {
		t.Errorf("%d connections here and %d there, want 2 and 1", here, there)
	}
}

// A server that drains still says where its clients may go.
func TestRedirectWhileDraining(t *testing.T) {
	target := start(t, signalr.HubOptions{}, echoHub)
	f := start(t, signalr.HubOptions{
		Redirect: func(*http.Request, signalr.Identity) (signalr.Redirect, error) {
			return signalr.Redirect{URL: target.url}, nil
		},
	}, echoHub)
	if err := f.server.Drain(testContext(t)); err != nil {
		t.Fatal(err)
	}
	f.dial(t, client.Options{}, nil)
	if n := target.hub.Len(); n != 1 {
		t.Errorf("%d connections at the other server, want 1", n)
	}
}
