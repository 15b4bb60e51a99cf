package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// counted is a store that counts the messages whose delivery is committed.
type counted struct {
	store.Store
	delivered atomic.Int64
}

func (c *counted) Commit(ctx context.Context, b *store.Batch) error {
	err := c.Store.Commit(ctx, b)
	if err == nil {
		n := int64(0)
		for i := range b.Changes {
			if b.Changes[i].State.Status == esh3ar.StatusDelivered {
				n++
			}
		}
		c.delivered.Add(n)
	}
	return err
}

// echo is a device that acknowledges at once.
type echo struct {
	att atomic.Pointer[dispatch.Attachment]
}

func (e *echo) Deliver(d *dispatch.Delivery) {
	e.att.Load().Acknowledge([]esh3ar.ID{d.Message.ID})
}

// BenchmarkPath measures the whole path of a message without the network: accepted into the journal
// (JetStream, a sync for each batch), delivered, acknowledged, and its delivery committed to the embedded
// store (WAL, synchronous=FULL). It ends when the last one is committed.
func BenchmarkPath(b *testing.B) {
	const shards, recipients, callers = 2, 5000, 1000
	dir := b.TempDir()
	log := slog.New(slog.DiscardHandler)
	sq, err := sqlite.Open(b.Context(), filepath.Join(dir, "bench.db"), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	st := &counted{Store: sq}
	nats, err := cluster.Start(cluster.Options{Name: "bench", Dir: filepath.Join(dir, "journal"), MaxStore: 32 << 30, MaxMemory: 64 << 20, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	jl, err := jetstream.Open(b.Context(), jetstream.Options{Server: nats, Shards: shards, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	appender, err := journal.NewAppender(jl, journal.AppenderOptions{Shards: shards, Tiers: esh3ar.Tiers, Linger: time.Millisecond})
	if err != nil {
		b.Fatal(err)
	}
	d, err := dispatch.New(dispatch.Options{
		Log: jl, Store: st, Shards: shards, Logger: log,
		Params: delivery.Params{
			Window: 100, WindowBytes: 1 << 20, Hold: 200, Settle: 200 * time.Millisecond,
			AckTimeout: time.Minute, MaxAttempts: 10, Backoff: delivery.Backoff{Base: time.Second, Cap: time.Minute},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = appender.Run(ctx) })
	running.Go(func() {
		if err := d.Run(ctx, 10*time.Second); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() {
		cancel()
		running.Wait()
		jl.Close()
		nats.Close()
		sq.Close()
	})
	names := make([]string, recipients)
	for i := range names {
		names[i] = fmt.Sprint("user", i)
		e := new(echo)
		e.att.Store(d.Attach(names[i], e))
	}

	var ids esh3ar.IDs
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var sending sync.WaitGroup
	for range callers {
		sending.Go(func() {
			var buf []byte
			for {
				n := next.Add(1)
				if n > int64(b.N) {
					return
				}
				to := names[n%recipients]
				shard := esh3ar.ShardOf(to, shards)
				now := time.Now().UTC()
				m := esh3ar.Message{
					ID: ids.New(now, shard), Client: "bank", From: "Bank", To: to, AcceptedAt: now,
					Content: "Your one-time code is 123456. It is valid for five minutes; do not share it with anyone.",
				}
				buf = record.AppendMessage(buf[:0], &m)
				if err := appender.Append(ctx, journal.Partition{Shard: shard}, buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	sending.Wait()
	accepted := b.Elapsed()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for st.delivered.Load() < int64(b.N) {
		<-tick.C
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "delivered/s")
	b.ReportMetric(float64(b.N)/accepted.Seconds(), "accepted/s")
}
