package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// TestRestartUnderway restarts the server while one side appends and the other
// reads. Appends fail or succeed; what succeeded is stored once, in order, and
// reaches the reader without its doing anything about it.
func TestRestartUnderway(t *testing.T) {
	l := mustOpenIn(t, t.TempDir(), jetstream.Options{Shards: 1})
	p := journal.Partition{Tier: 1}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	const entries, restartEvery = 300, 100
	type acknowledged struct {
		seq  uint64
		data string
	}
	appended := make(chan acknowledged, entries)
	go func() {
		defer close(appended)
		for n := 0; n < entries; {
			if n%restartEvery == restartEvery/2 {
				go func() {
					if err := l.server.Restart(); err != nil {
						t.Error(err)
					}
				}()
			}
			data := fmt.Sprint("entry ", n)
			seq, err := l.Append(ctx, p, []byte(data))
			switch {
			case err == nil:
				appended <- acknowledged{seq, data}
				n++
			case errors.Is(err, journal.ErrUnknown) && ctx.Err() == nil:
				n++ // perhaps stored: not again, so that none can be there twice
			case !errors.Is(err, journal.ErrUnavailable):
				t.Errorf("append %d: %v", n, err)
				return
			}
		}
	}()

	r, err := l.Read(ctx, p, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	seen := map[string]bool{}
	for a := range appended {
		for !seen[a.data] {
			e, err := r.Next(ctx)
			if err != nil {
				t.Fatalf("entry %d, %q, did not come: %v", a.seq, a.data, err)
			}
			if e.Seq > a.seq || seen[string(e.Data)] {
				t.Fatalf("entry %d %q while waiting for %d %q", e.Seq, e.Data, a.seq, a.data)
			}
			seen[string(e.Data)] = true
		}
	}
}

// TestReaderOutlivesForgottenConsumer: a reader that is not asked for so long that the
// server forgets its consumer goes on all the same.
func TestReaderOutlivesForgottenConsumer(t *testing.T) {
	l := mustOpenIn(t, t.TempDir(), jetstream.Options{Shards: 1})
	p := journal.Partition{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := l.Read(ctx, p, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for n := range 6 {
		if _, err := l.Append(ctx, p, fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
		if n == 3 {
			deleteConsumers(ctx, t, l)
		}
		e, err := r.Next(ctx)
		if err != nil || string(e.Data) != fmt.Sprint(n) {
			t.Fatalf("next: %q, %v; want %d", e.Data, err, n)
		}
	}
}

// deleteConsumers deletes all consumers of the first shard's stream.
func deleteConsumers(ctx context.Context, t *testing.T, l ownLog) {
	t.Helper()
	nc, err := l.server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, "ESH3AR_JOURNAL_0")
	if err != nil {
		t.Fatal(err)
	}
	names := stream.ConsumerNames(ctx)
	deleted := 0
	for name := range names.Name() {
		if err := stream.DeleteConsumer(ctx, name); err != nil {
			t.Fatal(err)
		}
		deleted++
	}
	if names.Err() != nil || deleted == 0 {
		t.Fatalf("%d consumers deleted, error %v", deleted, names.Err())
	}
}

// TestReadAhead: a reader that is not asked holds a bounded part of a backlog.
func TestReadAhead(t *testing.T) {
	const ahead = 2 << 20
	for name, o := range map[string]jetstream.Options{
		"bytes":   {Shards: 1, ReadAheadBytes: ahead},
		"entries": {Shards: 1, ReadAheadEntries: ahead / (64 << 10)},
	} {
		t.Run(name, func(t *testing.T) {
			l := mustOpenIn(t, t.TempDir(), o)
			p := journal.Partition{}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			const entries, size = 400, 64 << 10
			for range entries {
				if _, err := l.Append(ctx, p, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
			}
			before := l.BytesReceived()
			r, err := l.Read(ctx, p, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for n := range entries {
				if _, err := r.Next(ctx); err != nil {
					t.Fatal(err)
				}
				// A request for more may be on its way before the last is used up.
				if got, limit := l.BytesReceived()-before, uint64((n+1)*size+2*ahead); got > limit {
					t.Fatalf("%d bytes received after %d entries, want at most %d", got, n+1, limit)
				}
			}
		})
	}
}
