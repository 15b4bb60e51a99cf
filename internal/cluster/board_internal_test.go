package cluster

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestWatchThatDoesNotHold: the log is told that a watch has ended, and warned once if none holds for long.
func TestWatchThatDoesNotHold(t *testing.T) {
	s, err := Start(Options{Name: "test", Dir: t.TempDir(), MaxStore: 1 << 20, MaxMemory: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close() // whatever is asked fails at once
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		log, lines := logged(slog.LevelInfo)
		b := newBoard(0, 1, js, log, func(boardEntry) {})
		for _, c := range []struct {
			after time.Duration
			level string
		}{{watchPatience - time.Second, "level=INFO"}, {10 * watchPatience, "level=INFO|level=WARN"}} {
			ctx, cancel := context.WithTimeout(t.Context(), c.after)
			b.run(ctx)
			cancel()
			var levels []string
			for line := range strings.Lines(lines()) {
				level, _, _ := strings.Cut(line, " ")
				levels = append(levels, level)
			}
			if got := strings.Join(levels, "|"); got != c.level {
				t.Errorf("in %v: lines of %s, want %s", c.after, got, c.level)
			}
		}
	})
}
