package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// benchRecord is a message record of the usual size.
var benchRecord = bytes.Repeat([]byte{'r'}, 170)

// startAppender runs an appender on the log until the end of the benchmark.
func startAppender(b *testing.B, l journal.Log, o journal.AppenderOptions) *journal.Appender {
	b.Helper()
	a, err := journal.NewAppender(l, o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = a.Run(ctx) // always nil
	}()
	b.Cleanup(func() {
		stop()
		<-stopped
	})
	return a
}

// appendFrom appends b.N records from so many callers, each waiting for its
// own, spread over the shards.
func appendFrom(b *testing.B, a *journal.Appender, callers, shards int) {
	ctx := context.Background()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			p := journal.Partition{Shard: uint16(c % shards)}
			for left.Add(-1) >= 0 {
				if err := a.Append(ctx, p, benchRecord); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkAppend is the group commit with a sync of the disk for every batch.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 100, 1000, 10_000} {
		for _, shards := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("callers=%d/shards=%d", callers, shards), func(b *testing.B) {
				benchmarkAppend(b, callers, shards, 0, 1)
			})
		}
	}
}

// BenchmarkAppendLinger shows what it brings to wait for more records.
func BenchmarkAppendLinger(b *testing.B) {
	for _, callers := range []int{1000, 10_000} {
		for _, linger := range []time.Duration{0, 100 * time.Microsecond, 500 * time.Microsecond, 2 * time.Millisecond} {
			b.Run(fmt.Sprintf("callers=%d/linger=%v", callers, linger), func(b *testing.B) {
				benchmarkAppend(b, callers, 2, linger, 1)
			})
		}
	}
}

// BenchmarkAppendInFlight shows what it brings to have several batches under
// way to an unreplicated stream.
func BenchmarkAppendInFlight(b *testing.B) {
	for _, callers := range []int{100, 1000} {
		for _, inFlight := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("callers=%d/inflight=%d", callers, inFlight), func(b *testing.B) {
				benchmarkAppend(b, callers, 2, 0, inFlight)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, callers, shards int, linger time.Duration, inFlight int) {
	var batches atomic.Int64
	l := mustOpenIn(b, b.TempDir(), jetstream.Options{Shards: shards})
	a := startAppender(b, l, journal.AppenderOptions{
		Shards: shards, Tiers: 1, Linger: linger, InFlight: inFlight,
		Observe: func(journal.BatchStats) { batches.Add(1) },
	})
	b.ReportAllocs()
	b.ResetTimer()
	appendFrom(b, a, callers, shards)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.N)/float64(batches.Load()), "records/batch")
}

// BenchmarkRead reads a backlog in order, in batches of different sizes.
func BenchmarkRead(b *testing.B) {
	for _, records := range []int{1, 100, 2000} {
		b.Run(fmt.Sprintf("records=%d", records), func(b *testing.B) { benchmarkRead(b, records) })
	}
}

func benchmarkRead(b *testing.B, records int) {
	ctx := context.Background()
	l := mustOpenIn(b, b.TempDir(), jetstream.Options{Shards: 1})
	var batch []byte
	for range records {
		batch = journal.AppendRecord(batch, benchRecord)
	}
	done := make(chan error, 64)
	for range 64 {
		done <- nil
	}
	for range b.N {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		l.AppendAsync(ctx, journal.Partition{}, batch, func(_ uint64, err error) { done <- err })
	}
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	r, err := l.Read(ctx, journal.Partition{}, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	read := 0
	for range b.N {
		e, err := r.Next(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range journal.Records(e.Data) {
			if err != nil {
				b.Fatal(err)
			}
			read++
		}
	}
	if read != b.N*records {
		b.Fatalf("%d records, want %d", read, b.N*records)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
	b.SetBytes(int64(len(batch)))
}

// BenchmarkAppendReplicated is what three servers take, each syncing every
// batch: batches of a hundred records, with so many of a stream under way.
func BenchmarkAppendReplicated(b *testing.B) {
	c := clustertest.Start(b, 3, nil)
	js := admin(b, c, 0)
	var batch []byte
	const records = 100
	for range records {
		batch = journal.AppendRecord(batch, benchRecord)
	}
	for _, shards := range []int{1, 3} {
		for _, inFlight := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("shards=%d/inflight=%d", shards, inFlight), func(b *testing.B) {
				removeStreams(b, js)
				l, err := clustered(b, c, 0, jetstream.Options{Shards: shards})
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				awaitStreams(b, l, shards)
				slots := make(chan int, shards*inFlight)
				for i := range cap(slots) {
					slots <- i % shards
				}
				b.SetBytes(int64(len(batch)))
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					shard := <-slots
					l.AppendAsync(context.Background(), journal.Partition{Shard: uint16(shard)}, batch, func(_ uint64, err error) {
						if err != nil {
							b.Error(err)
						}
						slots <- shard
					})
				}
				for range cap(slots) {
					<-slots
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
				b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
