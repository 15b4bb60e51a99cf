package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/store"
)

// absent is a store that does not answer while it is away.
type absent struct {
	dispatch.Store
	away atomic.Bool
}

var errAway = errors.New("away")

func (s *absent) Rows(ctx context.Context, shard uint16, ids []esh3ar.ID) ([]store.Row, error) {
	if s.away.Load() {
		return nil, errAway
	}
	return s.Store.Rows(ctx, shard, ids)
}

func (s *absent) Commit(ctx context.Context, b *store.Batch) error {
	if s.away.Load() {
		return errAway
	}
	return s.Store.Commit(ctx, b)
}

// keyed returns a message with an idempotency key that could not be looked up.
func (w *world) keyed(to, key, text string) *esh3ar.Message {
	m := w.message("shop", to, text)
	m.Key, m.Unchecked = key, true
	m.ID = esh3ar.DeriveID(m.Client, key, m.Digest, m.AcceptedAt, time.Hour, esh3ar.ShardOf(to, shards))
	return m
}

// While the store is away a message that may be a repetition waits, with what comes after it for the same
// recipient. Other recipients, and messages whose key says that it is new, go on.
func TestOnlyDoubtfulMessagesWaitForTheStore(t *testing.T) {
	w := newWorld(t)
	w.stop()
	s := &absent{Store: w.store}
	w.start(func(o *dispatch.Options) { o.Store = s })
	amina, basil := w.connect("amina", true), w.connect("basil", true)
	first := w.keyed("amina", "order 1", "one")
	w.accept(first)
	w.await(first, esh3ar.StatusDelivered)
	// It was found that nothing waits for basil, too.
	ready := w.message("shop", "basil", "ready")
	w.accept(ready)
	w.await(ready, esh3ar.StatusDelivered)
	w.next(basil)

	s.away.Store(true)
	fresh := w.keyed("amina", uuid.Must(uuid.NewV7()).String(), "fresh")
	w.accept(fresh)
	if d := w.next(amina); d.Message.Content == "one" {
		d = w.next(amina)
		if d.Message.ID != fresh.ID {
			t.Fatalf("got %q", d.Message.Content)
		}
	}
	w.accept(w.keyed("amina", "order 2", "two"), w.keyed("amina", "order 3", "three"))
	behind := w.message("shop", "amina", "four")
	w.accept(behind)
	w.accept(w.message("shop", "basil", "other"))
	if d := w.next(basil); d.Message.Content != "other" {
		t.Fatalf("basil got %q", d.Message.Content)
	}
	if got := amina.texts(); !slices.Equal(got, []string{"one", "fresh"}) {
		t.Fatalf("amina got %q while the store was away", got)
	}

	s.away.Store(false)
	w.await(behind, esh3ar.StatusDelivered)
	if got := amina.texts(); !slices.Equal(got, []string{"one", "fresh", "two", "three", "four"}) {
		t.Errorf("amina got %q", got)
	}
}

// A repetition of what was stored before is found when the store answers, and is not delivered.
func TestDeferredRepetitionIsLeftOut(t *testing.T) {
	w := newWorld(t)
	w.connect("amina", true)
	first := w.keyed("amina", "order 1", "one")
	w.accept(first)
	w.await(first, esh3ar.StatusDelivered)
	w.stop()

	s := &absent{Store: w.store}
	w.start(func(o *dispatch.Options) { o.Store = s }) // which remembers no key
	amina := w.connect("amina", true)
	marker := w.message("shop", "amina", "started")
	w.accept(marker)
	w.await(marker, esh3ar.StatusDelivered)
	s.away.Store(true)
	again := *first
	w.accept(&again)
	last := w.message("shop", "amina", "last")
	w.accept(last)
	s.away.Store(false)
	w.await(last, esh3ar.StatusDelivered)
	if got := amina.texts(); !slices.Equal(got, []string{"started", "last"}) {
		t.Errorf("amina got %q", got)
	}
}

// While memory is tight everything goes on, in small steps, and nothing overtakes.
func TestTightMemory(t *testing.T) {
	w := newWorld(t)
	w.stop()
	var tight atomic.Bool
	w.start(func(o *dispatch.Options) { o.Tight, o.Memory = tight.Load, 1<<20 })
	p := w.connect("amina", false)
	var all []*esh3ar.Message
	for i := range 100 {
		m := w.message("shop", "amina", fmt.Sprint(i))
		all = append(all, m)
		w.accept(m)
	}
	for range 10 { // the window
		w.next(p)
	}
	tight.Store(true)
	// All that waits is in the store, though nobody acknowledges.
	for _, m := range all[10:] {
		w.await(m, esh3ar.StatusQueued)
	}
	p.mu.Lock()
	p.ack = true
	p.mu.Unlock()
	for _, m := range all[:10] {
		p.att.Acknowledge([]esh3ar.ID{m.ID})
	}
	for _, m := range all {
		w.await(m, esh3ar.StatusDelivered)
	}
	got := p.texts()
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("delivery %d is %s: %q", i, text, got)
		}
	}
}
