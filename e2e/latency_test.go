package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// notingDevices connects the devices user0, user1, … and returns when they acknowledged what: by a message's id, a
// time.Time.
func (s *server) notingDevices(b *testing.B, devices int) *sync.Map {
	b.Helper()
	acknowledged := new(sync.Map)
	for i := range devices {
		var d *device
		ready := make(chan struct{})
		d, err := dial(s.url, token(b, fmt.Sprint("user", i), time.Hour), func(m delivery) {
			<-ready
			acknowledged.Store(m.ID, time.Now())
			_ = d.acknowledge(m.ID) // an error shows as an event that never comes
		})
		if err != nil {
			b.Fatal(err)
		}
		close(ready)
		b.Cleanup(d.hangUp)
	}
	return acknowledged
}

// sendPaced sends b.N messages to those devices in turn, in batches, so many a second, and returns how long that
// took.
func (s *server) sendPaced(b *testing.B, perSecond, devices int) time.Duration {
	b.Helper()
	const (
		every = 10 * time.Millisecond
		size  = 50
	)
	senders := make(chan []outgoing, 64)
	var sending sync.WaitGroup
	for range 4 {
		sender := s.api()
		sending.Go(func() {
			for batch := range senders {
				if _, err := sender.sendBatch(context.Background(), batch); err != nil {
					b.Error(err)
				}
			}
		})
	}
	begun := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for sent := 0; sent < b.N; {
		<-tick.C
		// What a late tick left out is made up for.
		due := min(int(time.Since(begun).Seconds()*float64(perSecond)), b.N)
		for sent < due {
			batch := make([]outgoing, 0, size)
			for ; len(batch) < size && sent < due; sent++ {
				batch = append(batch, outgoing{To: fmt.Sprint("user", sent%devices), Content: "hello"})
			}
			senders <- batch
		}
	}
	close(senders)
	sending.Wait()
	return time.Since(begun)
}

// reportLatencies reports the latencies of b.N messages that took so long to send.
func reportLatencies(b *testing.B, latencies []time.Duration, took time.Duration) {
	b.Helper()
	for _, q := range []struct {
		of   float64
		name string
	}{{0.5, "ms-p50"}, {0.99, "ms-p99"}, {1, "ms-max"}} {
		b.ReportMetric(milliseconds(quantile(latencies, q.of)), q.name)
	}
	b.ReportMetric(float64(b.N)/took.Seconds(), "messages/s")
}

// quantile returns that quantile, 0 of none.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[min(len(all)-1, int(float64(len(all))*q))]
}

// milliseconds is the duration in them, for figures.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
