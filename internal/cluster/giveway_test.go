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

// Each server gives way in its turn, the leader of the directory among them. It leads nothing then, and streams have leaders.
func TestGiveWay(t *testing.T) {
	t.Parallel()
	const (
		streams = 6
		calls   = 3 // at most: on a busy machine another server may be behind again, or there is an election
	)
	c := clustertest.Start(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	js, err := jetstream.New(mustConnect(t, c.Server(0)))
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	until := func(done func() error) {
		t.Helper()
		for {
			err := done()
			if err == nil {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal(err)
			}
		}
	}
	name := func(i int) string { return fmt.Sprint("S", i) }
	for i := range streams {
		until(func() error { // the leader may not know of all servers yet
			_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name(i), Subjects: []string{name(i)}, Replicas: 3})
			return err
		})
	}
	info := func(i int) (of *jetstream.ClusterInfo) {
		t.Helper()
		until(func() error {
			s, err := js.Stream(ctx, name(i))
			if err == nil {
				of = s.CachedInfo().Cluster
			}
			return err
		})
		return of
	}
	all := 0
	for server := range c.Len() {
		for call := 1; ; call++ {
			for i := range streams { // so that the others are up to date, which a busy machine makes late
				until(func() error { _, err := js.Publish(ctx, name(i), nil); return err })
				until(func() error {
					if of := info(i); slices.ContainsFunc(of.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current }) {
						return fmt.Errorf("a server is not up to date in %s", name(i))
					}
					return nil
				})
			}
			began := time.Now()
			moved, err := c.Server(server).GiveWay(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s gave %d groups away within %s", clustertest.Name(server), moved, time.Since(began))
			all += moved
			var led []string
			for i := range streams {
				if info(i).Leader == clustertest.Name(server) {
					led = append(led, name(i))
				}
			}
			if len(led) == 0 {
				break
			}
			if call == calls {
				t.Fatalf("%s leads %v after it has given way %d times", clustertest.Name(server), led, calls)
			}
		}
	}
	if all < streams+1 {
		t.Errorf("%d groups had other leaders, after each server was to lead none of %d and the directory", all, streams)
	}
}
