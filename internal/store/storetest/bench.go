package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// benchSize is how many messages the benchmarks commit at once.
const benchSize = 500

// Bench runs the benchmarks of a backend. Open returns a fresh store that lives until the benchmark
// ends. One operation is one message; the messages are made beforehand.
func Bench(b *testing.B, open func(b *testing.B) store.Store) {
	b.Run("Delivered", func(b *testing.B) { benchDelivered(b, open, 1, false) })
	b.Run("DeliveredWithKey", func(b *testing.B) { benchDelivered(b, open, 1, true) })
	b.Run("DeliveredFourShards", func(b *testing.B) { benchDelivered(b, open, 4, false) })
	b.Run("QueuedThenDelivered", func(b *testing.B) { benchQueued(b, open) })
}

// Deliverable returns n messages to 5,000 recipients as they are stored when each was delivered at once.
func Deliverable(shard uint16, n int, key bool) []store.Change {
	var ids esh3ar.IDs
	changes := make([]store.Change, n)
	now := time.Now().UTC()
	for i := range changes {
		now = now.Add(30 * time.Microsecond)
		m := &esh3ar.Message{
			ID: ids.New(now, shard), Client: "client-1", From: "Client One", To: fmt.Sprintf("+96279%07d", i*7919%5000),
			Content: "Your order 4711 has left our house and will be with you between two and four o'clock this " +
				"afternoon. Thank you for your trust in us.",
			AcceptedAt: now,
		}
		if key {
			m.Key = ids.New(now, shard).String()
		}
		s := esh3ar.NewState(now)
		s.Move(esh3ar.StatusQueued, now, esh3ar.ReasonNone)
		s.Attempts = 1
		s.Move(esh3ar.StatusSent, now.Add(100*time.Microsecond), esh3ar.ReasonNone)
		s.Move(esh3ar.StatusDelivered, now.Add(time.Millisecond), esh3ar.ReasonNone)
		changes[i] = store.Change{Message: m, State: s, Ord: uint64(i + 1)}
	}
	return changes
}

// benchDelivered stores messages that were delivered at once: the common case.
func benchDelivered(b *testing.B, open func(b *testing.B) store.Store, shards int, key bool) {
	s := open(b)
	each := max(b.N/shards, 1)
	work := make([][]store.Change, shards)
	for i := range work {
		work[i] = Deliverable(uint16(i), each, key)
	}
	commitAll(b, s, work)
}

// benchQueued stores messages as waiting and then, all of them, as delivered: two writes for each.
func benchQueued(b *testing.B, open func(b *testing.B) store.Store) {
	s := open(b)
	delivered := Deliverable(0, b.N, false)
	queued := slices.Clone(delivered)
	for i := range queued {
		queued[i].State = esh3ar.NewState(queued[i].Message.AcceptedAt)
		queued[i].State.Move(esh3ar.StatusQueued, queued[i].Message.AcceptedAt, esh3ar.ReasonRecipientOffline)
		delivered[i].From, delivered[i].NewFrom = store.InQueue, 2
	}
	commitAll(b, s, [][]store.Change{append(queued, delivered...)})
}

// commitAll commits each shard's changes, all shards at once, and reports the worst commit beside the
// usual figures.
func commitAll(b *testing.B, s store.Store, work [][]store.Change) {
	ctx := context.Background()
	var mu sync.Mutex
	var latencies []time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	cpu := cpuTime(b)
	var wg sync.WaitGroup
	for shard, changes := range work {
		wg.Go(func() {
			claim, err := s.Claim(ctx, uint16(shard))
			if err != nil {
				b.Error(err)
				return
			}
			batch := &store.Batch{Shard: uint16(shard), Epoch: claim.Epoch}
			for part := range slices.Chunk(changes, benchSize) {
				start := time.Now()
				batch.Changes, batch.At = part, start
				batch.Positions[0]++
				if err := s.Commit(ctx, batch); err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				latencies = append(latencies, time.Since(start))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
	slices.Sort(latencies)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(latencies[len(latencies)-1].Microseconds())/1000, "worst-ms")
}

// cpuTime is what this process has used so far. It tells more than the clock on a shared machine.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
