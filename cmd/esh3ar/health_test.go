package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// healthOf runs the command in this process.
func healthOf(t *testing.T, args ...string) (status int, said string) {
	t.Helper()
	var out bytes.Buffer
	status = run(context.Background(), append([]string{"health"}, args...), stdio{strings.NewReader(""), &out, &out})
	return status, out.String()
}

func TestHealthOfAServer(t *testing.T) {
	s := startServer(t)
	for _, args := range [][]string{{"--wait", "30s"}, {"--live"}} {
		if status, said := healthOf(t, append(args, "--url", s.url)...); status != 0 || said != "ok\n" {
			t.Errorf("%q: status %d, %q", args, status, said)
		}
	}
}

func TestHealthSaysWhatIsWrong(t *testing.T) {
	answers := []struct {
		status int
		body   string
	}{
		{http.StatusServiceUnavailable, `{"status":"unavailable","checks":{"store":{"status":"ok"},"drain":{"status":"unavailable","detail":"the process is stopping"}}}`},
		{http.StatusServiceUnavailable, "no \x1b[2J JSON"},
		{http.StatusOK, `{"status":"degraded","checks":{"memory":{"status":"degraded","detail":"little is free"}}}`},
	}
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := answers[min(int(asked.Add(1)), len(answers))-1]
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.body)) // the client may have gone
	}))
	defer server.Close()

	want := "esh3ar: 503 Service Unavailable: unavailable; drain unavailable: the process is stopping\n"
	if status, said := healthOf(t, "--url", server.URL); status != 1 || said != want {
		t.Errorf("status %d, %q, want 1 and %q", status, said, want)
	}
	if status, said := healthOf(t, "--url", server.URL); status != 1 || !strings.Contains(said, "no ·[2J JSON") {
		t.Errorf("status %d, %q", status, said)
	}
	// It asks again while it may wait, and a degraded server is ready.
	asked.Store(0)
	want = "degraded; memory degraded: little is free\n"
	if status, said := healthOf(t, "--url", server.URL, "--wait", "30s"); status != 0 || said != want {
		t.Errorf("status %d, %q, want 0 and %q", status, said, want)
	}
	server.Close()
	if status, _ := healthOf(t, "--url", server.URL, "--wait", "300ms"); status != 1 {
		t.Errorf("nobody listens: status %d", status)
	}
}
