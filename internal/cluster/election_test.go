package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
)

// JetStream alone would need at least three seconds for the first of several streams, and mostly six.
func TestElectionsComeEarly(t *testing.T) {
	t.Parallel()
	const streams = 6
	c := clustertest.Start(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	js, err := jetstream.New(mustConnect(t, c.Server(1)))
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	create := func(name string) (leader string) {
		for {
			s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3})
			if err == nil {
				return s.CachedInfo().Cluster.Leader
			}
			select {
			case <-tick.C: // the leader may not know of all servers yet
			case <-ctx.Done():
				t.Fatal(err)
			}
		}
	}
	ledBy := make(map[string][]string)
	for i := range streams {
		name := fmt.Sprint("S", i)
		leader := create(name)
		ledBy[leader] = append(ledBy[leader], name)
	}
	victim := 0 // or 2, which leads more; this client is connected to 1
	if len(ledBy[clustertest.Name(2)]) > len(ledBy[clustertest.Name(0)]) {
		victim = 2
	}
	led := ledBy[clustertest.Name(victim)]
	if len(led) == 0 {
		t.Fatalf("one server leads all: %v", ledBy)
	}
	began := time.Now()
	c.Kill(victim)
	var first time.Duration
	for len(led) > 0 {
		led = slices.DeleteFunc(led, func(name string) bool {
			if _, err := js.Publish(ctx, name, nil, jetstream.WithRetryAttempts(0)); err != nil {
				return false
			}
			took := time.Since(began)
			t.Logf("%s takes messages after %s", name, took)
			if first == 0 {
				first = took
			}
			return true
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no leaders for %q", led)
		}
	}
	if first > 3*time.Second {
		t.Errorf("the first election took %s", first)
	}
}
