package jetstream_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// silences is a log that counts how often a reader went on because it had heard nothing, by the server that it had heard nothing of.
type silences struct {
	slog.Handler // nil: all that is asked of it is below

	mu sync.Mutex
	of map[string]int
}

func (*silences) Enabled(context.Context, slog.Level) bool { return true }

func (s *silences) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "a journal reader begins anew" {
		return nil
	}
	var server string
	var cause error
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "server":
			server = a.Value.String()
		case "error":
			cause, _ = a.Value.Any().(error)
		}
		return true
	})
	if errors.Is(cause, natsjs.ErrNoHeartbeat) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.of[server]++
	}
	return nil
}

// total returns the silences of all servers.
func total(of map[string]int) (n int) {
	for _, silent := range of {
		n += silent
	}
	return n
}

// take returns the silences since the last call.
func (s *silences) take() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.of
	s.of = make(map[string]int)
	return of
}

// Readers get what is appended without waiting for the second of silence after which a consumer counts as gone: when it is so new
// that their first request does not find it, and when its server is stopped in order.
func TestReadersDoNotWaitForSilence(t *testing.T) {
	t.Parallel()
	const shards, tiers = 4, 3
	c := clustertest.Start(t, 3, nil)
	silences := &silences{of: make(map[string]int)}
	l, err := clustered(t, c, 0, jetstream.Options{Shards: shards, Logger: slog.New(silences)})
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
	// A machine without time for it makes some heartbeats late, but not those of half of the readers.
	check := func(when string, of []*read, silent int) {
		t.Helper()
		slices.SortFunc(of, func(a, b *read) int { return int(a.took - b.took) })
		t.Logf("%s: %d readers waited for %s (p50), %s (most), %d went on after a silence", when, len(of), of[len(of)/2].took, of[len(of)-1].took, silent)
		if 2*silent >= len(of) {
			t.Errorf("%s: %d of %d readers waited for a silence", when, silent, len(of))
		}
	}
	next()
	check("opened", slices.Clone(all), total(silences.take()))

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
	check("its server was stopped", at, silences.take()[clustertest.Name(leaving)])
	for _, r := range at {
		if r.server == clustertest.Name(leaving) {
			t.Errorf("a reader reads from %s, which was stopped", r.server)
		}
	}
}
