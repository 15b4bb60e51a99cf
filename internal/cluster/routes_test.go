package cluster_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
)

// lines gets the lines of a log. Lines over its capacity are an error of the test, which would wait.
type lines chan string

// Write implements io.Writer.
func (l lines) Write(p []byte) (int, error) {
	l <- strings.TrimSpace(string(p))
	return len(p), nil
}

// TestServerAway: a server that is killed and comes back is two lines in the log of each of the others, one that warns and one that
// is good news, and no error.
func TestServerAway(t *testing.T) {
	t.Parallel()
	var logs [3]lines
	for i := range logs {
		logs[i] = make(lines, 10_000)
	}
	c := clustertest.Start(t, 3, func(i int, o *cluster.Options) {
		o.Logger = slog.New(slog.NewTextHandler(logs[i], nil))
	})
	want := func(i int, level, text string) {
		t.Helper()
		for {
			select {
			case line := <-logs[i]:
				switch {
				case strings.Contains(line, "level="+level) && strings.Contains(line, text) && strings.HasSuffix(line, "node=n1"):
					return
				case !strings.Contains(line, "level=INFO"):
					t.Errorf("server %d logs: %s", i, line)
				}
			case <-time.After(time.Minute):
				t.Fatalf("server %d does not log that there is %s", i, text)
			}
		}
	}
	for _, i := range []int{0, 2} {
		want(i, "INFO", "another node's NATS server is connected")
	}
	c.Kill(1)
	for _, i := range []int{0, 2} {
		want(i, "WARN", "no connection to another node's NATS server")
	}
	c.Restart(1)
	for _, i := range []int{0, 2} {
		want(i, "INFO", "another node's NATS server is connected again")
	}
}
