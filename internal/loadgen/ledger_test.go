package loadgen

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/esh3artech/esh3ar"
)

func TestLedgerKeepsRecordsInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l, err := CreateLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []Record{
		{Kind: Accepted, Status: 202, Client: 1, Recipient: 2, Seq: 3, ID: esh3ar.ID{1, 2, 15: 3}, At: 5, Sent: 4},
		{Kind: Refused, Status: 503, Client: math.MaxUint32, Recipient: math.MaxUint32, Seq: math.MaxUint32, At: math.MaxInt64, Sent: math.MinInt64},
		{Kind: Unknown},
		{Kind: Received, Attempt: 255, Device: math.MaxUint32, ID: esh3ar.ID{0: 255}},
	}
	for i := range want {
		l.Append(&want[i])
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLedgers(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if _, err := CreateLedger(path); err == nil {
		t.Error("an existing ledger was overwritten")
	}
	if err := l.Close(); err == nil {
		t.Error("a ledger closed twice without a word")
	}
}

func TestLedgerTakesManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l, err := CreateLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 5000
	var wg sync.WaitGroup
	for w := range uint32(writers) {
		wg.Go(func() {
			for i := range uint32(each) {
				l.Append(&Record{Kind: Accepted, Client: w, Seq: i})
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLedgers(path)
	if err != nil {
		t.Fatal(err)
	}
	next := [writers]uint32{}
	for _, r := range got {
		if r.Seq != next[r.Client] {
			t.Fatalf("writer %d: record %d where %d should be", r.Client, r.Seq, next[r.Client])
		}
		next[r.Client]++
	}
	if len(got) != writers*each {
		t.Errorf("%d records, want %d", len(got), writers*each)
	}
}

func TestLedgerThatProvesNothing(t *testing.T) {
	dir := t.TempDir()
	record := make([]byte, recordBytes)
	(&Record{Kind: Accepted}).put(record)
	for name, content := range map[string]string{
		"empty":   "",
		"other":   strings.Repeat("x", 100),
		"cut off": magic + string(record) + string(record[:recordBytes-1]),
		"garbage": magic + strings.Repeat("\xff", recordBytes),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLedgers(path); err == nil {
			t.Errorf("a ledger that is %s was read", name)
		}
	}
	if _, err := ReadLedgers(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing ledger was read")
	}
}

func TestMark(t *testing.T) {
	for _, want := range []mark{
		{},
		{run: 0xdeadbeef, client: 1, recipient: 0x00abcdef, seq: math.MaxUint32, sent: math.MaxInt64},
	} {
		b := content(markBytes + 20)
		want.put(b)
		if got, ok := parseMark(b); !ok || got != want {
			t.Errorf("mark %+v came back as %+v, %t", want, got, ok)
		}
	}
	good := content(markBytes)
	for _, bad := range [][]byte{nil, good[:markBytes-1], slices.Concat([]byte("toad "), good[5:]), []byte(strings.Replace(string(good), "0", "g", 1))} {
		if m, ok := parseMark(bad); ok {
			t.Errorf("%q is the mark %+v", bad, m)
		}
	}
	if n := len(content(0)); n != markBytes {
		t.Errorf("the least content has %d bytes, want %d", n, markBytes)
	}
	if a, b := len(RecipientName(0, 0)), len(RecipientName(math.MaxUint32, math.MaxUint32)); a != b {
		t.Errorf("recipients' names have %d and %d bytes", a, b)
	}
}
