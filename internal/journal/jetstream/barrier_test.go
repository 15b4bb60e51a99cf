package jetstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// A stream's leader that is cut off from the others takes an entry and never answers. The barrier ends all the same, so
// that it can be tried again, and succeeds when the leader is back.
func TestBarrierWithoutAnswer(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, nil)
	first, err := clustered(t, c, 0, jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, first)
	leader := int(leaders(t, admin(t, c, 0), 1)[0][1] - '0')
	l := first
	if leader != 0 {
		if l, err = clustered(t, c, leader, jetstream.Options{Shards: 1}); err != nil {
			t.Fatal(err)
		}
		defer closing(t, l)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c.Cut(leader)
	if _, err := l.Barrier(ctx, 0); ctx.Err() != nil || !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("a barrier without an answer: %v, and after all %v", err, ctx.Err())
	}
	c.Heal(leader)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := l.Barrier(ctx, 0)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no barrier after the healing: %v", err)
		}
	}
}
