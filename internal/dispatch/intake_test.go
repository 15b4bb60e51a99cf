package dispatch_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
)

// openings is a journal that tells of each reader that is opened, and notes when one is read before that is allowed.
type openings struct {
	*memory.Log
	opened  chan struct{}
	allowed chan struct{} // closed when it is
	early   atomic.Bool
}

func (l *openings) Read(ctx context.Context, p journal.Partition, after uint64) (journal.Reader, error) {
	r, err := l.Log.Read(ctx, p, after)
	if err != nil {
		return nil, err
	}
	l.opened <- struct{}{}
	return &opened{Reader: r, log: l}, nil
}

// opened is a reader of openings.
type opened struct {
	journal.Reader
	log *openings
}

func (r *opened) Next(ctx context.Context) (journal.Entry, error) {
	select {
	case <-r.log.allowed:
	default:
		r.log.early.Store(true)
	}
	return r.Reader.Next(ctx)
}

// Readers are opened while the barriers are under way, and nothing is read from them, let alone delivered, before those are there.
func TestReadersOpenBesideTheBarrier(t *testing.T) {
	w := newWorld(t)
	w.stop()
	const partitions = shards * int(esh3ar.Tiers)
	l := &openings{Log: w.log, opened: make(chan struct{}, partitions), allowed: make(chan struct{})}
	w.start(func(o *dispatch.Options) {
		o.Log = l
		o.Barrier = func(ctx context.Context, _ uint16) (uint64, error) {
			select {
			case <-l.allowed:
				return 0, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
	})
	p := w.connect("rana", true)
	m := w.message("bank", "rana", "hello")
	w.accept(m)
	deadline := time.After(20 * time.Second)
	for n := range partitions {
		select {
		case <-l.opened:
		case <-deadline:
			t.Fatalf("%d of %d readers were opened while the barriers are under way", n, partitions)
		}
	}
	if got := p.texts(); len(got) > 0 || l.early.Load() {
		t.Errorf("before the barriers are there: got %v, something was read: %v", got, l.early.Load())
	}
	close(l.allowed)
	if d := w.next(p); d.Message.ID != m.ID {
		t.Errorf("got %q", d.Message.Content)
	}
	if l.early.Load() {
		t.Error("something was read before the barriers were there")
	}
}
