package node

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// TestStoredSince: a store that is ahead of the journal as it was opened is one that other nodes have gone on with, or
// one from before the journal was set back. Messages tell.
func TestStoredSince(t *testing.T) {
	const entries, each = 6, 4
	p, other := journal.Partition{}, journal.Partition{Tier: 1}
	for name, test := range map[string]struct {
		stored []int // of the messages in the journal
		purged bool
		want   bool
	}{
		"all":             {stored: span(0, entries*each), want: true},
		"all but one":     {stored: span(1, entries*each), want: true},
		"none":            {want: false},
		"one sent again":  {stored: []int{0}, want: false},
		"later ones only": {stored: span(entries*each/2, entries*each), want: false},
		"purged":          {purged: true, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			log, err := memory.Open(new(memory.Disk), memory.Options{Shards: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()

			all := storetest.Deliverable(0, entries*each, false)
			opened := appendMessages(t, log, p, storetest.Deliverable(0, each, false)) // long stored, which does not count
			var position, last uint64
			for i := range entries {
				appendMessages(t, log, other, storetest.Deliverable(0, 1, false))
				last = appendMessages(t, log, p, all[i*each:(i+1)*each])
				if i == entries/2-1 {
					position = last // the second half lies above
				}
			}
			if test.purged {
				if err := log.Purge(t.Context(), p, last+1); err != nil {
					t.Fatal(err)
				}
			}
			claim, err := s.Claim(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			b := &store.Batch{Epoch: claim.Epoch, At: time.Now(), Positions: [esh3ar.Tiers]uint64{position}}
			for _, i := range test.stored {
				b.Changes = append(b.Changes, all[i])
			}
			if err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			got, err := storedSince(t.Context(), log, s, p, opened, position)
			if err != nil || got != test.want {
				t.Errorf("stored: %v, error %v; want %v", got, err, test.want)
			}
		})
	}
}

// span returns the numbers from one up to another.
func span(from, to int) []int {
	var all []int
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}

// appendMessages makes an entry of the messages and returns its sequence.
func appendMessages(t *testing.T, log journal.Log, p journal.Partition, changes []store.Change) uint64 {
	t.Helper()
	var batch []byte
	for _, c := range changes {
		batch = journal.AppendRecord(batch, record.AppendMessage(nil, c.Message))
	}
	seq, err := log.Append(t.Context(), p, batch)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}
