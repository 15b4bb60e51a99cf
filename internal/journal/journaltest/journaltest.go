// Package journaltest is the conformance suite of journal.Log: what a backend
// must do, whatever it is built on.
package journaltest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// Harness gives the suite one empty journal.
type Harness struct {
	// Open opens the journal, with what is in it from before, and fails the
	// test if it cannot. The suite closes the log, and opens the journal again
	// only after that; closing must release all that Open took.
	Open func(t testing.TB, o Options) journal.Log
}

// Options is what a test wants of the log.
type Options struct {
	Shards   int
	MaxBytes int64 // bound of each shard; 0 for the backend's default
}

// patience is how long the suite waits for what must happen.
const patience = 20 * time.Second

// Run runs the suite. NewHarness is called once a test.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(t *testing.T, h Harness)
	}{
		{"entries come back in order", testOrder},
		{"sequences grow over the tiers of a shard", testSequences},
		{"data is not retained", testDataNotRetained},
		{"entries of any size up to a full batch", testSizes},
		{"closing and opening again loses nothing", testReopen},
		{"concurrent appenders", testConcurrentAppends},
		{"asynchronous appends keep their order", testAsync},
		{"group commit", testGroupCommit},
		{"reading begins after any sequence", testReadAfter},
		{"next waits for an entry", testNextWaits},
		{"next ends with its context and loses nothing", testNextContext},
		{"close ends a reader", testReaderClose},
		{"readers are independent", testTwoReaders},
		{"a reader far behind gets everything", testBacklog},
		{"last is the partition's", testLast},
		{"purge removes below", testPurge},
		{"purge under a reader", testPurgeWhileReading},
		{"sequences are not used twice", testNoReuse},
		{"a full shard refuses and recovers", testFull},
		{"an append whose context has ended", testAppendContext},
		{"unknown partitions", testNoPartition},
		{"a closed log", testClosed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newHarness(t)) })
	}
}

// open opens the journal until the end of the test.
func open(t testing.TB, h Harness, o Options) journal.Log {
	t.Helper()
	if o.Shards == 0 {
		o.Shards = 2
	}
	l := h.Open(t, o)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// within returns a context for what must not take long.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// numbered is the content of the test's n-th entry.
func numbered(n int) []byte { return fmt.Appendf(nil, "entry %d", n) }

func mustAppend(t testing.TB, l journal.Log, p journal.Partition, data []byte) uint64 {
	t.Helper()
	seq, err := l.Append(within(t), p, data)
	if err != nil {
		t.Fatalf("append to %v: %v", p, err)
	}
	return seq
}

func mustRead(t testing.TB, l journal.Log, p journal.Partition, after uint64) journal.Reader {
	t.Helper()
	r, err := l.Read(within(t), p, after)
	if err != nil {
		t.Fatalf("read %v after %d: %v", p, after, err)
	}
	t.Cleanup(r.Close)
	return r
}

func mustNext(t testing.TB, r journal.Reader) journal.Entry {
	t.Helper()
	e, err := r.Next(within(t))
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return e
}

func mustPurge(t testing.TB, l journal.Log, p journal.Partition, below uint64) {
	t.Helper()
	if err := l.Purge(within(t), p, below); err != nil {
		t.Fatalf("purge %v below %d: %v", p, below, err)
	}
}

// wantNext fails the test unless the reader's next entry is the given one.
func wantNext(t testing.TB, r journal.Reader, seq uint64, data []byte) {
	t.Helper()
	if e := mustNext(t, r); e.Seq != seq || !bytes.Equal(e.Data, data) {
		t.Fatalf("next: entry %d %.40q, want %d %.40q", e.Seq, e.Data, seq, data)
	}
}

func wantLast(t testing.TB, l journal.Log, p journal.Partition, want uint64) {
	t.Helper()
	got, err := l.Last(within(t), p)
	if err != nil || got != want {
		t.Fatalf("last of %v: %d, %v; want %d", p, got, err, want)
	}
}

func wantError(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: error %v, want %v", what, got, want)
	}
}

// wantNothingMore fails the test if the reader has another entry soon. It
// appends one to see, so that it need not wait for nothing to happen.
func wantNothingMore(t testing.TB, l journal.Log, p journal.Partition, r journal.Reader) {
	t.Helper()
	mark := []byte("nothing before this")
	wantNext(t, r, mustAppend(t, l, p, mark), mark)
}

func testOrder(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	partitions := []journal.Partition{{Shard: 0, Tier: 0}, {Shard: 0, Tier: 3}, {Shard: 1, Tier: 0}}
	before := time.Now().Add(-time.Second)
	const n = 50
	seqs := map[journal.Partition][]uint64{}
	for i := range n {
		for _, p := range partitions {
			seqs[p] = append(seqs[p], mustAppend(t, l, p, numbered(i)))
		}
	}
	for _, p := range partitions {
		r := mustRead(t, l, p, 0)
		for i := range n {
			e := mustNext(t, r)
			if e.Seq != seqs[p][i] || !bytes.Equal(e.Data, numbered(i)) {
				t.Fatalf("%v: entry %d %q, want %d %q", p, e.Seq, e.Data, seqs[p][i], numbered(i))
			}
			if e.Time.Before(before) || e.Time.After(time.Now().Add(time.Second)) {
				t.Fatalf("%v: entry of %v, stored between %v and now", p, e.Time, before)
			}
		}
		wantNothingMore(t, l, p, r)
	}
}

func testSequences(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	var last uint64
	for i := range 30 {
		p := journal.Partition{Shard: 1, Tier: uint8(i % 3)}
		seq := mustAppend(t, l, p, numbered(i))
		if seq <= last {
			t.Fatalf("tier %d: sequence %d after %d of another tier", p.Tier, seq, last)
		}
		last = seq
	}
}

func testDataNotRetained(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	data := numbered(1)
	seq := mustAppend(t, l, p, data)
	clear(data)
	r := mustRead(t, l, p, 0)
	first := mustNext(t, r)
	for i := range 10 {
		mustAppend(t, l, p, numbered(100+i))
		mustNext(t, r)
	}
	if first.Seq != seq || !bytes.Equal(first.Data, numbered(1)) {
		t.Fatalf("entry %d %q after later ones, want %d %q", first.Seq, first.Data, seq, numbered(1))
	}
}

func testSizes(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	r := mustRead(t, l, p, 0)
	for _, size := range []int{0, 1, 1000, 100_000, journal.DefaultBatchBytes} {
		data := bytes.Repeat([]byte{0x0A}, size)
		wantNext(t, r, mustAppend(t, l, p, data), data)
	}
}

func testReopen(t *testing.T, h Harness) {
	partitions := []journal.Partition{{Shard: 0, Tier: 0}, {Shard: 0, Tier: 1}, {Shard: 1, Tier: 0}}
	seqs := map[journal.Partition][]uint64{}
	n := 0
	for round := range 3 {
		l := h.Open(t, Options{Shards: 2})
		for _, p := range partitions {
			r, err := l.Read(within(t), p, 0)
			if err != nil {
				t.Fatalf("round %d: read %v: %v", round, p, err)
			}
			for i, seq := range seqs[p] {
				wantNext(t, r, seq, numbered(i))
			}
			r.Close()
			var last uint64
			if s := seqs[p]; len(s) > 0 {
				last = s[len(s)-1]
			}
			wantLast(t, l, p, last)
		}
		for i := n; i < n+20; i++ {
			for _, p := range partitions {
				seq := mustAppend(t, l, p, numbered(i))
				if s := seqs[p]; len(s) > 0 && seq <= s[len(s)-1] {
					t.Fatalf("round %d: sequence %d after %d", round, seq, s[len(s)-1])
				}
				seqs[p] = append(seqs[p], seq)
			}
		}
		n += 20
		if err := l.Close(); err != nil {
			t.Fatalf("round %d: close: %v", round, err)
		}
	}
}

func testAsync(t *testing.T, h Harness) {
	l, ok := open(t, h, Options{}).(journal.AsyncLog)
	if !ok {
		return // the ability is optional
	}
	const n = 200
	p := journal.Partition{Shard: 1}
	type outcome struct {
		i   int
		seq uint64
		err error
	}
	outcomes := make(chan outcome, 2*n)
	ctx := within(t)
	for i := range n {
		l.AppendAsync(ctx, p, binary.BigEndian.AppendUint64(nil, uint64(i)), func(seq uint64, err error) {
			outcomes <- outcome{i, seq, err}
		})
	}
	seqs := make([]uint64, n)
	for range n {
		o := <-outcomes
		if o.err != nil {
			t.Fatalf("append %d: %v", o.i, o.err)
		}
		if seqs[o.i] != 0 {
			t.Fatalf("append %d: told twice", o.i)
		}
		seqs[o.i] = o.seq
	}
	r := mustRead(t, l, p, 0)
	for i, seq := range seqs {
		wantNext(t, r, seq, binary.BigEndian.AppendUint64(nil, uint64(i)))
	}
}
