package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// widest is the longest packet that passes a narrow line, in bytes.
const widest = 1400

// TestLineLosesLongPackets: a server that answers short questions and gets nothing that is long, or whose long answers do not come,
// is not reached, and is again as soon as the line is whole.
func TestLineLosesLongPackets(t *testing.T) {
	t.Parallel()
	for name, narrow := range map[string]func(*pgtest.Line){
		"what is sent":  func(l *pgtest.Line) { l.Narrow(widest, 0) },
		"what is asked": func(l *pgtest.Line) { l.Narrow(0, widest) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l pgtest.Line
			s := breaker.New(open(t, postgres.Options{Dial: l.Dial}), breaker.Options{Logger: slog.New(slog.DiscardHandler), WriteTimeout: 500 * time.Millisecond})
			claim, err := s.Claim(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			changes := storetest.Deliverable(1, 200, true)
			commit := func(number int64) error {
				return s.Commit(t.Context(), &store.Batch{Shard: 1, Epoch: claim.Epoch, Number: number, Changes: changes, At: time.Now()})
			}
			ids := make([]esh3ar.ID, len(changes))
			for i := range changes {
				ids[i] = changes[i].Message.ID
			}
			reach := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return s.Reach(ctx)
			}
			if err := commit(1); err != nil {
				t.Fatal(err)
			}
			// A connection is lost with each long question, and none can be made.
			for l.Dialed() < 8 {
				var together sync.WaitGroup
				for range 8 {
					together.Go(func() {
						if err := reach(); err != nil {
							t.Error(err)
						}
					})
				}
				together.Wait()
			}

			narrow(&l)
			for range 3 {
				end := make(chan struct{})
				var asking sync.WaitGroup
				asking.Go(func() { // as the look-ups of keys do
					tick := time.NewTicker(20 * time.Millisecond)
					defer tick.Stop()
					for {
						if _, err := s.Idempotent(t.Context(), "nobody", "a key"); !errors.Is(err, store.ErrNotFound) {
							t.Errorf("a short question got %v", err)
						}
						select {
						case <-end:
							return
						case <-tick.C:
						}
					}
				})
				err := reach()
				close(end)
				asking.Wait()
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrBusy) {
					t.Errorf("reached over a line that loses %s: %v", name, err)
				}
			}
			if name == "what is sent" {
				err = commit(2)
				if _, vain := s.Commits(); vain.IsZero() {
					t.Error("a commit got an answer")
				}
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				_, err = s.Rows(ctx, 1, ids)
				cancel()
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("something long got %v", err)
			}

			l.Narrow(0, 0)
			if err := errors.Join(reach(), commit(2)); err != nil {
				t.Errorf("over a whole line: %v", err)
			}
			if rows, err := s.Rows(t.Context(), 1, ids); err != nil || len(rows) != len(ids) {
				t.Errorf("got %d of %d rows, error %v", len(rows), len(ids), err)
			}
		})
	}
}

// TestPingWaitsForAConnection: a store with all its connections in use is not said not to answer.
func TestPingWaitsForAConnection(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Options{Conns: 1})
	claim, err := s.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Shard: 1, Epoch: claim.Epoch, Changes: storetest.Deliverable(1, 2000, true), At: time.Now()}
	done := make(chan error, 1)
	go func() { done <- s.Commit(t.Context(), b) }()
	for busy := false; !busy; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		err := s.Ping(ctx)
		cancel()
		busy = errors.Is(err, store.ErrBusy)
		select {
		case err := <-done:
			if !busy {
				t.Fatalf("the commit was over before a ping met it: %v, ping %v", err, err)
			}
			return
		default:
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
