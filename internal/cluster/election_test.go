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
	var led []string
	for i := range streams {
		name := fmt.Sprint("S", i)
		s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		if s.CachedInfo().Cluster.Leader == clustertest.Name(0) {
			led = append(led, name)
		}
	}
	if len(led) == 0 {
		t.Fatal("the first server leads nothing")
	}
	began := time.Now()
	c.Kill(0)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
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
