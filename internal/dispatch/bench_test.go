package dispatch_test

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/record"
)

// acker acknowledges at once, from the goroutine that delivers.
type acker struct {
	att   atomic.Pointer[dispatch.Attachment]
	total *atomic.Int64
}

func (a *acker) Deliver(d *dispatch.Delivery) {
	a.total.Add(1)
	a.att.Load().Acknowledge([]esh3ar.ID{d.Message.ID})
}

// BenchmarkDeliver measures a message's way from the journal (in memory) over its connected recipient
// to a committed "delivered" in the embedded store (WAL, synchronous=FULL).
func BenchmarkDeliver(b *testing.B) {
	const recipients, perEntry = 1000, 200
	w := newWorld(b)
	w.stop()
	reg := prometheus.NewRegistry()
	w.start(func(o *dispatch.Options) {
		o.Params.Window, o.Params.Hold, o.Params.Settle = 100, 200, 200*time.Millisecond
		o.CommitEvery, o.ScanEvery = 20*time.Millisecond, time.Hour
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		o.Metrics = reg
	})
	var total atomic.Int64
	byShard := make([][]string, shards)
	for i := range recipients {
		name := fmt.Sprint("user", i)
		s := esh3ar.ShardOf(name, shards)
		byShard[s] = append(byShard[s], name)
		a := &acker{total: &total}
		// The recipient's store is empty, so nothing is delivered before the first entry.
		a.att.Store(w.Attach(name, a))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		s := uint16(sent / perEntry % shards)
		var entry []byte
		for range min(perEntry, b.N-sent) {
			m := w.message("bank", byShard[s][sent%len(byShard[s])], "your one-time code is 123456")
			entry = journal.AppendRecord(entry, record.AppendMessage(nil, m))
			sent++
		}
		if _, err := w.log.Append(b.Context(), journal.Partition{Shard: s}, entry); err != nil {
			b.Fatal(err)
		}
	}
	w.until("all are delivered and stored", func() bool { return delivered(b, reg) >= float64(b.N) })
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	if n := total.Load(); n != int64(b.N) {
		b.Errorf("%d sends of %d messages", n, b.N)
	}
}

// delivered reads the counter of stored transitions to delivered.
func delivered(b *testing.B, reg *prometheus.Registry) float64 {
	families, err := reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "esh3ar_message_transitions_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if hasLabel(m, "delivered") {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}
