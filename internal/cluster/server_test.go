package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(dir string) cluster.Options {
	return cluster.Options{Name: "test", Dir: dir, MaxStore: 1 << 30, MaxMemory: 1 << 20, Logger: slog.New(slog.DiscardHandler)}
}

func mustStart(t *testing.T, dir string) *cluster.Server {
	t.Helper()
	s, err := cluster.Start(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustConnect(t *testing.T, s *cluster.Server, o ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := s.Connect(o...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestOptions(t *testing.T) {
	for name, change := range map[string]func(*cluster.Options){
		"name":      func(o *cluster.Options) { o.Name = "" },
		"directory": func(o *cluster.Options) { o.Dir = "" },
		"logger":    func(o *cluster.Options) { o.Logger = nil },
		"disk":      func(o *cluster.Options) { o.MaxStore = 0 },
		"memory":    func(o *cluster.Options) { o.MaxMemory = -1 },
	} {
		o := options(t.TempDir())
		change(&o)
		if s, err := cluster.Start(o); err == nil {
			t.Errorf("%s: started, and closed again: %v", name, s.Close())
		}
	}
}

// TestKilledWhileItStarts: what a server leaves that was killed when it tried whether it can write does not keep later ones
// from being well.
func TestKilledWhileItStarts(t *testing.T) {
	dir := t.TempDir()
	s, err := cluster.Start(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(dir, "jetstream", "_test_1429024417")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustStart(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		t.Error(err)
	}
	if err := s.WriteError(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(probe); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// TestDirectoryThatCannotBeWritten shows that a server that cannot start says
// why, and at once.
func TestDirectoryThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600); err != nil { // where a directory has to be
		t.Fatal(err)
	}
	began := time.Now()
	s, err := cluster.Start(options(dir))
	if err == nil {
		t.Fatalf("started, and closed again: %v", s.Close())
	}
	if took := time.Since(began); took > 5*time.Second || !strings.Contains(err.Error(), "JetStream") {
		t.Errorf("after %s: %v", took, err)
	}
}

func TestDirectoryHasOneServer(t *testing.T) {
	dir := t.TempDir()
	s := mustStart(t, dir)
	if _, err := cluster.Start(options(dir)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second server on the directory: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustStart(t, dir)
}

// TestRestart: a connection comes back by itself with its subscriptions, and
// what was published to no server is refused at once.
func TestRestart(t *testing.T) {
	s := mustStart(t, t.TempDir())
	reconnected := make(chan struct{}, 1)
	nc := mustConnect(t, s, nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
	sub, err := nc.SubscribeSync("subject")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := nc.Publish("subject", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		<-reconnected
	}
	if err := s.WriteError(); err != nil {
		t.Error(err)
	}
	if free, err := s.FreeBytes(); err != nil || free == 0 {
		t.Errorf("%d bytes free, error %v", free, err)
	}
}

func TestClosed(t *testing.T) {
	s := mustStart(t, t.TempDir())
	disconnected := make(chan struct{})
	nc := mustConnect(t, s, nats.DisconnectErrHandler(func(*nats.Conn, error) { close(disconnected) }))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	<-disconnected
	if err := nc.Publish("subject", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("publish to the closed server: %v", err)
	}
	if _, err := s.Connect(); err == nil {
		t.Error("connected to the closed server")
	}
	if err := s.Restart(); err == nil {
		t.Error("restarted the closed server")
	}
	if err := s.WriteError(); err == nil {
		t.Error("the closed server can write")
	}
}
