package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

// TestStopLimits: whatever the drain timeout, the parts of a stop follow each other, and all end within the time that
// operators are told: one and a half times the drain timeout, each of the two parts at least a second, and two seconds.
func TestStopLimits(t *testing.T) {
	for _, drain := range []time.Duration{0, time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 20 * time.Second, time.Hour} {
		l := (&Config{DrainTimeout: drain, PublishTimeout: 5 * time.Second}).stopLimits()
		if l.drain < time.Second || l.store < l.drain+time.Second || l.leave <= l.store || l.close < l.leave+time.Second {
			t.Errorf("drain timeout %s: %+v", drain, l)
		}
		if l.committing >= l.storing || l.appends >= l.storing || l.posts > l.storing {
			t.Errorf("drain timeout %s: what storing is divided into takes longer: %+v", drain, l)
		}
		if most := max(drain, time.Second) + max(drain/2, time.Second) + 2*time.Second; l.close > most {
			t.Errorf("drain timeout %s: a stop takes %s, more than %s", drain, l.close, most)
		}
	}
}

// TestStopTellsWhatTookItsTime: a part that does not end is left at its limit, and the log names it and what runs.
func TestStopTellsWhatTookItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		began := time.Now()
		stop := newStopping(slog.New(slog.NewTextHandler(&log, nil)))
		running := newParts(t.Context())
		hung := make(chan struct{})
		running.run("quick", func() error { return nil })
		slow := running.run("slow", func() error { <-hung; return nil })
		synctest.Wait()

		ended := make(chan struct{})
		close(ended)
		if !stop.await("first", ended, time.Second, running.left) {
			t.Error("a part that has ended did not end in time")
		}
		if stop.await("second", slow, stop.left(3*time.Second), running.left) {
			t.Error("a part that hangs has ended")
		}
		if took := time.Since(began); took != 3*time.Second || stop.left(3*time.Second) != 0 {
			t.Errorf("it was left after %s", took)
		}
		stop.done()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "part=second took=3s runs=slow") ||
			!strings.Contains(lines[1], "msg=stopped took=3s first=0s second=3s") {
			t.Errorf("the log: %s", log.String())
		}
		close(hung)
		<-running.allEnded()
	})
}

// TestPartsFail: the first part that fails says why the node does; one that ends because it was told to has not failed.
func TestPartsFail(t *testing.T) {
	fault := errors.New("a fault")
	for _, test := range []struct {
		name string
		errs []error
		want error
	}{
		{"none", []error{nil, nil}, nil},
		{"told to end", []error{context.Canceled, nil}, nil},
		{"failed", []error{nil, fault}, fault},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newParts(t.Context())
			for i, err := range test.errs {
				p.run(string(rune('a'+i)), func() error { return err })
			}
			<-p.allEnded()
			if err := p.failure(); !errors.Is(err, test.want) {
				t.Errorf("failure %v, want %v", err, test.want)
			}
			if left := p.left(); left != "" {
				t.Errorf("%s run after the end of all", left)
			}
		})
	}
}

// TestStartIsGivenUp: a node that is told to stop while its NATS server starts does not wait for that, and the server that comes
// all the same is closed: the next start has its directory.
func TestStartIsGivenUp(t *testing.T) {
	o := cluster.Options{Name: "test", Dir: t.TempDir(), MaxStore: 1 << 30, MaxMemory: 1 << 20, Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancelCause(t.Context())
	told := errors.New("told to stop")
	cancel(told)
	s, err := startServer(ctx, o)
	switch {
	case err == nil: // it was that fast
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	case !errors.Is(err, told):
		t.Fatal(err)
	}
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for {
		s, err := cluster.Start(o)
		if err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the directory is not free: %v", err)
		}
	}
}
