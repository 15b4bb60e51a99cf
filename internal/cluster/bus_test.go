package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

func TestBus(t *testing.T) {
	s, err := cluster.Start(cluster.Options{Name: "alone", Dir: t.TempDir(), MaxStore: 1 << 20, MaxMemory: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	bus := func(node string) *cluster.Bus {
		b, err := cluster.NewBus(s, node)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	a, b := bus("a"), bus("b.example")
	end, err := b.Handle("question", func(from string, data []byte) []byte { return []byte(from + " asks " + string(data)) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var answer []byte
	eventually(t, 20*time.Second, "an answer", func() bool { // the subscription is on its way
		answer, err = a.Request(ctx, "b.example", "question", []byte("why"))
		return err == nil
	})
	if string(answer) != "a asks why" {
		t.Errorf("answer %q", answer)
	}
	if _, err := a.Request(ctx, "nobody", "question", nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a node that is not there: %v", err)
	}

	heard := make(chan string, 10)
	for _, x := range []*cluster.Bus{a, b} {
		stop, err := x.Hear("news", func(from string, data []byte) { heard <- from + " tells " + string(data) })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	eventually(t, 20*time.Second, "the news", func() bool {
		if err := a.Tell("news", []byte("this")); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if got != "a tells this" {
				t.Fatalf("heard %q", got)
			}
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	end()
	if _, err := a.Request(ctx, "b.example", "question", nil); err == nil {
		t.Error("a handler that has ended answers")
	}
	if _, err := cluster.NewBus(s, "no name"); err == nil {
		t.Error("a name with a space is taken")
	}
}
