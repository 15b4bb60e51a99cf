package jetstream_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// Readers get what is appended without waiting for the second of silence after which a consumer counts as gone: when it is so new
// that their first request does not find it, and when its server is stopped in order.
func TestReadersDoNotWaitForSilence(t *testing.T) {
	t.Parallel()
	const shards, tiers = 4, 3
	c := clustertest.Start(t, 3, nil)
	l, err := clustered(t, c, 0, jetstream.Options{Shards: shards})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	awaitStreams(t, l, shards)

	type read struct {
		partition journal.Partition
		reader    journal.Reader
		server    string
		took      time.Duration // from the acknowledgement of an entry to its reading
	}
	var all []*read
	for shard := range uint16(shards) {
		for tier := range uint8(tiers) {
			r := &read{partition: journal.Partition{Shard: shard, Tier: tier}}
			if r.reader, err = l.Read(t.Context(), r.partition, 0); err != nil {
				t.Fatal(err)
			}
			defer r.reader.Close()
			all = append(all, r)
		}
	}
	next := func() {
		t.Helper()
		var reading sync.WaitGroup
		for _, r := range all {
			reading.Go(func() {
				var stored time.Time
				for stored.IsZero() {
					if _, err := l.Append(t.Context(), r.partition, journal.AppendRecord(nil, []byte("entry"))); err == nil {
						stored = time.Now()
					}
				}
				if _, err := r.reader.Next(t.Context()); err != nil {
					t.Error(err)
				}
				r.took = time.Since(stored)
				r.server = jetstream.ReadsFrom(r.reader)
			})
		}
		reading.Wait()
	}
	check := func(when string, of []*read) {
		t.Helper()
		slices.SortFunc(of, func(a, b *read) int { return int(a.took - b.took) })
		median := of[len(of)/2].took
		t.Logf("%s: %d readers waited for %s (p50), %s (most)", when, len(of), median, of[len(of)-1].took)
		if median > jetstream.Heartbeat {
			t.Errorf("%s: readers waited for %s", when, median)
		}
	}
	next()
	check("opened", slices.Clone(all))

	leaving, at := 0, []*read(nil)
	for _, server := range []int{1, 2} {
		of := slices.DeleteFunc(slices.Clone(all), func(r *read) bool { return r.server != clustertest.Name(server) })
		if len(of) > len(at) {
			leaving, at = server, of
		}
	}
	if len(at) == 0 {
		t.Fatal("all readers are at one server of three")
	}
	c.Stop(leaving)
	next()
	check("its server was stopped", at)
	for _, r := range at {
		if r.server == clustertest.Name(leaving) {
			t.Errorf("a reader reads from %s, which was stopped", r.server)
		}
	}
}
