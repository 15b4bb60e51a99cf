// Package storetest is the conformance suite of store.Store: what a backend must do, also with
// repeated, late and ill-formed work, under concurrency, and when it is cut off in mid-transaction.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Run runs the suite. Open returns a fresh, empty store that lives until the test ends; it may be
// called several times and the stores must not share anything.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	RunClients(t, open)
	RunMessages(t, open)
	run(t, open, []test{
		{"FixShards", testFixShards},
		{"Identify", testIdentify},
		{"Adopt", testAdopt},
		{"Webhooks", testWebhooks},
		{"WebhookLimit", testWebhookLimit},
		{"WebhookProgress", testWebhookProgress},
		{"WebhookHolders", testWebhookHolders},
		{"WebhookLog", testWebhookLog},
		{"WebhooksOfADeletedClient", testWebhooksOfADeletedClient},
	})
}

// RunMessages runs the part of the suite that is about messages and their events.
func RunMessages(t *testing.T, open func(t *testing.T) store.Store) {
	run(t, open, []test{
		{"Claim", testClaim},
		{"ClaimsRace", testClaimsRace},
		{"NotOwner", testNotOwner},
		{"SetBack", testSetBack},
		{"PositionsNeverMoveBack", testPositions},
		{"Places", testPlaces},
		{"EveryLateCase", testEveryLateCase},
		{"RepeatedCommit", testRepeatedCommit},
		{"SameMessageTwiceInOneBatch", testTwiceInOneBatch},
		{"AnyBytes", testAnyBytes},
		{"LargeMessages", testLargeMessages},
		{"LargeBatch", testLargeBatch},
		{"Permanent", testPermanent},
		{"ShardsTogether", testShardsTogether},
		{"Canceled", testCanceled},
		{"Waiting", testWaiting},
		{"Due", testDue},
		{"Rows", testRows},
		{"MessageOfAnotherClient", testMessage},
		{"Listing", testListing},
		{"ListingOverConcurrentInserts", testListingMoves},
		{"BadQueries", testBadQueries},
		{"Idempotency", testIdempotency},
		{"Events", testEvents},
		{"EventsWhileWritten", testEventsWhileWritten},
		{"Rejects", testRejects},
		{"EventTime", testEventTime},
		{"Prune", testPrune},
		{"PruneAfterClockJumps", testPruneClock},
		{"Model", testModel},
	})
}

// RunClients runs the part of the suite that is about clients, their keys, the audit log and usage.
func RunClients(t *testing.T, open func(t *testing.T) store.Store) {
	run(t, open, []test{
		{"Clients", testClients},
		{"ClientsRace", testClientsRace},
		{"ListClients", testListClients},
		{"DeleteClient", testDeleteClient},
		{"Keys", testKeys},
		{"KeysEnd", testKeysEnd},
		{"TouchKeys", testTouchKeys},
		{"Audit", testAudit},
		{"Usage", testUsage},
	})
}

type test struct {
	name string
	run  func(*world)
}

func run(t *testing.T, open func(t *testing.T) store.Store, tests []test) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.run(&world{T: t, s: open(t), now: start})
		})
	}
}

// start is where the suite's time begins: times of stored things are told by values alone.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is one test's store, clock and source of identifiers.
type world struct {
	*testing.T
	s   store.Store
	now time.Time
	ids esh3ar.IDs
	ord uint64
}

// tick moves the clock.
func (w *world) tick(d time.Duration) time.Time {
	w.now = w.now.Add(d)
	return w.now
}

// message returns a fresh message, accepted now.
func (w *world) message(shard uint16, client, to string) *esh3ar.Message {
	return &esh3ar.Message{
		ID: w.ids.New(w.now, shard), Client: client, From: "from " + client, To: to, Tier: esh3ar.TierSilver,
		Content: "hello " + to, AcceptedAt: w.now,
	}
}

// life returns the state of a message that was accepted at that time and went through the statuses,
// one second each.
func life(at time.Time, statuses ...esh3ar.Status) esh3ar.State {
	s := esh3ar.NewState(at)
	return further(s, statuses...)
}

// further returns s moved on, leaving s as it is.
func further(s esh3ar.State, statuses ...esh3ar.Status) esh3ar.State {
	s.Timeline = slices.Clone(s.Timeline)
	for _, st := range statuses {
		if st == esh3ar.StatusSent {
			s.Attempts++
		}
		if !s.Move(st, s.Last().At.Add(time.Second), esh3ar.ReasonNone) {
			panic(fmt.Sprintf("%v cannot become %v", s.Status, st))
		}
	}
	return s
}

// change returns the change that stores m in that state, all of it new.
func (w *world) change(m *esh3ar.Message, s esh3ar.State) store.Change {
	w.ord += 1 << 16
	return store.Change{Message: m, State: s, Ord: w.ord}
}

func (w *world) claim(shard uint16) store.Claim {
	w.Helper()
	c, err := w.s.Claim(w.Context(), shard)
	if err != nil {
		w.Fatalf("claim shard %d: %v", shard, err)
	}
	return c
}

// commit stores changes as the shard's owner.
func (w *world) commit(shard uint16, epoch store.Epoch, changes ...store.Change) {
	w.Helper()
	w.commitBatch(&store.Batch{Shard: shard, Epoch: epoch, Changes: changes, At: w.now})
}

func (w *world) commitBatch(b *store.Batch) {
	w.Helper()
	if err := w.s.Commit(w.Context(), b); err != nil {
		w.Fatalf("commit to shard %d: %v", b.Shard, err)
	}
}

// rows returns the rows with these ids by id.
func (w *world) rows(shard uint16, ids ...esh3ar.ID) map[esh3ar.ID]store.Row {
	w.Helper()
	return rowsOf(w.T, w.s, shard, ids...)
}

func rowsOf(t testing.TB, s store.Store, shard uint16, ids ...esh3ar.ID) map[esh3ar.ID]store.Row {
	t.Helper()
	rows, err := s.Rows(context.Background(), shard, ids)
	if err != nil {
		t.Fatalf("rows: %v", err)
	}
	byID := make(map[esh3ar.ID]store.Row, len(rows))
	for _, r := range rows {
		if _, twice := byID[r.Message.ID]; twice {
			t.Fatalf("rows: %s twice", r.Message.ID)
		}
		byID[r.Message.ID] = r
	}
	return byID
}

// events returns all events of the shard.
func (w *world) events(shard uint16) []esh3ar.Event {
	w.Helper()
	return eventsOf(w.T, w.s, shard)
}

func eventsOf(t testing.TB, s store.Store, shard uint16) []esh3ar.Event {
	t.Helper()
	kept := rangeOf(t, s, shard)
	var all []esh3ar.Event
	for after := kept.Forgotten; ; {
		writes, err := s.Events(context.Background(), shard, after, 100)
		if err != nil {
			t.Fatalf("events after %d: %v", after, err)
		}
		if len(writes) == 0 {
			same(t, "number of the last write", after, kept.Last)
			return all
		}
		for _, w := range writes {
			if w.Number != after+1 || len(w.Events) == 0 || len(w.Events) > store.MaxEventsPerWrite {
				t.Fatalf("after %d comes write %d with %d events", after, w.Number, len(w.Events))
			}
			all, after = append(all, w.Events...), w.Number
		}
	}
}

// eventRange returns what is kept of the shard's events.
func (w *world) eventRange(shard uint16) store.EventRange {
	w.Helper()
	return rangeOf(w.T, w.s, shard)
}

func rangeOf(t testing.TB, s store.Store, shard uint16) store.EventRange {
	t.Helper()
	ranges, err := s.EventRanges(context.Background())
	if err != nil {
		t.Fatalf("event ranges: %v", err)
	}
	return ranges[shard]
}

// eventsAfter returns the events of one call and the number to go on from.
func (w *world) eventsAfter(shard uint16, after int64, limit int) (events []esh3ar.Event, next int64) {
	w.Helper()
	writes, err := w.s.Events(w.Context(), shard, after, limit)
	w.is(fmt.Sprintf("events after %d", after), err, nil)
	next = after
	for _, one := range writes {
		if len(events) >= limit {
			w.Fatalf("events after %d: %d before the last write, at a limit of %d", after, len(events), limit)
		}
		events, next = append(events, one.Events...), one.Number
	}
	return events, next
}

// eventsFrom returns the events that storing c with that NewFrom must have written.
func eventsFrom(c *store.Change) []esh3ar.Event {
	var events []esh3ar.Event
	for _, t := range c.State.Timeline[c.NewFrom:] {
		events = append(events, esh3ar.Event{Message: c.Message.ID, Client: c.Message.Client, To: c.Message.To,
			TraceParent: c.Message.TraceParent, Transition: t})
	}
	return events
}

// row returns how c must be stored.
func row(c *store.Change) store.Row {
	place := store.InQueue
	if c.State.Status.Final() {
		place = store.InHistory
	}
	m := *c.Message
	m.Key, m.Digest = "", [32]byte{} // told by Idempotent
	return store.Row{Message: m, State: c.State, Ord: c.Ord, Place: place}
}

// same fails the test when what was found is not what was wanted.
func (w *world) same(what string, got, want any) {
	w.Helper()
	same(w.T, what, got, want)
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// is fails the test when err is not that one.
func (w *world) is(what string, err, want error) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

// invalid fails the test when err is not an *esh3ar.Error of KindInvalid.
func (w *world) invalid(what string, err error) {
	w.Helper()
	if esh3ar.KindOf(err) != esh3ar.KindInvalid {
		w.Fatalf("%s: got error %v, want one of kind invalid", what, err)
	}
}
