package signalr_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

func TestMain(m *testing.M) {
	if runRole() {
		return
	}
	goleak.VerifyTestMain(m)
}

// A fixture is a running server with one hub at /hub.
type fixture struct {
	server *signalr.Server
	hub    *signalr.Hub
	url    string // of the hub
}

// start runs a server with one hub until the test ends. register adds the
// hub's methods.
func start(t testing.TB, opts signalr.HubOptions, register func(h *signalr.Hub)) *fixture {
	t.Helper()
	return startServer(t, signalr.Options{}, opts, register)
}

func startServer(t testing.TB, serverOpts signalr.Options, opts signalr.HubOptions, register func(h *signalr.Hub)) *fixture {
	t.Helper()
	server, err := signalr.NewServer(serverOpts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return serve(t, server, opts, register)
}

// serve adds a hub to a server and an HTTP server around it.
func serve(t testing.TB, server *signalr.Server, opts signalr.HubOptions, register func(h *signalr.Hub)) *fixture {
	t.Helper()
	hub, err := server.NewHub(opts)
	if err != nil {
		t.Fatal(err)
	}
	if register != nil {
		register(hub)
	}
	mux := http.NewServeMux()
	hub.Mount(mux, "/hub")
	web := httptest.NewServer(mux)
	t.Cleanup(web.CloseClientConnections)
	t.Cleanup(web.Close)
	return &fixture{server: server, hub: hub, url: web.URL + "/hub"}
}

// dial connects a client of the package until the test ends.
func (f *fixture) dial(t testing.TB, opts client.Options, prepare func(c *client.Client)) *client.Client {
	t.Helper()
	return dial(t, f.url, opts, prepare)
}

func dial(t testing.TB, url string, opts client.Options, prepare func(c *client.Client)) *client.Client {
	t.Helper()
	c, err := client.New(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(c)
	}
	t.Cleanup(func() {
		_ = c.Close()
		receive(t, c.Done(), "the client's end")
	})
	if err := c.Start(testContext(t)); err != nil {
		t.Fatalf("start: %v", err)
	}
	return c
}

// patience is how long a test waits for what must come.
const patience = time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive returns what a channel yields.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v until %s", patience, what)
		}
	}
}

func wantContains(t testing.TB, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("got %q, want it to contain %q", got, want)
	}
}
