package cluster

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A server of several whose disk is full when it starts turns JetStream off by itself while it catches up with the others, and is never
// ready by itself again: whoever waits for that is told why.
func TestReadyEndsWhenTheServerHasGivenUp(t *testing.T) {
	s, err := Start(Options{
		Name: "a", Dir: filepath.Join(t.TempDir(), "a"), MaxStore: 1 << 20, MaxMemory: 1 << 20, Logger: slog.New(slog.DiscardHandler),
		Peers: &Peers{Cluster: "test", Listen: "127.0.0.1:0", Routes: []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, Secret: "0123456789abcdef0123456789abcdef"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// Alone of three it waits, for as long as it is to.
	waiting, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Ready(waiting); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without the others: %v, want a wait for them", err)
	}
	// The line by which NATS says so; nothing else does.
	natsLogger{Logger: s.opts.Logger, disabled: &s.disabled}.Errorf("JetStream out of %s resources, will be DISABLED", "File")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Ready(ctx); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("with a full disk: %v, want that it is full", err)
	}
}
