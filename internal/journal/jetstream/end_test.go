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

// The leader of a stream is cut off, others go on, and it comes back: until it has heard of its successor it answers, too, also
// those who never were without the majority. Last may believe it; End does not.
func TestEndAfterACut(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var logs [3]*jetstream.Log
	for i := range logs {
		var err error
		if logs[i], err = clustered(t, c, i, jetstream.Options{Shards: 1}); err != nil {
			t.Fatal(err)
		}
		defer closing(t, logs[i])
	}
	var p journal.Partition
	awaitStreams(t, logs[0], 1)
	for round := range 3 {
		leader := int(leaders(t, admin(t, c, round%3), 1)[0][1] - '0')
		l := logs[(leader+1)%3]
		c.Cut(leader)
		newest := appended(ctx, t, l, p)
		for range 20 {
			newest = appended(ctx, t, l, p)
		}
		c.Heal(leader)
		stale, asked := 0, 0
		for healed := time.Now(); time.Since(healed) < 2*time.Second; asked++ {
			l := logs[(leader+1+asked%2)%3]
			last, err := l.Last(ctx, p)
			if err != nil || last >= newest {
				continue // what End writes tells the one that was cut off of its successor
			}
			stale++
			end, err := l.End(ctx, p)
			switch {
			case errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrUnknown): // it may say that it does not know
			case err != nil:
				t.Fatal(err)
			case end < newest:
				t.Fatalf("the end is said to be %d after %d was acknowledged", end, newest)
			}
		}
		t.Logf("round %d: asked %d times, Last was stale %d times", round, asked, stale)
	}
}

// appended appends an entry, however often it takes, and returns its sequence.
func appended(ctx context.Context, t *testing.T, l *jetstream.Log, p journal.Partition) uint64 {
	t.Helper()
	for {
		appending, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		seq, err := l.Append(appending, p, []byte("entry"))
		cancel()
		if err == nil {
			return seq
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// On a partition that is busy the end is found, too, and grows.
func TestEndWhileAppending(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, nil)
	l, err := clustered(t, c, 0, jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	awaitStreams(t, l, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var p journal.Partition
	appending := make(chan struct{})
	defer func() { <-appending }()
	busy, end := context.WithCancel(ctx)
	defer end()
	acknowledged := make(chan uint64, 1)
	go func() {
		defer close(appending)
		for busy.Err() == nil {
			seq, err := l.Append(busy, p, []byte("entry"))
			if err != nil {
				continue
			}
			select {
			case <-acknowledged:
			default:
			}
			acknowledged <- seq
		}
	}()
	for range 50 {
		least := <-acknowledged
		got, err := l.End(ctx, p)
		if err != nil || got < least {
			t.Fatalf("%d, %v, after %d was acknowledged", got, err, least)
		}
	}
	if empty, err := l.End(ctx, journal.Partition{Tier: 2}); err != nil || empty != 0 {
		t.Errorf("an empty partition ends at %d, %v", empty, err)
	}
}
