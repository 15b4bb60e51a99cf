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
			s := breaker.New(open(t, postgres.Options{Dial: l.Dial}), breaker.Options{Logger: slog.New(slog.DiscardHandler)})
			claim, err := s.Claim(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			changes := storetest.Deliverable(1, 200, true)
			commit := func(ctx context.Context, number int64) error {
				return s.Commit(ctx, &store.Batch{Shard: 1, Epoch: claim.Epoch, Number: number, Changes: changes, At: time.Now()})
			}
			ids := make([]esh3ar.ID, len(changes))
			for i := range changes {
				ids[i] = changes[i].Message.ID
			}
			reach := func(limit time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				return s.Reach(ctx)
			}
			const (
				inVain = time.Second      // for what gets no answer
				ample  = 30 * time.Second // for what does, on a busy machine, too
			)
			if err := commit(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			// A connection is lost with each long question, and none can be made.
			for l.Dialed() < 8 {
				var together sync.WaitGroup
				for range 8 {
					together.Go(func() {
						if err := reach(ample); err != nil {
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
				err := reach(inVain)
				close(end)
				asking.Wait()
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrBusy) {
					t.Errorf("reached over a line that loses %s: %v", name, err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), inVain/2)
			defer cancel()
			if name == "what is sent" {
				err = commit(ctx, 2)
				if _, vain := s.Commits(); vain.IsZero() {
					t.Error("a commit got an answer")
				}
			} else {
				_, err = s.Rows(ctx, 1, ids)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("something long got %v", err)
			}

			l.Narrow(0, 0)
			if err := errors.Join(reach(ample), commit(t.Context(), 2)); err != nil {
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
	url := server.Database(t)
	c, conn := newCommitter(t, openURL(t, url, postgres.Options{Conns: 1})), connect(t, url)
	ping := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return c.s.Ping(ctx)
	}
	if err := ping(time.Minute); err != nil {
		t.Fatal(err)
	}
	// Its one connection has been made, and is in use from when the commit waits until the row is free.
	exec(t, conn, `BEGIN; SELECT FROM shard WHERE shard = 1 FOR UPDATE`)
	done := held(t, conn, c)
	if err := ping(time.Second); !errors.Is(err, store.ErrBusy) {
		t.Errorf("without a free connection a ping got %v", err)
	}
	exec(t, conn, `ROLLBACK`)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := ping(time.Minute); err != nil {
		t.Error(err)
	}
}
