package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/store"
)

// together is a store that answers the first n questions about a message when all of them are asked.
type together struct {
	dispatch.Store
	left atomic.Int32
	all  chan struct{}
}

func (s *together) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	row, err := s.Store.Message(ctx, client, id)
	if s.left.Load() <= 0 {
		return row, err
	}
	if s.left.Add(-1) == 0 {
		close(s.all)
	}
	select {
	case <-s.all:
	case <-ctx.Done():
	}
	return row, err
}

// dead returns a message that has been given up.
func (w *world) dead(text string) *esh3ar.Message {
	w.t.Helper()
	p := w.connect("rana", false)
	m := w.message("bank", "rana", text)
	w.accept(m)
	w.await(m, esh3ar.StatusUndelivered)
	p.att.Detach(true)
	return m
}

// conflict reports whether err is the conflict with that code.
func conflict(err error, code string) bool {
	e, ok := errors.AsType[*esh3ar.Error](err)
	return ok && e.Kind == esh3ar.KindConflict && e.Code == code
}

// Of requests about one dead letter that all have seen it as it was, one is carried out.
func TestRequestsAboutOneDeadLetter(t *testing.T) {
	for _, online := range []bool{false, true} {
		t.Run(fmt.Sprint("online ", online), func(t *testing.T) {
			const n = 3
			w := newWorld(t)
			w.stop()
			s := &together{Store: w.store, all: make(chan struct{})}
			w.start(func(o *dispatch.Options) {
				o.Store, o.Params.AckTimeout, o.Params.MaxAttempts = s, 10*time.Millisecond, 1
			})
			m := w.dead("once")
			w.stop()
			w.start(func(o *dispatch.Options) { o.Store = s })
			var p *phone
			if online {
				p = w.ready("rana", true)
			}
			s.left.Store(n)
			var errs [n]error
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					if i == n-1 {
						_, errs[i] = w.Discard(t.Context(), "bank", m.ID, "nobody wants it")
						return
					}
					_, errs[i] = w.Replay(t.Context(), "bank", m.ID)
				})
			}
			wg.Wait()
			replayed := 0
			for _, err := range errs[:n-1] {
				switch {
				case err == nil:
					replayed++
				case !conflict(err, "not_undelivered"):
					t.Errorf("replay: %v", err)
				}
			}
			row, err := w.Message(t.Context(), "bank", m.ID)
			// Discarded first, it may still be replayed.
			if err != nil || replayed != 1 || row.State.Generation != 2 || errs[n-1] != nil && !conflict(errs[n-1], "not_undelivered") {
				t.Errorf("%d replays, %s, %v, discard: %v", replayed, statuses(row), err, errs[n-1])
			}
			if !online {
				p = w.connect("rana", true)
			}
			w.await(m, esh3ar.StatusDelivered)
			last := w.message("bank", "rana", "last")
			w.accept(last)
			w.await(last, esh3ar.StatusDelivered)
			times := 0
			for _, text := range p.texts() {
				if text == "once" {
					times++
				}
			}
			if times != 1 {
				t.Errorf("delivered %d times after the replay: %q", times, p.texts())
			}
		})
	}
}

// Many people replay one dead letter at the same time, while its recipient comes and goes.
func TestReplaysRace(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.start(func(o *dispatch.Options) { o.Params.AckTimeout, o.Params.MaxAttempts = 10*time.Millisecond, 1 })
	for round := range 10 {
		m := w.dead(fmt.Sprint("round ", round))
		var p *phone
		if round%2 == 0 {
			p = w.connect("rana", true)
		}
		var wg sync.WaitGroup
		var replayed atomic.Int32
		for range 50 {
			wg.Go(func() {
				_, err := w.Replay(t.Context(), "bank", m.ID)
				if err == nil {
					replayed.Add(1)
				} else if !conflict(err, "not_undelivered") && !conflict(err, "message_changing") {
					t.Errorf("replay: %v", err)
				}
			})
		}
		wg.Wait()
		row, err := w.store.Message(t.Context(), "bank", m.ID)
		if n := replayed.Load(); err != nil || n != 1 || row.State.Generation != 2 {
			t.Errorf("round %d: %d replays, generation %d, %v", round, n, row.State.Generation, err)
		}
		for i, tr := range row.State.Timeline {
			if tr.Seq != uint32(i+1) {
				t.Errorf("round %d: timeline %+v", round, row.State.Timeline)
				break
			}
		}
		if p != nil {
			w.await(m, esh3ar.StatusDelivered)
			p.att.Detach(true)
		} else if _, err := w.Cancel(t.Context(), "bank", m.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// falling is a store that tells of that many messages more.
type falling struct {
	dispatch.Store
	left atomic.Int32
}

func (s *falling) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	if s.left.Add(-1) < 0 {
		return store.Row{}, errAway
	}
	return s.Store.Message(ctx, client, id)
}

// What was done before the store fell silent is not told as surely not done.
func TestStoreFallsSilentAfterACancel(t *testing.T) {
	w := newWorld(t)
	w.stop()
	s := &falling{Store: w.store}
	w.start(func(o *dispatch.Options) { o.Store = s })
	m := w.message("bank", "rana", "withdrawn")
	w.accept(m)
	w.await(m, esh3ar.StatusQueued)
	for _, test := range []struct {
		left int32
		want string
		is   esh3ar.Status
	}{{0, "store_unavailable", esh3ar.StatusQueued}, {1, "outcome_unknown", esh3ar.StatusCanceled}} {
		s.left.Store(test.left)
		_, err := w.Cancel(t.Context(), "bank", m.ID)
		if e, ok := errors.AsType[*esh3ar.Error](err); !ok || e.Code != test.want {
			t.Errorf("a store that answers %d times: got error %v, want %s", test.left, err, test.want)
		}
		w.await(m, test.is)
	}
}
