package journaltest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// stamp is the content of an entry that says who wrote it as which one.
func stamp(writer, n int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(writer))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// order checks that each writer's stamps come in the order of their numbers.
type order struct {
	next  map[int]int
	total int
}

func (o *order) see(t testing.TB, data []byte) {
	t.Helper()
	if len(data) != 8 {
		t.Fatalf("entry or record %q", data)
	}
	writer, n := int(binary.BigEndian.Uint32(data)), int(binary.BigEndian.Uint32(data[4:]))
	if o.next == nil {
		o.next = make(map[int]int)
	}
	if n != o.next[writer] {
		t.Fatalf("writer %d: number %d, want %d", writer, n, o.next[writer])
	}
	o.next[writer]++
	o.total++
}

func testConcurrentAppends(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	const writers, each = 20, 25
	partition := func(writer int) journal.Partition {
		return journal.Partition{Shard: uint16(writer % 2), Tier: uint8(writer / 2 % 2)}
	}
	type key struct {
		shard uint16
		seq   uint64
	}
	var mu sync.Mutex
	used := map[key]bool{}
	ctx := within(t)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var last uint64
			for i := range each {
				seq, err := l.Append(ctx, partition(w), stamp(w, i))
				if err != nil || seq <= last {
					t.Errorf("writer %d: append %d: sequence %d after %d, error %v", w, i, seq, last, err)
					return
				}
				last = seq
				mu.Lock()
				if k := (key{partition(w).Shard, seq}); used[k] {
					t.Errorf("sequence %d given out twice", seq)
				} else {
					used[k] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for w := range 4 {
		var o order
		r := mustRead(t, l, partition(w), 0)
		for o.total < writers/4*each {
			o.see(t, mustNext(t, r).Data)
		}
		wantNothingMore(t, l, partition(w), r)
	}
}

func testGroupCommit(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	inFlight := 1
	if _, ok := l.(journal.AsyncLog); ok {
		inFlight = 4
	}
	a, err := journal.NewAppender(l, journal.AppenderOptions{Shards: 2, Tiers: 1, BatchBytes: 200, InFlight: inFlight})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	running, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(running) }()

	const writers, each = 50, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := a.Append(ctx, journal.Partition{Shard: uint16(w % 2)}, stamp(w, i)); err != nil {
					t.Errorf("writer %d: append %d: %v", w, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	stop()
	if err := <-stopped; err != nil {
		t.Fatalf("run: %v", err)
	}
	if t.Failed() {
		return
	}
	for shard := range uint16(2) {
		var o order
		r := mustRead(t, l, journal.Partition{Shard: shard}, 0)
		for o.total < writers/2*each {
			for record, err := range journal.Records(mustNext(t, r).Data) {
				if err != nil {
					t.Fatal(err)
				}
				o.see(t, record)
			}
		}
		if o.total != writers/2*each {
			t.Fatalf("shard %d: %d records, want %d", shard, o.total, writers/2*each)
		}
	}
}

func testLast(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p, other := journal.Partition{Tier: 0}, journal.Partition{Tier: 1}
	wantLast(t, l, p, 0)
	first := mustAppend(t, l, p, numbered(0))
	wantLast(t, l, p, first)
	wantLast(t, l, other, 0)
	second := mustAppend(t, l, other, numbered(1))
	wantLast(t, l, p, first)
	wantLast(t, l, other, second)
	mustPurge(t, l, p, first+1)
	wantLast(t, l, p, 0)
	wantLast(t, l, other, second)
}

func testPurge(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p, other := journal.Partition{Tier: 0}, journal.Partition{Tier: 1}
	const n = 20
	var seqs, others []uint64
	for i := range n {
		seqs = append(seqs, mustAppend(t, l, p, numbered(i)))
		others = append(others, mustAppend(t, l, other, numbered(i)))
	}
	for _, below := range []uint64{0, 1, seqs[0]} { // nothing lies below
		mustPurge(t, l, p, below)
		wantNext(t, mustRead(t, l, p, 0), seqs[0], numbered(0))
	}
	for range 2 { // to repeat is harmless
		mustPurge(t, l, p, seqs[5])
		wantNext(t, mustRead(t, l, p, 0), seqs[5], numbered(5))
	}
	mustPurge(t, l, p, others[9]) // another tier's sequence
	wantNext(t, mustRead(t, l, p, 0), seqs[10], numbered(10))
	mustPurge(t, l, p, seqs[3]) // goes no way back
	wantNext(t, mustRead(t, l, p, 0), seqs[10], numbered(10))

	r := mustRead(t, l, other, 0)
	for i := range n {
		wantNext(t, r, others[i], numbered(i))
	}
	mustPurge(t, l, p, others[n-1]+1_000_000) // far beyond the last
	wantNothingMore(t, l, p, mustRead(t, l, p, 0))
	wantNext(t, mustRead(t, l, other, 0), others[0], numbered(0))
}

func testNoReuse(t *testing.T, h Harness) {
	p := journal.Partition{Shard: 1}
	var last uint64
	for round := range 4 {
		l := h.Open(t, Options{Shards: 2})
		for i := range 5 {
			seq := mustAppend(t, l, p, numbered(i))
			if seq <= last {
				t.Fatalf("round %d: sequence %d, was given out before: up to %d", round, seq, last)
			}
			last = seq
		}
		mustPurge(t, l, p, last+1)
		wantLast(t, l, p, 0)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func testFull(t *testing.T, h Harness) {
	l := open(t, h, Options{MaxBytes: 200_000})
	p, other := journal.Partition{Tier: 0}, journal.Partition{Tier: 1}
	data := make([]byte, 20_000)
	for round := range 3 {
		var last uint64
		for n := 0; ; n++ {
			seq, err := l.Append(within(t), p, data)
			if err != nil {
				wantError(t, fmt.Sprintf("append %d", n), err, journal.ErrFull)
				break
			}
			if last = seq; n > 10 {
				t.Fatalf("round %d: %d entries of %d bytes fit into 200,000", round, n, len(data))
			}
		}
		wantLast(t, l, p, last) // the refused one is not stored
		// The tiers share the room. Servers that count what is under way may refuse one entry early and take the next.
		var err error
		for n := 0; err == nil && n < 3; n++ {
			_, err = l.Append(within(t), other, data)
		}
		wantError(t, "append to another tier of the full shard", err, journal.ErrFull)
		mustAppend(t, l, journal.Partition{Shard: 1, Tier: uint8(round)}, numbered(round))
		mustPurge(t, l, p, last+1)
		end, err := l.Last(within(t), other)
		if err != nil {
			t.Fatal(err)
		}
		mustPurge(t, l, other, end+1)
	}
}

func testAppendContext(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	p := journal.Partition{}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stored := 0
	for i := range 10 {
		if _, err := l.Append(ctx, p, numbered(0)); err == nil {
			stored++
		} else if !errors.Is(err, journal.ErrUnknown) {
			t.Fatalf("append %d: %v, want %v", i, err, journal.ErrUnknown)
		}
	}
	// Each of them may be stored, and none twice.
	seq := mustAppend(t, l, p, numbered(1))
	r := mustRead(t, l, p, 0)
	seen := 0
	for mustNext(t, r).Seq < seq {
		seen++
	}
	if seen < stored || seen > 10 {
		t.Fatalf("%d entries of 10 appends, of which %d succeeded", seen, stored)
	}
}

func testNoPartition(t *testing.T, h Harness) {
	l := open(t, h, Options{Shards: 2})
	ctx := within(t)
	for _, p := range []journal.Partition{{Shard: 2}, {Shard: 1<<16 - 1, Tier: 255}} {
		_, err := l.Append(ctx, p, nil)
		wantError(t, "append", err, journal.ErrNoPartition)
		_, err = l.Read(ctx, p, 0)
		wantError(t, "read", err, journal.ErrNoPartition)
		_, err = l.Last(ctx, p)
		wantError(t, "last", err, journal.ErrNoPartition)
		wantError(t, "purge", l.Purge(ctx, p, 10), journal.ErrNoPartition)
	}
	p := journal.Partition{Shard: 1, Tier: 255}
	wantNext(t, mustRead(t, l, p, 0), mustAppend(t, l, p, numbered(0)), numbered(0))
}

func testClosed(t *testing.T, h Harness) {
	l := open(t, h, Options{})
	mustAppend(t, l, journal.Partition{}, numbered(0))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatalf("close again: %v", err)
	}
	ctx := within(t)
	_, err := l.Append(ctx, journal.Partition{}, nil)
	wantError(t, "append", err, journal.ErrClosed)
	_, err = l.Read(ctx, journal.Partition{}, 0)
	wantError(t, "read", err, journal.ErrClosed)
	_, err = l.Last(ctx, journal.Partition{})
	wantError(t, "last", err, journal.ErrClosed)
	wantError(t, "purge", l.Purge(ctx, journal.Partition{}, 10), journal.ErrClosed)
}
