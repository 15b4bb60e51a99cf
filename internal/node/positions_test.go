package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// reticent is a store that does not say its positions at first.
type reticent struct {
	store.Store
	err   error
	times int
}

func (r *reticent) Positions(ctx context.Context) (map[uint16][esh3ar.Tiers]uint64, error) {
	if r.times--; r.times >= 0 {
		return nil, r.err
	}
	return r.Store.Positions(ctx)
}

// TestJournalWaitsForPositions: a journal that is older than an open store, which fails when it is asked for its positions, does not
// give out sequences that the store takes for done.
func TestJournalWaitsForPositions(t *testing.T) {
	const position = 41
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "test.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open := func(r *reticent) (*Node, error) {
		cfg := DefaultConfig()
		cfg.Data = dir
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		n := &Node{cfg: cfg, log: log, health: health.New(log), store: breaker.New(r, breaker.Options{Failures: 2, Delay: 100 * time.Millisecond, Logger: log})}
		err := n.openJournal(t.Context())
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		return n, err
	}
	n, err := open(&reticent{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	*n = Node{}
	claim, err := s.Claim(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), &store.Batch{Epoch: claim.Epoch, At: time.Now(), Positions: [esh3ar.Tiers]uint64{position}}); err != nil {
		t.Fatal(err)
	}

	refused := errors.New("permission denied")
	n, err = open(&reticent{Store: s, err: refused, times: 1})
	if !errors.Is(err, refused) || !strings.Contains(err.Error(), "positions") {
		t.Fatalf("a store that will never say its positions: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	*n = Node{}

	n, err = open(&reticent{Store: s, err: context.DeadlineExceeded, times: 3})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := n.journal.Append(t.Context(), journal.Partition{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if seq <= position {
		t.Errorf("the sequence %d is given out, and the store has all up to %d", seq, position)
	}
}
