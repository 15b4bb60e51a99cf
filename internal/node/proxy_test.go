package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/node"
)

// guess sends a message with an API key that nobody has, over a connection of its own, and returns the answer's
// code. Before is what goes ahead of the request.
func guess(t *testing.T, addr, before, fields, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	key := fmt.Sprintf("esh_%d", time.Now().UnixNano())
	fmt.Fprintf(c, "%s%s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n%sContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", before, request, key, fields)
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	var p struct{ Code string }
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	return p.Code
}

// TestTrustedProxies: who guesses keys is told apart by what a trusted proxy says of the client's address,
// by X-Forwarded-For and by the PROXY protocol, whoever reads the request; and by nothing that a client says itself.
func TestTrustedProxies(t *testing.T) {
	for name, c := range map[string]struct {
		trusted []string
		// say returns what says that the client is that address.
		say   func(address string) (before, fields string)
		apart bool
	}{
		"forwarded":              {[]string{"127.0.0.0/8"}, func(a string) (string, string) { return "", "X-Forwarded-For: " + a + "\r\n" }, true},
		"PROXY protocol":         {[]string{"127.0.0.1"}, func(a string) (string, string) { return "PROXY TCP4 " + a + " 192.0.2.1 1 2\r\n", "" }, true},
		"forwarded by strangers": {nil, func(a string) (string, string) { return "", "X-Forwarded-For: " + a + "\r\n" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			info := bootWith(t, func(o *node.Config) { o.TrustedProxies = c.trusted })
			// The first is plain and read by the front, the second by net/http.
			for i, request := range []string{"POST /v1/messages", "GET /v1/messages"} {
				first, second := fmt.Sprintf("203.0.113.%d", 10+i), fmt.Sprintf("198.51.100.%d", 10+i)
				before, fields := c.say(first)
				code, tries := "", 0
				for ; code != "too_many_unknown_keys" && tries < 60; tries++ {
					code = guess(t, info.Addr, before, fields, request)
				}
				if code != "too_many_unknown_keys" {
					t.Fatalf("%s: %d guesses, and the answer is %s", request, tries, code)
				}
				before, fields = c.say(second)
				want := "api_key_unknown"
				if !c.apart {
					want = "too_many_unknown_keys"
				}
				if code := guess(t, info.Addr, before, fields, request); code != want {
					t.Errorf("%s: another client is told %s, want %s", request, code, want)
				}
			}
		})
	}
}

// TestDrainDelay: for the delay a server that is to stop says so and serves on.
func TestDrainDelay(t *testing.T) {
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.DrainDelay = "127.0.0.1:0", t.TempDir(), time.Second
	n, err := node.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	if r := call(t, n.Info(), "GET", "/readyz", "", http.StatusOK); r["load"].(map[string]any)["free"].(float64) < 0.5 {
		t.Errorf("an idle server has little free: %v", r)
	}
	cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for drains := false; !drains; {
		select {
		case <-tick.C:
			resp, err := http.Get("http://" + n.Info().Addr + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			drains = resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(body), `"drain"`)
		case <-deadline:
			t.Fatal("/readyz does not tell of the stop")
		}
	}
	call(t, n.Info(), "POST", "/v1/messages", `{"to":"alice","content":"still"}`, http.StatusAccepted)
	http.DefaultClient.CloseIdleConnections()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
