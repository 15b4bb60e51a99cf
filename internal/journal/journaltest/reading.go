package journaltest

import (
	"bytes"
	"context"
	"testing"

	"github.com/esh3artech/esh3ar/internal/journal"
)

func testReadAfter(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p, other := journal.Partition{Tier: 0}, journal.Partition{Tier: 1}
	first := mustAppend(t, l, p, numbered(0))
	between := mustAppend(t, l, other, []byte("another tier's"))
	second := mustAppend(t, l, p, numbered(1))

	for _, after := range []uint64{first, between, second - 1} {
		wantNext(t, mustRead(t, l, p, after), second, numbered(1))
	}
	wantNothingMore(t, l, p, mustRead(t, l, p, second))

	// A position that no entry has reached yet is waited for.
	last, err := l.Last(within(t), p)
	if err != nil {
		t.Fatal(err)
	}
	r := mustRead(t, l, p, last+2)
	mustAppend(t, l, p, numbered(2))
	mustAppend(t, l, p, numbered(3))
	wantNext(t, r, mustAppend(t, l, p, numbered(4)), numbered(4))
}

func testNextWaits(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{Shard: 1, Tier: 2}
	r := mustRead(t, l, p, 0)
	for i := range 20 {
		got := make(chan journal.Entry, 1)
		failed := make(chan error, 1)
		ctx := within(t)
		go func() {
			e, err := r.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			got <- e
		}()
		mustAppend(t, l, journal.Partition{Shard: 1, Tier: 1}, []byte("another tier's"))
		mustAppend(t, l, journal.Partition{Shard: 0, Tier: 2}, []byte("another shard's"))
		select {
		case e := <-got:
			t.Fatalf("next: entry %d %q before any was appended", e.Seq, e.Data)
		case err := <-failed:
			t.Fatalf("next: %v", err)
		default:
		}
		seq := mustAppend(t, l, p, numbered(i))
		select {
		case e := <-got:
			if e.Seq != seq || !bytes.Equal(e.Data, numbered(i)) {
				t.Fatalf("next: entry %d %q, want %d %q", e.Seq, e.Data, seq, numbered(i))
			}
		case err := <-failed:
			t.Fatalf("next: %v", err)
		}
	}
}

func testNextContext(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	r := mustRead(t, l, p, 0)
	ended, end := context.WithCancel(context.Background())
	end()
	want := 0
	for i := range 100 {
		// A context that ends while Next waits, one that ends as an entry
		// comes, and one that has ended: an entry returned counts, an error
		// must not have swallowed one.
		ctx, cancel := context.WithCancel(context.Background())
		if i%3 == 2 {
			ctx = ended
		}
		type outcome struct {
			e   journal.Entry
			err error
		}
		outcomes := make(chan outcome, 1)
		go func() {
			e, err := r.Next(ctx)
			outcomes <- outcome{e, err}
		}()
		if i%3 == 0 {
			cancel()
		}
		mustAppend(t, l, p, numbered(i))
		cancel()
		o := <-outcomes
		if o.err == nil {
			if !bytes.Equal(o.e.Data, numbered(want)) {
				t.Fatalf("next: %q, want %q", o.e.Data, numbered(want))
			}
			want++
		} else {
			wantError(t, "next", o.err, context.Canceled)
		}
	}
	for ; want < 100; want++ {
		if e := mustNext(t, r); !bytes.Equal(e.Data, numbered(want)) {
			t.Fatalf("next: %q, want %q", e.Data, numbered(want))
		}
	}
}

func testReaderClose(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	testClosing(t, l, p, journal.Reader.Close)
	testClosing(t, l, p, func(journal.Reader) {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// testClosing checks that closing ends a Next under way and all later ones.
func testClosing(t *testing.T, l journal.Log, p journal.Partition, closing func(journal.Reader)) {
	t.Helper()
	r := mustRead(t, l, p, 0)
	failed := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := r.Next(ctx)
		failed <- err
	}()
	closing(r)
	wantError(t, "next under way", <-failed, journal.ErrClosed)
	_, err := r.Next(ctx)
	wantError(t, "next after close", err, journal.ErrClosed)
	r.Close() // again: nothing
}

func testTwoReaders(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	a, b := mustRead(t, l, p, 0), mustRead(t, l, p, 0)
	const n = 50
	seqs := make([]uint64, n)
	for i := range seqs {
		seqs[i] = mustAppend(t, l, p, numbered(i))
		wantNext(t, a, seqs[i], numbered(i))
	}
	a.Close()
	for i, seq := range seqs {
		wantNext(t, b, seq, numbered(i))
	}
	wantNothingMore(t, l, p, b)
}

func testBacklog(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	r := mustRead(t, l, p, 0)
	const n = 64 // many times what a reader should hold
	data := func(i int) []byte { return append(numbered(i), make([]byte, journal.DefaultBatchBytes-100)...) }
	seqs := make([]uint64, n)
	for i := range seqs {
		seqs[i] = mustAppend(t, l, p, data(i))
	}
	for i, seq := range seqs {
		wantNext(t, r, seq, data(i))
	}
	wantNothingMore(t, l, p, r)
}

func testPurgeWhileReading(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	r := mustRead(t, l, p, 0)
	const n = 300
	seqs := make([]uint64, n)
	for i := range seqs {
		seqs[i] = mustAppend(t, l, p, append(numbered(i), make([]byte, 50_000)...))
	}
	wantNext(t, r, seqs[0], append(numbered(0), make([]byte, 50_000)...))

	// What the reader holds already may still come; then it goes on after the
	// purged ones, in order and without leaving out one that is there.
	below := seqs[n-10]
	mustPurge(t, l, p, below)
	last := seqs[0]
	for last < seqs[n-1] {
		e := mustNext(t, r)
		i := int(e.Seq - seqs[0])
		if e.Seq <= last || i >= n || seqs[i] != e.Seq || !bytes.HasPrefix(e.Data, append(numbered(i), 0)) {
			t.Fatalf("next: entry %d %.20q after %d", e.Seq, e.Data, last)
		}
		if e.Seq > below && last < e.Seq-1 {
			t.Fatalf("next: entry %d after %d, all above %d are there", e.Seq, last, below)
		}
		last = e.Seq
	}
	wantNothingMore(t, l, p, r)
}
