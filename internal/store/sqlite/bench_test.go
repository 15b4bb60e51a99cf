package sqlite_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// delivered returns a change that stores a message delivered at once.
func delivered(ids *esh3ar.IDs, shard uint16, n int, key bool) store.Change {
	now := time.Now().UTC()
	m := &esh3ar.Message{
		ID: ids.New(now, shard), Client: "client-1", From: "Client One", To: fmt.Sprintf("+96279%07d", n*7919%5000),
		Content:    "Your order 4711 has left our house and will be with you between two and four o'clock this afternoon. Thank you for your trust in us.",
		AcceptedAt: now,
	}
	if key {
		m.Key = m.ID.String()
	}
	s := esh3ar.NewState(now)
	s.Attempts = 1
	s.Move(esh3ar.StatusQueued, now, esh3ar.ReasonNone)
	s.Move(esh3ar.StatusSent, now, esh3ar.ReasonNone)
	s.Move(esh3ar.StatusDelivered, now, esh3ar.ReasonNone)
	return store.Change{Message: m, State: s, Ord: uint64(n)}
}

// BenchmarkCommitDelivered is the common case: messages that were delivered at once, stored final, in
// durable commits of 500.
func BenchmarkCommitDelivered(b *testing.B) {
	for _, key := range []bool{false, true} {
		b.Run(fmt.Sprintf("key=%v", key), func(b *testing.B) {
			const size = 500
			s := open(b, sqlite.Options{})
			claim, err := s.Claim(context.Background(), 0)
			if err != nil {
				b.Fatal(err)
			}
			var ids esh3ar.IDs
			var worst time.Duration
			batch := &store.Batch{Epoch: claim.Epoch}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				batch.Changes = append(batch.Changes, delivered(&ids, 0, n, key))
				if len(batch.Changes) < size {
					continue
				}
				start := time.Now()
				batch.At = start
				batch.Positions[0]++
				if err := s.Commit(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
				worst = max(worst, time.Since(start))
				batch.Changes = batch.Changes[:0]
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
			b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
		})
	}
}
