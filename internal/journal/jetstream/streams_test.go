package jetstream_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// errorsLogged collects what is logged as an error.
type errorsLogged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *errorsLogged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *errorsLogged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *errorsLogged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelError}))
}

func positions(p map[journal.Partition]uint64, err error) func(context.Context) (map[journal.Partition]uint64, error) {
	return func(context.Context) (map[journal.Partition]uint64, error) { return p, err }
}

// TestLostStreams: with the journal's directory gone and the store there, no
// sequence comes twice, and it is said loudly.
func TestLostStreams(t *testing.T) {
	var logged errorsLogged
	l, err := openIn(t.TempDir(), logged.logger(), jetstream.Options{Shards: 3, Positions: positions(map[journal.Partition]uint64{
		{Shard: 0, Tier: 0}: 1000,
		{Shard: 0, Tier: 2}: 5000,
		{Shard: 1, Tier: 0}: 7,
	}, nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	for shard, want := range []uint64{5001, 8, 1} {
		p := journal.Partition{Shard: uint16(shard), Tier: 1}
		if seq, err := l.Append(t.Context(), p, []byte("x")); err != nil || seq != want {
			t.Errorf("shard %d: sequence %d, error %v; want %d", shard, seq, err, want)
		}
		if got := allEntries(t, l, p); len(got) != 1 || got[0].Seq != want {
			t.Errorf("shard %d: entries %v", shard, got)
		}
	}
	for _, stream := range []string{"ESH3AR_JOURNAL_0", "ESH3AR_JOURNAL_1"} {
		if !strings.Contains(logged.String(), stream) {
			t.Errorf("the loss of %s was not logged as an error: %s", stream, logged.String())
		}
	}
	if strings.Contains(logged.String(), "ESH3AR_JOURNAL_2") {
		t.Errorf("the creation of a stream that the store knows nothing of was logged as an error: %s", logged.String())
	}
}

// TestUnknownPositions: without the store's word no stream is created, but what
// is there is opened, so that the journal works while the store is down.
func TestUnknownPositions(t *testing.T) {
	dir := t.TempDir()
	down := jetstream.Options{Shards: 1, Positions: positions(nil, errors.New("store down"))}
	if l, err := openIn(dir, quiet(), down); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("open without streams and without the store: %v, error %v; want %v", l, err, journal.ErrUnavailable)
	}
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenIn(t, dir, down)
	if _, err := l.Append(t.Context(), journal.Partition{}, nil); err != nil {
		t.Error(err)
	}
	// When the store is back it tells whether that was right.
	if err := l.Behind(map[journal.Partition]uint64{{}: 0}); err != nil {
		t.Error(err)
	}
	if err := l.Behind(map[journal.Partition]uint64{{}: 0, {Tier: 1}: 1}); err == nil {
		t.Error("the store is ahead of the journal, and nobody minds")
	}
}

// TestOlderStream: the journal was set back to an older state than the store
// has reached. New sequences are above the store's position, and entries of
// another tier that the store does not have stay.
func TestOlderStream(t *testing.T) {
	done, undone := journal.Partition{Tier: 0}, journal.Partition{Tier: 1}
	for name, test := range map[string]struct {
		positions map[journal.Partition]uint64
		keeps     int // of undone
	}{
		"the store has all":            {map[journal.Partition]uint64{done: 300, undone: 10}, 0},
		"the store lacks some":         {map[journal.Partition]uint64{done: 300, undone: 7}, 5},
		"the store knows no such tier": {map[journal.Partition]uint64{done: 300}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := openIn(dir, quiet(), jetstream.Options{Shards: 1})
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				for _, p := range []journal.Partition{done, undone} {
					if _, err := l.Append(t.Context(), p, []byte("x")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			for range 2 { // opening again changes nothing
				l, err = openIn(dir, quiet(), jetstream.Options{Shards: 1, Positions: positions(test.positions, nil)})
				if err != nil {
					t.Fatal(err)
				}
				if got := allEntries(t, l, undone); len(got) != test.keeps {
					t.Errorf("%d entries are left, want %d", len(got), test.keeps)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			l = mustOpenIn(t, dir, jetstream.Options{Shards: 1})
			if seq, err := l.Append(t.Context(), done, []byte("y")); err != nil || seq != 301 {
				t.Errorf("sequence %d, error %v; want 301", seq, err)
			}
		})
	}
}

// TestBarrier: a barrier is above all that is there and below all that comes,
// no partition has it, and it keeps no stream from being emptied.
func TestBarrier(t *testing.T) {
	dir := t.TempDir()
	p := journal.Partition{Tier: 2}
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want < 10; want += 2 {
		if seq, err := l.Append(t.Context(), p, []byte("x")); err != nil || seq != want {
			t.Fatalf("sequence %d, error %v; want %d", seq, err, want)
		}
		if seq, err := l.Barrier(t.Context(), 0); err != nil || seq != want+1 {
			t.Fatalf("barrier %d, error %v; want %d", seq, err, want+1)
		}
	}
	if got := allEntries(t, l, p); len(got) != 5 {
		t.Errorf("%d entries, want 5", len(got))
	}
	if _, err := l.Barrier(t.Context(), 1); !errors.Is(err, journal.ErrNoPartition) {
		t.Errorf("barrier of no shard: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenIn(t, dir, jetstream.Options{Shards: 1, Positions: positions(map[journal.Partition]uint64{p: 10_000_000}, nil)})
	if seq, err := l.Append(t.Context(), p, nil); err != nil || seq != 10_000_001 {
		t.Errorf("sequence %d, error %v", seq, err)
	}
}

// TestChangedLimits: another size limit takes effect on existing streams.
func TestChangedLimits(t *testing.T) {
	dir := t.TempDir()
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: 1, MaxBytes: 1 << 20, Positions: positions(map[journal.Partition]uint64{{}: 41}, nil)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	data := make([]byte, 400<<10)
	for range 2 {
		if _, err := l.Append(ctx, journal.Partition{}, data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(ctx, journal.Partition{}, data); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("append over the limit: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenIn(t, dir, jetstream.Options{Shards: 1, MaxBytes: 2 << 20})
	if seq, err := l.Append(ctx, journal.Partition{}, data); err != nil || seq != 44 {
		t.Fatalf("append under the new limit: sequence %d, error %v; want 44", seq, err)
	}
}

// TestChangedShards: the number of shards cannot be changed by accident.
func TestChangedShards(t *testing.T) {
	dir := t.TempDir()
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, shards := range []int{1, 3} {
		if _, err := openIn(dir, quiet(), jetstream.Options{Shards: shards}); !errors.Is(err, jetstream.ErrSettings) || !strings.Contains(err.Error(), "2 shards") {
			t.Errorf("open with %d shards: %v", shards, err)
		}
	}
	mustOpenIn(t, dir, jetstream.Options{Shards: 2})
}

// TestUnrecoveredStream: what the server cannot recover is left alone, for
// somebody to look at it.
func TestUnrecoveredStream(t *testing.T) {
	dir := t.TempDir()
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), journal.Partition{}, []byte("precious")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	metas, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "meta.inf"))
	if err != nil || len(metas) != 1 {
		t.Fatalf("metadata %q, error %v", metas, err)
	}
	meta, err := os.ReadFile(metas[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(metas[0], meta[:len(meta)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIn(dir, quiet(), jetstream.Options{Shards: 1}); !errors.Is(err, journal.ErrUnavailable) {
		t.Fatalf("open: %v, want %v", err, journal.ErrUnavailable)
	}
	if err := os.WriteFile(metas[0], meta, 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpenIn(t, dir, jetstream.Options{Shards: 1})
	if got := allEntries(t, l, journal.Partition{}); len(got) != 1 || string(got[0].Data) != "precious" {
		t.Fatalf("entries %v", got)
	}
}
