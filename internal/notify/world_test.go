package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

const testShards = 2

// patience is far above what anything takes here: reaching it is a failure.
const patience = 20 * time.Second

// world is a Service over a real store, with a committer for each shard.
type world struct {
	testing.TB
	store  *sqlite.Store
	faults faults // between the service and the store
	*Service

	mu     sync.Mutex
	ids    esh3ar.IDs
	epochs [testShards]store.Epoch
	now    time.Time
	ord    uint64

	quietly bool // commits are not announced
}

// faults is a store that fails on request.
type faults struct {
	Store
	down     atomic.Bool
	restored atomic.Bool // says that there are fewer events than there were
	reads    atomic.Int64
	now      atomic.Int64 // readings under way
	most     atomic.Int64 // that there were at one time
}

func (f *faults) Events(ctx context.Context, shard uint16, after int64, limit int) ([]store.EventWrite, error) {
	f.reads.Add(1)
	for n := f.now.Add(1); ; {
		most := f.most.Load()
		if n <= most || f.most.CompareAndSwap(most, n) {
			break
		}
	}
	defer f.now.Add(-1)
	if f.down.Load() {
		return nil, errors.New("the store is down")
	}
	if f.restored.Load() {
		return nil, nil
	}
	return f.Store.Events(ctx, shard, after, limit)
}

func (f *faults) EventRanges(ctx context.Context) (map[uint16]store.EventRange, error) {
	if f.down.Load() {
		return nil, errors.New("the store is down")
	}
	ranges, err := f.Store.EventRanges(ctx)
	if f.restored.Load() {
		for shard, r := range ranges {
			r.Last--
			ranges[shard] = r
		}
	}
	return ranges, err
}

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	w := &world{TB: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	for shard := range w.epochs {
		claim, err := w.store.Claim(t.Context(), uint16(shard))
		if err != nil {
			t.Fatal(err)
		}
		w.epochs[shard] = claim.Epoch
	}
	w.faults.Store = w.store
	o := Options{
		Store: &w.faults, Shards: testShards, WatchEvery: 20 * time.Millisecond,
		Problem: func(err error) (int, []byte) { return 0, fmt.Appendf(nil, "%q", err) },
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	if w.Service, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// commit stores, in one write, a message of each of these clients that went through the statuses, and
// announces it.
func (w *world) commit(shard uint16, statuses []esh3ar.Status, clients ...string) {
	w.Helper()
	w.mu.Lock()
	w.now = w.now.Add(time.Millisecond)
	b := &store.Batch{Shard: shard, Epoch: w.epochs[shard], At: w.now}
	for _, client := range clients {
		w.ord++
		state := esh3ar.NewState(w.now)
		for _, s := range statuses {
			if s == esh3ar.StatusSent {
				state.Attempts++
			}
			if !state.Move(s, w.now, esh3ar.ReasonNone) {
				w.Fatalf("%v cannot become %v", state.Status, s)
			}
		}
		b.Changes = append(b.Changes, store.Change{
			Message: &esh3ar.Message{ID: w.ids.New(w.now, shard), Client: client, To: fmt.Sprint(w.ord), Content: "x", AcceptedAt: w.now},
			State:   state, Ord: w.ord,
		})
	}
	w.mu.Unlock()
	if err := w.store.Commit(context.Background(), b); err != nil {
		w.Error(err)
	}
	if !w.quietly {
		w.Committed(shard)
	}
}

// delivered is the life of a message that is delivered at once: three events are told of it.
var delivered = []esh3ar.Status{esh3ar.StatusQueued, esh3ar.StatusSent, esh3ar.StatusDelivered}

// stored returns the events that a client must be told of, shard by shard.
func (w *world) stored(client string) (shards [testShards][]esh3ar.Event) {
	w.Helper()
	for shard := range shards {
		writes, err := w.store.Events(w.Context(), uint16(shard), 0, 1<<20)
		if err != nil {
			w.Fatal(err)
		}
		for _, one := range writes {
			for _, e := range one.Events {
				if e.Client == client && e.Status != esh3ar.StatusAccepted {
					shards[shard] = append(shards[shard], e)
				}
			}
		}
	}
	return shards
}

// follow begins to follow; the follower is closed with the test.
func (w *world) follow(client string, start Start) *Follower {
	w.Helper()
	f, err := w.Follow(w.Context(), client, start, 0)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(f.Close)
	return f
}

// next reads n events.
func (w *world) next(f *Follower, n int) []Event {
	w.Helper()
	var all []Event
	for len(all) < n {
		events, err := f.Next(context.Background(), n-len(all), patience)
		if err != nil || len(events) == 0 {
			w.Fatalf("after %d of %d events: %d, %v", len(all), n, len(events), err)
		}
		all = append(all, events...)
	}
	return all
}

// quiet makes sure that nothing more comes.
func (w *world) quiet(f *Follower) {
	w.Helper()
	if events, err := f.Next(context.Background(), 10, 30*time.Millisecond); err != nil || len(events) > 0 {
		w.Fatalf("%d more events, %v: %+v", len(events), err, events)
	}
}

// complete makes sure that these are all of the client's events, once each and in the order of each shard.
func (w *world) complete(client string, events []Event) {
	w.Helper()
	want := w.stored(client)
	var at [testShards]int
	for i, e := range events {
		shard := e.Message.Shard()
		if at[shard] == len(want[shard]) || e.Event != want[shard][at[shard]] {
			w.Fatalf("event %d of %s is %+v, number %d of shard %d is not", i, client, e.Event, at[shard], shard)
		}
		at[shard]++
	}
	for shard := range want {
		if at[shard] != len(want[shard]) {
			w.Fatalf("%s has %d events of shard %d, of %d", client, at[shard], shard, len(want[shard]))
		}
	}
}
