package record

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar"
)

// times draws times that the encoding keeps: whole microseconds, in UTC, and the zero time.
func times() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		us := rapid.Int64Range(0, 1<<53).Draw(t, "microseconds")
		if us == 0 {
			return time.Time{}
		}
		return time.UnixMicro(us).UTC()
	})
}

func ids() *rapid.Generator[esh3ar.ID] {
	return rapid.Custom(func(t *rapid.T) esh3ar.ID {
		id := esh3ar.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		id[6] |= 0x70
		return id
	})
}

func messages() *rapid.Generator[*esh3ar.Message] {
	return rapid.Custom(func(t *rapid.T) *esh3ar.Message {
		m := &esh3ar.Message{
			ID:          ids().Draw(t, "id"),
			Client:      rapid.StringN(1, 40, -1).Draw(t, "client"),
			From:        rapid.String().Draw(t, "from"),
			Tier:        esh3ar.Tier(rapid.IntRange(0, esh3ar.Tiers-1).Draw(t, "tier")),
			To:          rapid.StringN(1, 128, -1).Draw(t, "to"),
			Type:        rapid.String().Draw(t, "type"),
			AcceptedAt:  time.UnixMicro(rapid.Int64Range(1, 1<<53).Draw(t, "accepted")).UTC(),
			SendAt:      times().Draw(t, "send at"),
			ExpiresAt:   times().Draw(t, "expires at"),
			TraceParent: rapid.String().Draw(t, "trace parent"),
			Unchecked:   rapid.Bool().Draw(t, "unchecked"),
			Stripped:    rapid.Bool().Draw(t, "stripped"),
		}
		if rapid.Bool().Draw(t, "is data") {
			m.Data = append([]byte{}, rapid.SliceOf(rapid.Byte()).Draw(t, "data")...)
		} else {
			m.Content = rapid.String().Draw(t, "content")
		}
		if meta := rapid.MapOfN(rapid.String(), rapid.String(), 0, 5).Draw(t, "metadata"); len(meta) > 0 {
			m.Metadata = meta
		}
		if m.Key = rapid.String().Draw(t, "key"); m.Key != "" {
			copy(m.Digest[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
		}
		return m
	})
}

func transitions() *rapid.Generator[esh3ar.Transition] {
	return rapid.Custom(func(t *rapid.T) esh3ar.Transition {
		return esh3ar.Transition{
			Seq:     rapid.Uint32().Draw(t, "seq"),
			Status:  esh3ar.Status(rapid.IntRange(int(esh3ar.StatusAccepted), int(esh3ar.StatusUndelivered)).Draw(t, "status")),
			At:      times().Draw(t, "at"),
			Attempt: rapid.Uint32().Draw(t, "attempt"),
			Reason: rapid.OneOf(
				rapid.SampledFrom([]esh3ar.Reason{esh3ar.ReasonNone, esh3ar.ReasonAckTimeout, esh3ar.ReasonBehindBacklog}),
				rapid.Map(rapid.StringN(0, 200, -1), func(s string) esh3ar.Reason { return esh3ar.Reason(s) }),
			).Draw(t, "reason"),
		}
	})
}

func states() *rapid.Generator[esh3ar.State] {
	return rapid.Custom(func(t *rapid.T) esh3ar.State {
		s := esh3ar.State{
			Attempts:   rapid.Uint32().Draw(t, "attempts"),
			Generation: rapid.Uint32().Draw(t, "generation"),
			NotBefore:  times().Draw(t, "not before"),
			Timeline:   rapid.SliceOfN(transitions(), 1, 8).Draw(t, "timeline"),
		}
		s.Status = s.Last().Status
		return s
	})
}

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := messages().Draw(t, "message")
		prefix := []byte("before")
		b := AppendMessage(prefix, m)
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("dst is lost")
		}
		b = b[len(prefix):]
		var got esh3ar.Message
		if err := DecodeMessage(b, &got); err != nil {
			t.Fatal(err)
		}
		// The decoded message must not keep b.
		again := bytes.Clone(b)
		clear(b)
		if !reflect.DeepEqual(&got, m) {
			t.Fatalf("got  %+v\nwant %+v", got, *m)
		}
		if !bytes.Equal(AppendMessage(nil, &got), again) {
			t.Fatal("equal messages have different encodings")
		}
	})
}

func TestMessageOfNewerVersion(t *testing.T) {
	m := &esh3ar.Message{ID: esh3ar.ID{1}, Client: "c", To: "r", Content: "x", AcceptedAt: time.UnixMicro(1).UTC()}
	var b []byte
	b = protowire.AppendTag(b, 100, protowire.BytesType)
	b = protowire.AppendString(b, "new")
	b = protowire.AppendTag(b, 101, protowire.VarintType)
	b = protowire.AppendVarint(b, math.MaxUint64)
	b = protowire.AppendTag(b, 102, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, 1)
	b = protowire.AppendTag(b, 103, protowire.StartGroupType)
	b = protowire.AppendTag(b, 103, protowire.EndGroupType)
	b = AppendMessage(b, m)
	var got esh3ar.Message
	if err := DecodeMessage(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, m) {
		t.Fatalf("got %+v", got)
	}
}

func TestMessageRefused(t *testing.T) {
	whole := func(change func(*esh3ar.Message)) []byte {
		m := esh3ar.Message{ID: esh3ar.ID{1}, Client: "c", To: "r", Content: "x", AcceptedAt: time.UnixMicro(1)}
		change(&m)
		return AppendMessage(nil, &m)
	}
	short := protowire.AppendBytes(protowire.AppendTag(nil, fieldID, protowire.BytesType), []byte("short"))
	for name, b := range map[string][]byte{
		"empty":           nil,
		"no id":           whole(func(m *esh3ar.Message) { m.ID = esh3ar.ID{} }),
		"no client":       whole(func(m *esh3ar.Message) { m.Client = "" }),
		"no recipient":    whole(func(m *esh3ar.Message) { m.To = "" }),
		"no time":         whole(func(m *esh3ar.Message) { m.AcceptedAt = time.Time{} }),
		"unknown tier":    whole(func(m *esh3ar.Message) { m.Tier = esh3ar.Tiers }),
		"short id":        short,
		"short digest":    append(whole(func(*esh3ar.Message) {}), fieldDigest<<3|2, 1, 'x'),
		"torn":            whole(func(*esh3ar.Message) {})[:10],
		"torn varint":     {fieldTier << 3, 0x80},
		"torn tag":        {0x80},
		"field zero":      {0, 0},
		"torn group":      {100<<3&0x7f | 3},
		"broken metadata": append(whole(func(*esh3ar.Message) {}), fieldMetadata<<3|2, 2, 0x0a, 9),
		"metadata tag":    append(whole(func(*esh3ar.Message) {}), fieldMetadata<<3|2, 1, 0x80),
		"metadata field":  append(whole(func(*esh3ar.Message) {}), fieldMetadata<<3|2, 1, 0x18),
	} {
		var m esh3ar.Message
		if err := DecodeMessage(b, &m); err == nil || !strings.HasPrefix(err.Error(), "record: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	noBody := protowire.AppendBytes(protowire.AppendTag(nil, fieldID, protowire.BytesType), bytes.Repeat([]byte{1}, 16))
	noBody = appendString(noBody, fieldClient, "c")
	noBody = appendString(noBody, fieldTo, "r")
	noBody = appendVarint(noBody, fieldAcceptedAt, 1)
	if err := DecodeMessage(noBody, new(esh3ar.Message)); err == nil {
		t.Error("a message without content or data was decoded")
	}
}

func TestStateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := states().Draw(t, "state")
		b := AppendState(nil, &s)
		got, err := DecodeState(b)
		if err != nil {
			t.Fatal(err)
		}
		clear(b)
		if !reflect.DeepEqual(got, s) {
			t.Fatalf("got  %+v\nwant %+v", got, s)
		}
	})
}

func TestEventsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few different names, so that blocks repeat them as real ones do.
		names := rapid.OneOf(rapid.SampledFrom([]string{"acme", "+962791234567"}), rapid.StringN(1, 200, -1))
		traces := rapid.OneOf(rapid.SampledFrom([]string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}), rapid.String())
		some := rapid.SliceOfN(ids(), 1, 3).Draw(t, "ids")
		var (
			block EventBlock
			want  []esh3ar.Event
		)
		who := make(map[esh3ar.ID][2]string)
		for _, tr := range rapid.SliceOfN(transitions(), 0, 20).Draw(t, "transitions") {
			id := rapid.SampledFrom(some).Draw(t, "message")
			if _, ok := who[id]; !ok {
				who[id] = [2]string{names.Draw(t, "client"), names.Draw(t, "to")}
			}
			tr.At = time.UnixMicro(rapid.Int64Range(-1<<53, 1<<53).Draw(t, "at")).UTC()
			e := esh3ar.Event{Message: id, Client: who[id][0], To: who[id][1], TraceParent: traces.Draw(t, "trace parent"), Transition: tr}
			block.Add(&e)
			want = append(want, e)
		}
		if block.Len() != len(want) {
			t.Fatalf("%d events of %d", block.Len(), len(want))
		}
		got, err := AppendEvents(nil, block.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		block.Reset()
		if block.Len() != 0 || len(block.Bytes()) != 0 {
			t.Fatal("not empty after Reset")
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add(AppendMessage(nil, benchMessage()))
	data := benchMessage()
	data.Content, data.Data, data.Metadata = "", []byte(`{"a":1}`), map[string]string{"k": "v", "": ""}
	f.Add(AppendMessage(nil, data))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m esh3ar.Message
		if DecodeMessage(b, &m) != nil {
			return
		}
		if m.Key == "" {
			m.Digest = [32]byte{} // a digest without a key means nothing
		}
		once := AppendMessage(nil, &m)
		var again esh3ar.Message
		if err := DecodeMessage(once, &again); err != nil {
			t.Fatalf("what was decoded cannot be decoded again: %v", err)
		}
		if !bytes.Equal(AppendMessage(nil, &again), once) || m.Content != again.Content || !bytes.Equal(m.Data, again.Data) {
			t.Fatalf("got  %+v\nwant %+v", again, m)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	s := esh3ar.NewState(time.UnixMicro(1))
	s.Move(esh3ar.StatusQueued, time.UnixMicro(2), esh3ar.ReasonRecipientOffline)
	f.Add(AppendState(nil, &s))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			return
		}
		once := AppendState(nil, &s)
		again, err := DecodeState(once)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(AppendState(nil, &again), once) {
			t.Fatalf("got  %+v\nwant %+v", again, s)
		}
	})
}

func FuzzDecodeEvents(f *testing.F) {
	var block EventBlock
	for i := range 3 {
		block.Add(&esh3ar.Event{Message: esh3ar.ID{1, byte(i / 2)}, Client: "c", To: "r", TraceParent: strings.Repeat("t", i/2), Transition: esh3ar.Transition{
			Seq: uint32(i), Status: esh3ar.StatusQueued, At: time.UnixMicro(int64(i)), Reason: esh3ar.ReasonAckTimeout,
		}})
	}
	f.Add(block.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := AppendEvents(nil, b)
		if err != nil {
			return
		}
		var block EventBlock
		for i := range events {
			block.Add(&events[i])
		}
		again, err := AppendEvents(nil, block.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(again) != len(events) {
			t.Fatalf("%d events of %d", len(again), len(events))
		}
	})
}

func benchMessage() *esh3ar.Message {
	return &esh3ar.Message{
		ID: esh3ar.ID{1, 6: 0x70, 15: 1}, Client: "acme", From: "Acme Bank", Tier: esh3ar.TierSilver, To: "+962791234567",
		Type: "otp", Content: strings.Repeat("Your code is 123456. ", 6), Metadata: nil,
		AcceptedAt: time.UnixMicro(1764028800000000).UTC(), ExpiresAt: time.UnixMicro(1764028900000000).UTC(),
		Key: "0198c0de-7a1b-7c3d-8e4f-0123456789ab", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
}

func BenchmarkAppendMessage(b *testing.B) {
	m := benchMessage()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessage(buf[:0], m)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeMessage(b *testing.B) {
	text := benchMessage()
	data := benchMessage()
	data.Content, data.Data = "", []byte(`{"code":"`+text.Content+`"}`)
	meta := benchMessage()
	meta.Metadata = map[string]string{"campaign": "winter", "branch": "amman-3"}
	for _, c := range []struct {
		name string
		m    *esh3ar.Message
	}{{"text", text}, {"data", data}, {"metadata", meta}} {
		b.Run(c.name, func(b *testing.B) {
			buf := AppendMessage(nil, c.m)
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			var m esh3ar.Message
			for b.Loop() {
				if err := DecodeMessage(buf, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkState(b *testing.B) {
	now := time.UnixMicro(1764028800000000).UTC()
	s := esh3ar.NewState(now)
	s.Move(esh3ar.StatusQueued, now, esh3ar.ReasonRecipientOffline)
	s.Move(esh3ar.StatusSent, now, esh3ar.ReasonNone)
	s.Move(esh3ar.StatusDelivered, now, esh3ar.ReasonNone)
	buf := AppendState(nil, &s)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = AppendState(buf[:0], &s)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeState(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEvents(b *testing.B) {
	now := time.UnixMicro(1764028800000000).UTC()
	m := benchMessage()
	s := esh3ar.NewState(now)
	s.Move(esh3ar.StatusQueued, now, esh3ar.ReasonNone)
	s.Move(esh3ar.StatusSent, now, esh3ar.ReasonNone)
	s.Move(esh3ar.StatusDelivered, now, esh3ar.ReasonNone)
	var block EventBlock
	fill := func() {
		block.Reset()
		for i := range 100 {
			m.ID[14] = byte(i)
			for j := range s.Timeline {
				block.Add(&esh3ar.Event{Message: m.ID, Client: m.Client, To: m.To, TraceParent: m.TraceParent, Transition: s.Timeline[j]})
			}
		}
	}
	b.Run("add 400", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			fill()
		}
	})
	fill()
	b.Run("decode 400", func(b *testing.B) {
		b.ReportAllocs()
		var events []esh3ar.Event
		for b.Loop() {
			var err error
			if events, err = AppendEvents(events[:0], block.Bytes()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestRowHasNoKey: a row is the message but for the idempotency key and its digest.
func TestRowHasNoKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := messages().Draw(t, "message")
		want := *m
		want.Key, want.Digest = "", [32]byte{}
		var got esh3ar.Message
		if err := DecodeMessage(AppendRow(nil, m), &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}
