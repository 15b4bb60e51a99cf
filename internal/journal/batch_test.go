package journal_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// records collects what a batch yields before its error, and the error.
func records(batch []byte) (all [][]byte, err error) {
	for record, err := range journal.Records(batch) {
		if err != nil {
			return all, err
		}
		all = append(all, record)
	}
	return all, nil
}

func TestBatchRoundTrip(t *testing.T) {
	for _, sizes := range [][]int{{}, {0}, {1}, {0, 0, 0}, {127, 128, 16_383, 16_384, 200_000}} {
		var batch []byte
		var want [][]byte
		for i, size := range sizes {
			record := bytes.Repeat([]byte{byte(i)}, size)
			want = append(want, record)
			batch = journal.AppendRecord(batch, record)
		}
		got, err := records(batch)
		if err != nil || !equal(got, want) {
			t.Errorf("sizes %v: %d records, error %v", sizes, len(got), err)
		}
	}
}

func TestBatchesJoin(t *testing.T) {
	a := journal.AppendRecord(nil, []byte("one"))
	b := journal.AppendRecord(nil, []byte("two"))
	got, err := records(append(a, b...))
	if err != nil || !equal(got, [][]byte{[]byte("one"), []byte("two")}) {
		t.Fatalf("%q, %v", got, err)
	}
}

// TestBatchWireForm pins the bytes: they are on disk in every deployment.
func TestBatchWireForm(t *testing.T) {
	got := journal.AppendRecord(journal.AppendRecord(nil, []byte("ab")), bytes.Repeat([]byte{'x'}, 300))
	want := "\x0a\x02ab" + "\x0a\xac\x02" + strings.Repeat("x", 300)
	if string(got) != want {
		t.Fatalf("%.20q, want %.20q", got, want)
	}
}

func TestRecordsMalformed(t *testing.T) {
	good := journal.AppendRecord(nil, []byte("good"))
	for name, tail := range map[string][]byte{
		"tag of another field":     {0x12, 0x01, 'x'},
		"tag of another wire type": {0x08, 0x01},
		"no length":                {0x0A},
		"length cut off":           {0x0A, 0x80},
		"record cut off":           {0x0A, 0x05, 'x'},
		"length over 64 bits":      append([]byte{0x0A}, bytes.Repeat([]byte{0xFF}, 11)...),
		"length of 2^64-1":         binary.AppendUvarint([]byte{0x0A}, 1<<64-1),
	} {
		got, err := records(append(bytes.Clone(good), tail...))
		if err == nil || !equal(got, [][]byte{[]byte("good")}) {
			t.Errorf("%s: %q, error %v; want the good record and an error", name, got, err)
		}
	}
}

func TestRecordsStopsWhenTold(t *testing.T) {
	batch := journal.AppendRecord(journal.AppendRecord(nil, []byte("one")), []byte("two"))
	for record, err := range journal.Records(batch) {
		if err != nil || string(record) != "one" {
			t.Fatalf("%q, %v", record, err)
		}
		break
	}
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte{})
	f.Add(journal.AppendRecord(nil, []byte("record")))
	f.Add([]byte{0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01})
	f.Add([]byte{0x0A, 0x80, 0x00})
	f.Fuzz(func(t *testing.T, batch []byte) {
		got, err := records(batch)
		var again []byte
		for _, record := range got {
			again = journal.AppendRecord(again, record)
		}
		// A length may be encoded in more bytes than it needs, so only the
		// records are equal, and no more can come out than went in.
		if len(again) > len(batch) {
			t.Fatalf("%d bytes of records from %d", len(again), len(batch))
		}
		if back, backErr := records(again); backErr != nil || !equal(back, got) {
			t.Fatalf("records %q came back as %q, %v", got, back, backErr)
		}
		if err == nil && len(batch) > 0 && len(got) == 0 {
			t.Fatalf("neither records nor an error from %q", batch)
		}
	})
}

func BenchmarkAppendRecord(b *testing.B) {
	record := make([]byte, 170)
	batch := make([]byte, 0, journal.DefaultBatchBytes)
	b.ReportAllocs()
	b.SetBytes(int64(len(record)))
	for b.Loop() {
		if len(batch)+200 > cap(batch) {
			batch = batch[:0]
		}
		batch = journal.AppendRecord(batch, record)
	}
}

func BenchmarkRecords(b *testing.B) {
	var batch []byte
	for range 1000 {
		batch = journal.AppendRecord(batch, make([]byte, 170))
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		n := 0
		for _, err := range journal.Records(batch) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 1000 {
			b.Fatal(n)
		}
	}
}
