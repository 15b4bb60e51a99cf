package record_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
)

func randomEvents(r *rand.Rand, n int) []esh3ar.Event {
	names := []string{"", "a", "client", "\x00\xff", strings.Repeat("long", 100)}
	events := make([]esh3ar.Event, n)
	for i := range events {
		e := &events[i]
		if i > 0 && r.IntN(3) > 0 {
			*e = events[i-1] // the same message goes on
			e.Seq++
		} else {
			e.Message = esh3ar.ID{byte(1 + r.IntN(5))}
			e.Client, e.To = names[r.IntN(len(names))], names[r.IntN(len(names))]
			e.TraceParent = names[r.IntN(len(names))]
			e.Seq = r.Uint32N(10)
		}
		e.Status = esh3ar.Status(1 + r.IntN(int(esh3ar.StatusUndelivered)))
		e.At = time.UnixMicro(r.Int64N(1 << 52)).UTC()
		e.Attempt = r.Uint32N(3)
		e.Reason = esh3ar.Reason(names[r.IntN(len(names))])
		if i > 0 && e.Message == events[i-1].Message {
			// A message has one client and one recipient.
			e.Client, e.To = events[i-1].Client, events[i-1].To
		}
	}
	return events
}

func TestEventBlock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var block record.EventBlock
	for range 500 {
		events := randomEvents(r, r.IntN(30))
		block.Reset()
		for i := range events {
			e := &events[i]
			block.Add(e)
		}
		if block.Len() != len(events) {
			t.Fatalf("%d events, want %d", block.Len(), len(events))
		}
		before := esh3ar.Event{Client: "before"}
		got, err := record.AppendEvents([]esh3ar.Event{before}, block.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if want := append([]esh3ar.Event{before}, events...); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
	}
}

// TestEventBlockOfOlderVersion holds that what was stored before events told a trace can be read.
func TestEventBlockOfOlderVersion(t *testing.T) {
	block, err := hex.DecodeString("0a2a0a1001020000000000000000000000000000120461636d651a05616c6963652801308080fbdffe97a206" +
		"0a1528034211726563697069656e745f6f66666c696e65" +
		"0a200a10010300000000000000000000000000001a03626f622004280530d00f3801")
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMicro(1764028800000000).UTC()
	want := []esh3ar.Event{
		{Message: esh3ar.ID{1, 2}, Client: "acme", To: "alice", Transition: esh3ar.Transition{Seq: 1, Status: esh3ar.StatusAccepted, At: at}},
		{Message: esh3ar.ID{1, 2}, Client: "acme", To: "alice", Transition: esh3ar.Transition{
			Seq: 2, Status: esh3ar.StatusQueued, At: at, Reason: esh3ar.ReasonRecipientOffline}},
		{Message: esh3ar.ID{1, 3}, Client: "acme", To: "bob", Transition: esh3ar.Transition{
			Seq: 4, Status: esh3ar.StatusDelivered, At: at.Add(time.Millisecond), Attempt: 1}},
	}
	got, err := record.AppendEvents(nil, block)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("error %v\n got %+v\nwant %+v", err, got, want)
	}
	var again record.EventBlock
	for i := range want {
		again.Add(&want[i])
	}
	if !bytes.Equal(again.Bytes(), block) {
		t.Errorf("events without a trace are stored as\n%x, want\n%x", again.Bytes(), block)
	}
}

// TestEventBlockSize holds the encoding to its purpose: the usual life of a message in some seventy bytes.
func TestEventBlockSize(t *testing.T) {
	var block record.EventBlock
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	size := 0
	for i := range 100 {
		s := esh3ar.NewState(at)
		s.Move(esh3ar.StatusQueued, at, esh3ar.ReasonNone)
		s.Attempts = 1
		s.Move(esh3ar.StatusSent, at.Add(time.Millisecond), esh3ar.ReasonNone)
		s.Move(esh3ar.StatusDelivered, at.Add(9*time.Millisecond), esh3ar.ReasonNone)
		for t := range s.Timeline {
			block.Add(&esh3ar.Event{Message: esh3ar.ID{byte(i)}, Client: "client-1", To: "+962791234567", Transition: s.Timeline[t]})
		}
		size = len(block.Bytes()) / (i + 1)
		at = at.Add(time.Second)
	}
	if size > 75 {
		t.Errorf("a message's events take %d bytes", size)
	}
}

// FuzzAppendEvents: any bytes are an error or events that encode again to the same.
func FuzzAppendEvents(f *testing.F) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 5 {
		var block record.EventBlock
		for _, e := range randomEvents(r, 5) {
			block.Add(&e)
		}
		f.Add(block.Bytes())
		f.Add(block.Bytes()[:len(block.Bytes())/2])
	}
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := record.AppendEvents(nil, b)
		if err != nil {
			return
		}
		var block record.EventBlock
		for i := range events {
			e := &events[i]
			if i > 0 && e.Message == events[i-1].Message && (e.Client != events[i-1].Client || e.To != events[i-1].To) {
				return // no writer of ours makes these
			}
			block.Add(e)
		}
		again, err := record.AppendEvents(nil, block.Bytes())
		if err != nil || !reflect.DeepEqual(again, events) {
			t.Fatalf("error %v\n got %+v\nwant %+v", err, again, events)
		}
	})
}

func BenchmarkEventBlock(b *testing.B) {
	var block record.EventBlock
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := esh3ar.Event{Client: "client-1", To: "+962791234567",
		Transition: esh3ar.Transition{Seq: 1, Status: esh3ar.StatusDelivered, At: at, Attempt: 1}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if block.Len() == 1000 {
			block.Reset()
		}
		e.Message = esh3ar.ID{byte(i), byte(i >> 8)}
		block.Add(&e)
	}
}
