package notify

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// TestFollowersWhileWritten follows two clients, and one of them from the middle, while both shards are
// written: everybody gets the own events, all, once and in order.
func TestFollowersWhileWritten(t *testing.T) {
	w := newWorld(t)
	const commits = 60
	early := map[string]*Follower{"alice": w.follow("alice", Start{}), "bob": w.follow("bob", Start{})}
	var group sync.WaitGroup
	for shard := range uint16(testShards) {
		group.Go(func() {
			for i := range commits {
				w.commit(shard, delivered, [][]string{{"alice", "bob", "alice"}, {"bob"}, {"carol", "alice", "carol"}}[i%3]...)
			}
		})
	}
	got := make(map[string][]Event)
	var mu sync.Mutex
	for client, f := range early {
		group.Go(func() {
			var events []Event
			for {
				more, err := f.Next(context.Background(), 7, 2*time.Second)
				if err != nil {
					t.Error(err)
				}
				if len(more) == 0 {
					break
				}
				events = append(events, more...)
			}
			mu.Lock()
			got[client] = events
			mu.Unlock()
		})
	}
	// Others come and go meanwhile.
	var late []Event
	group.Go(func() {
		f := w.follow("alice", Start{Oldest: true})
		first := w.next(f, 50)
		f.Close()
		again, err := w.Follow(context.Background(), "alice", Start{Cursor: first[49].Cursor}, 0)
		if err != nil {
			t.Error(err)
			return
		}
		w.Cleanup(again.Close)
		late = append(first, w.next(again, commits*testShards*3-100)...)
		for {
			more, err := again.Next(context.Background(), 100, time.Second)
			if err != nil {
				t.Error(err)
			}
			if len(more) == 0 {
				break
			}
			late = append(late, more...)
		}
	})
	group.Wait()
	w.complete("alice", got["alice"])
	w.complete("bob", got["bob"])
	w.complete("alice", late)
}

// TestResumeBehindEveryEvent goes on from each cursor that was given out, also in mid-write.
func TestResumeBehindEveryEvent(t *testing.T) {
	w := newWorld(t)
	live := w.follow("alice", Start{})
	for i := range 6 {
		w.commit(uint16(i%2), delivered, "alice", "bob", "alice", "alice", "bob")
	}
	all := w.next(live, 6*3*3)
	w.complete("alice", all)
	fromStore := w.next(w.follow("alice", Start{Oldest: true}), len(all))
	w.complete("alice", fromStore)
	for _, told := range [][]Event{all, fromStore} {
		for i := range told {
			rest := told[i+1:]
			f := w.follow("alice", Start{Cursor: told[i].Cursor})
			again := w.next(f, len(rest))
			w.complete("alice", append(append([]Event{}, told[:i+1]...), again...))
			w.quiet(f)
			f.Close()
		}
	}
}

func TestFollowBeginsNow(t *testing.T) {
	w := newWorld(t)
	w.commit(0, delivered, "alice")
	f := w.follow("alice", Start{})
	begun := f.Cursor()
	w.quiet(f)
	w.commit(1, delivered, "alice", "bob")
	w.commit(0, delivered, "bob")
	if e := w.next(f, 3)[2]; e.Status != esh3ar.StatusDelivered || e.Seq != 4 || e.Message.Shard() != 1 {
		t.Errorf("%+v", e)
	}
	w.quiet(f)
	// What is not the client's moves the cursor, too.
	ranges, err := w.store.EventRanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); f.Cursor() != endOf(ranges, testShards).String(); w.quiet(f) {
		if time.Since(begun) > patience {
			t.Fatalf("the cursor stays behind others' events: %v, %+v", f.cursor, ranges)
		}
	}
	// The place where it began was good for resuming before anything had come.
	w.next(w.follow("alice", Start{Cursor: begun}), 3)
}

func TestFilter(t *testing.T) {
	w := newWorld(t)
	var filter Filter
	if err := errors.Join(filter.add("delivered, read", ""), filter.add("message.expired", typePrefix)); err != nil {
		t.Fatal(err)
	}
	f, err := w.Follow(t.Context(), "alice", Start{}, filter)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w.commit(0, delivered, "alice", "alice")
	w.commit(1, append(delivered, esh3ar.StatusRead), "alice")
	w.commit(1, []esh3ar.Status{esh3ar.StatusQueued, esh3ar.StatusCanceled}, "alice")
	w.commit(1, []esh3ar.Status{esh3ar.StatusQueued, esh3ar.StatusExpired}, "alice")
	count := make(map[esh3ar.Status]int)
	for _, e := range w.next(f, 5) {
		count[e.Status]++
	}
	if len(count) != 3 || count[esh3ar.StatusDelivered] != 3 || count[esh3ar.StatusRead] != 1 || count[esh3ar.StatusExpired] != 1 {
		t.Errorf("%v", count)
	}
	w.quiet(f)
	for _, wrong := range []string{"", "accepted", "done", "delivered,", "message.read"} {
		var f Filter
		if err := f.add(wrong, ""); esh3ar.KindOf(err) != esh3ar.KindInvalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// TestSlowFollower does not read for long: it holds up nobody, holds a bounded amount, and gets all of it.
func TestSlowFollower(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(o *Options) { o.Metrics = registry })
	slow, quick := w.follow("alice", Start{}), w.follow("alice", Start{})
	w.commit(0, delivered, "alice")
	first := w.next(slow, 3)
	w.next(quick, 3)
	many := make([]string, 300)
	for i := range many {
		many[i] = "alice"
	}
	for range 8 {
		w.commit(0, delivered, many...)
		w.next(quick, 3*len(many))
	}
	tail := w.tails[0]
	tail.mu.Lock()
	if g := &slow.shards[0].seat; g.taken || len(g.queue) > seatLimit || len(g.queue) == 0 {
		t.Errorf("the slow one has a seat: %v, with %d events", g.taken, len(g.queue))
	}
	tail.mu.Unlock()
	w.complete("alice", append(first, w.next(slow, 8*3*len(many))...))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := f.GetMetric()[0].GetCounter().GetValue(); f.GetName() == "esh3ar_event_streams_behind_total" && n != 1 {
			t.Errorf("%v followers fell behind", n)
		}
	}
	// It is up to date again.
	w.commit(0, delivered, "alice")
	w.next(slow, 3)
	tail.mu.Lock()
	if !slow.shards[0].seat.taken {
		t.Error("the slow one got no seat again")
	}
	tail.mu.Unlock()
}

// TestIdleFollowersCostNothing shows that one reading of the store serves all followers, and that none is
// made for nobody.
func TestIdleFollowersCostNothing(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.WatchEvery = time.Hour })
	w.commit(0, delivered, "alice")
	var followers []*Follower
	for range 20 {
		followers = append(followers, w.follow("alice", Start{}))
	}
	for _, f := range followers {
		w.quiet(f)
	}
	before := w.faults.reads.Load()
	w.commit(0, delivered, "alice")
	for _, f := range followers {
		w.next(f, 3)
	}
	if n := w.faults.reads.Load() - before; n > 3 {
		t.Errorf("%d readings for one write", n)
	}
	for _, f := range followers {
		f.Close()
	}
	before = w.faults.reads.Load()
	w.commit(0, delivered, "alice")
	if n := w.faults.reads.Load() - before; n > 0 {
		t.Errorf("%d readings for nobody", n)
	}
}

// TestCrowdComesBack has many followers go on from the past at one time: the store is not stormed.
func TestCrowdComesBack(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Readers = 2; o.MaxStreams = 1000 })
	for i := range 20 {
		w.commit(uint16(i%2), delivered, "alice", "bob")
	}
	var crowd sync.WaitGroup
	for range 200 {
		f := w.follow("alice", Start{Oldest: true})
		crowd.Go(func() { w.next(f, 60) })
	}
	crowd.Wait()
	if most := w.faults.most.Load(); most > 2+testShards {
		t.Errorf("%d readings at one time", most)
	}
}

// TestUnannouncedEvents are found all the same: those of another node for instance.
func TestUnannouncedEvents(t *testing.T) {
	w := newWorld(t)
	f := w.follow("alice", Start{})
	w.quiet(f)
	w.quietly = true
	w.commit(0, delivered, "alice")
	w.next(f, 3)
}

// TestStoreIsDown waits for a store that does not answer, as a follower with a seat and as one without.
func TestStoreIsDown(t *testing.T) {
	w := newWorld(t)
	seated, behind := w.follow("alice", Start{}), w.follow("alice", Start{Oldest: true})
	w.quiet(seated)
	w.faults.down.Store(true)
	w.commit(0, delivered, "alice", "alice")
	w.quiet(seated)
	w.quiet(behind)
	if _, err := w.Follow(t.Context(), "alice", Start{}, 0); esh3ar.KindOf(err) != esh3ar.KindUnavailable {
		t.Errorf("a new one: %v", err)
	}
	if _, err := w.Page(t.Context(), "alice", Start{}, 0, 10); esh3ar.KindOf(err) != esh3ar.KindUnavailable {
		t.Errorf("a page: %v", err)
	}
	w.faults.down.Store(false)
	w.complete("alice", w.next(seated, 6))
	w.complete("alice", w.next(behind, 6))
}

// TestForgottenEvents tells a follower from where on there are events.
func TestForgottenEvents(t *testing.T) {
	w := newWorld(t)
	f := w.follow("alice", Start{Oldest: true})
	for range 4 {
		w.commit(0, delivered, "alice")
	}
	old := w.next(f, 3)[2].Cursor
	f.Close()
	cut := w.now // the last of the four stays
	if _, err := w.store.Prune(t.Context(), store.Cutoffs{Events: cut}); err != nil {
		t.Fatal(err)
	}
	_, err := w.Follow(t.Context(), "alice", Start{Cursor: old}, 0)
	_, perr := w.Page(t.Context(), "alice", Start{Cursor: old}, 0, 10)
	for _, err := range []error{err, perr} {
		var gone *goneError
		if !errors.As(err, &gone) || gone.err.Code != "cursor_expired" {
			t.Fatalf("%v", err)
		}
		rest := w.next(w.follow("alice", Start{Cursor: gone.oldest.String()}), 3)
		if rest[0].Seq != 2 || !rest[0].At.Equal(cut) {
			t.Errorf("%+v", rest)
		}
	}

	// One that reads while they are forgotten is told, too.
	slow := w.follow("alice", Start{Cursor: endOf(map[uint16]store.EventRange{0: {Last: 3}}, testShards).String()})
	w.commit(0, delivered, "alice")
	if _, err := w.store.Prune(t.Context(), store.Cutoffs{Events: w.now}); err != nil {
		t.Fatal(err)
	}
	var gone *goneError
	if events, err := slow.Next(t.Context(), 10, patience); !errors.As(err, &gone) || gone.err.Code != "cursor_expired" {
		t.Errorf("%+v, %v", events, err)
	}
}

// TestRestoredStore tells followers that what they have seen is not in the store any more, rather than
// pass over what gets the same numbers.
func TestRestoredStore(t *testing.T) {
	w := newWorld(t)
	f := w.follow("alice", Start{})
	w.commit(0, delivered, "alice")
	w.commit(1, delivered, "alice")
	w.next(f, 6)
	w.faults.restored.Store(true)
	var gone *goneError
	if events, err := f.Next(t.Context(), 10, patience); !errors.As(err, &gone) || gone.err.Code != "cursor_ahead" {
		t.Fatalf("%+v, %v", events, err)
	}
	if _, err := w.Page(t.Context(), "alice", Start{Cursor: f.Cursor()}, 0, 10); !errors.As(err, &gone) || gone.err.Code != "cursor_ahead" {
		t.Fatalf("%v", err)
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		w.commit(uint16(i%2), delivered, "alice", "bob", "alice")
	}
	for limit := 1; limit < 200; limit += 13 {
		var all []Event
		start := Start{Oldest: true}
		for {
			page, err := w.Page(t.Context(), "alice", start, 0, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Events) > limit || len(page.Events) < limit && page.More {
				t.Fatalf("%d events at a limit of %d, more: %v", len(page.Events), limit, page.More)
			}
			all = append(all, page.Events...)
			start = Start{Cursor: page.Next}
			if !page.More {
				break
			}
		}
		w.complete("alice", all)
		for i := 1; i < len(all); i++ {
			if all[i].At.Before(all[i-1].At) {
				t.Fatalf("event %d is older than the one before", i)
			}
		}
		page, err := w.Page(t.Context(), "alice", start, 0, limit)
		if err != nil || len(page.Events) > 0 || page.More || page.Next != start.Cursor {
			t.Fatalf("behind the last page: %+v, %v", page, err)
		}
	}
	page, err := w.Page(t.Context(), "alice", Start{}, 0, 10)
	if err != nil || len(page.Events) > 0 || page.More {
		t.Fatalf("a page that begins now: %+v, %v", page, err)
	}
}

// TestPageAmongOthersEvents is short but goes on.
func TestPageAmongOthersEvents(t *testing.T) {
	w := newWorld(t)
	others := make([]string, readEvents/2)
	for i := range others {
		others[i] = "bob"
	}
	for range scanReads {
		w.commit(0, delivered, others...)
	}
	w.commit(0, delivered, "alice")
	start := Start{Oldest: true}
	for pages := 1; ; pages++ {
		page, err := w.Page(t.Context(), "alice", start, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > 0 {
			w.complete("alice", page.Events)
			if pages < 2 {
				t.Error("everything was read for one page")
			}
			return
		}
		if !page.More || page.Next == start.Cursor || pages > 10 {
			t.Fatalf("page %d: %+v", pages, page)
		}
		start = Start{Cursor: page.Next}
	}
}
