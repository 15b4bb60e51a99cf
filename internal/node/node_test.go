package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/node"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// boot runs a server on a free port over dir until stop is called.
func boot(t *testing.T, dir string) (info node.Info, stop func()) {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data = "127.0.0.1:0", dir
	n, err := node.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, n)
}

// serve runs a server until stop is called.
func serve(t *testing.T, n *node.Node) (info node.Info, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return n.Info(), func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the server does not stop")
		}
	}
}

// call makes one request with the development key and decodes the JSON answer.
func call(t *testing.T, info node.Info, method, path, body string, want int) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+info.Addr+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+info.DevKey)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, raw)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, raw)
	}
	return out
}

func TestAcceptedIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	info, stop := boot(t, dir)
	if !info.FirstStart {
		t.Error("the first start does not say so")
	}
	got := call(t, info, "POST", "/v1/messages", `{"to":"00962 79-123 4567","content":"hello"}`, http.StatusAccepted)
	if got["to"] != "+962791234567" || got["status"] != "accepted" {
		t.Errorf("answer: %v", got)
	}
	id := got["id"].(string)
	if m := call(t, info, "GET", "/v1/messages/"+id, "", http.StatusOK); m["content"] != "hello" {
		t.Errorf("message: %v", m)
	}
	call(t, info, "GET", "/readyz", "", http.StatusOK)
	stop()

	again, stop := boot(t, dir)
	defer stop()
	if again.FirstStart || again.DevKey != info.DevKey {
		t.Error("the development key did not stay")
	}
	if m := call(t, again, "GET", "/v1/messages/"+id, "", http.StatusOK); m["status"] != "queued" {
		t.Errorf("message: %v", m)
	}
}

func TestShardsCannotChange(t *testing.T) {
	dir := t.TempDir()
	_, stop := boot(t, dir)
	stop()
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Shards = "127.0.0.1:0", dir, 3
	if _, err := node.New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("another number of shards was taken")
	}
}

// TestStoreThatDoesNotOpen shows that a server whose store cannot be opened says so and nothing else:
// what is not there is not closed. For a server that does not answer the first start waits until it is told
// to end.
func TestStoreThatDoesNotOpen(t *testing.T) {
	for name, url := range map[string]node.StoreURL{
		"sqlite":   node.StoreURL("sqlite:" + t.TempDir()),
		"postgres": "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1",
	} {
		cfg := node.DefaultConfig()
		cfg.Listen, cfg.Data, cfg.Store = "127.0.0.1:0", t.TempDir(), url
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if n, err := node.New(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil))); err == nil {
			t.Errorf("%s: the server opens: %v", name, n.Close())
		} else if ended := errors.Is(err, context.DeadlineExceeded); ended != (name == "postgres") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// lineSeen is closed by the first line of a log that holds text.
type lineSeen struct {
	io.Writer
	text string
	seen chan struct{}
}

func (w *lineSeen) Write(p []byte) (int, error) {
	if w.text != "" && strings.Contains(string(p), w.text) {
		w.text = ""
		close(w.seen)
	}
	return w.Writer.Write(p)
}

// TestFirstStartWaitsForTheStore: where a new journal begins is the store's to say, so the first node of a cluster waits for a
// store that is late, and starts when it has come.
func TestFirstStartWaitsForTheStore(t *testing.T) {
	pg, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.Store = "127.0.0.1:0", t.TempDir(), node.StoreURL(pg.URL("postgres"))
	cfg.ClusterName, cfg.NodeName, cfg.Routes = "one", "first", []string{"127.0.0.1:1"}
	cfg.ClusterSecret, cfg.JWTSecret = "between the nodes", "of the devices, at least thirty-two bytes"
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waits := &lineSeen{t.Output(), "the start waits for the store", make(chan struct{})}
	opened := make(chan error, 1)
	go func() {
		n, err := node.New(ctx, cfg, slog.New(slog.NewTextHandler(waits, nil)))
		if err == nil {
			err = n.Close()
		}
		opened <- err
	}()
	select {
	case <-waits.seen:
	case err := <-opened:
		t.Fatalf("it does not wait for the store: %v", err)
	}
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
