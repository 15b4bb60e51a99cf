package protocol

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	vmsgpack "github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

var codecs = []Codec{JSON{}, MessagePack{}}

// jsonValue draws a value that JSON can hold, with numbers as float64.
func jsonValue(depth int) *rapid.Generator[any] {
	options := []*rapid.Generator[any]{
		rapid.Just[any](nil),
		rapid.Bool().AsAny(),
		rapid.String().AsAny(),
		rapid.Float64Range(-1e300, 1e300).AsAny(),
		rapid.Map(rapid.Int32(), func(i int32) any { return float64(i) }),
	}
	if depth > 0 {
		inner := jsonValue(depth - 1)
		options = append(options,
			rapid.Map(rapid.SliceOfN(inner, 0, 4), func(v []any) any { return v }),
			rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 4), func(v map[string]any) any { return v }))
	}
	return rapid.OneOf(options...)
}

// floats makes all numbers float64, which is what JSON decodes to.
func floats(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = floats(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = floats(v[k])
		}
		return out
	case nil, bool, string, float64:
		return v
	}
	return reflect.ValueOf(v).Convert(reflect.TypeFor[float64]()).Interface()
}

func TestInvocationRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, target := rapid.String().Draw(t, "id"), rapid.String().Draw(t, "target")
		args := rapid.SliceOfN(jsonValue(3), 0, 5).Draw(t, "args")
		streams := rapid.SliceOfN(rapid.StringN(1, 10, -1), 0, 3).Draw(t, "streams")
		trailer := rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "trailer")
		for _, c := range codecs {
			data, err := c.AppendInvocation([]byte("before"), Invocation, id, target, args, streams)
			if err != nil {
				t.Fatal(err)
			}
			message, rest, err := c.Next(append(data, trailer...)[len("before"):], math.MaxInt32)
			if err != nil || !bytes.Equal(rest, trailer) {
				t.Fatalf("rest %q, %v", rest, err)
			}
			var m Message
			if err := c.Parse(message, &m); err != nil {
				t.Fatalf("%s: %v in %q", c.Name(), err, message)
			}
			if m.Type != Invocation || string(m.ID) != id || string(m.Target) != target || len(m.Args) != len(args) {
				t.Fatalf("%s: %+v", c.Name(), m)
			}
			for i, s := range streams {
				if string(m.StreamIDs[i]) != s {
					t.Fatalf("stream %q", m.StreamIDs[i])
				}
			}
			for i := range args {
				var got any
				if err := c.Decode(m.Args[i], &got); err != nil {
					t.Fatal(err)
				}
				if got := floats(got); !reflect.DeepEqual(got, args[i]) {
					t.Fatalf("%s: argument %#v came back as %#v", c.Name(), args[i], got)
				}
			}
			if id == "" && len(streams) == 0 {
				with := c.AppendWithID(nil, data[len("before"):], "s1")
				want, err := c.AppendInvocation(nil, Invocation, "s1", target, args, nil)
				// Maps are encoded in any order by MessagePack.
				if err != nil || len(with) != len(want) {
					t.Fatalf("with id: %q, want %q", with, want)
				}
			}
		}
	})
}

func TestStringsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.String()).Draw(t, "list")
		for _, c := range codecs {
			data, err := c.AppendValue(nil, list)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := c.Decode(data, &got); err != nil {
				t.Fatal(err)
			}
			if strings.Join(got, "\x00") != strings.Join(list, "\x00") || len(got) != len(list) {
				t.Fatalf("%s: %q came back as %q", c.Name(), list, got)
			}
		}
	})
}

func TestIntegersRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64().Draw(t, "n") >> rapid.IntRange(0, 63).Draw(t, "shift")
		var got int64
		if err := vmsgpack.Unmarshal(msgpack.AppendInt(nil, n), &got); err != nil || got != n {
			t.Fatalf("%d came back as %d, %v", n, got, err)
		}
		s := msgpackScanner{data: msgpack.AppendInt(nil, n)}
		if got, err := s.integer(); err != nil || got != n {
			t.Fatalf("%d was scanned as %d, %v", n, got, err)
		}
	})
}

// TestTranscode compares transcoded JSON with what a MessagePack library makes
// of it.
func TestTranscode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := jsonValue(4).Draw(t, "v")
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		data := AppendTranscoded(nil, text)
		var got any
		if err := (MessagePack{}).Decode(data, &got); err != nil {
			t.Fatal(err)
		}
		if got := floats(got); !reflect.DeepEqual(got, v) {
			t.Fatalf("%s became %#v", text, got)
		}
	})
	for _, bad := range []string{"", "{", "[1", `"`, "1 2", "x"} {
		if got := AppendTranscoded([]byte{1}, []byte(bad)); !bytes.Equal(got, []byte{1, 0xc0}) {
			t.Errorf("%q became % x", bad, got)
		}
	}
}

func TestAppendJSONString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "s"))
		var got string
		if err := json.Unmarshal(AppendJSONString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for _, r := range s {
			want.WriteRune(r)
		}
		if got != want.String() {
			t.Fatalf("%q came back as %q", s, got)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	for _, v := range vectors {
		f.Add([]byte(v.json))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m Message
		err := JSON{}.Parse(data, &m)
		if err != nil {
			return
		}
		// What is accepted is JSON, and so is every part that is handed on.
		if !json.Valid(data) {
			t.Fatalf("accepted %q", data)
		}
		for _, v := range append(m.Args, m.Value) {
			if v != nil && !json.Valid(v) {
				t.Fatalf("value %q", v)
			}
		}
		decodeAll(JSON{}, &m)
	})
}

func FuzzParseMessagePack(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.msgpack))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m Message
		if err := (MessagePack{}).Parse(data, &m); err != nil {
			return
		}
		// Every part that is handed on is one whole value.
		for _, v := range append(m.Args, m.Value) {
			if s := (msgpackScanner{data: v}); v != nil && (s.skip() != nil || s.pos != len(v)) {
				t.Fatalf("value % x", v)
			}
		}
		decodeAll(MessagePack{}, &m)
	})
}

// decodeAll decodes all values into what handlers use. It must not panic.
func decodeAll(c Codec, m *Message) {
	for _, v := range append(m.Args, m.Value) {
		if v == nil {
			continue
		}
		var (
			a any
			s string
			l []string
			n int
			o struct{ A, B any }
		)
		for _, p := range []any{&a, &s, &l, &n, &o} {
			_ = c.Decode(v, p)
		}
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte(`{"protocol":"json","version":1}` + "\x1e"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, _ = ParseHandshakeRequest(data, 1000)
		_, _, _ = ParseHandshakeResponse(data, 1000)
	})
}

func FuzzNext(f *testing.F) {
	f.Add([]byte("\x02\x91\x06\x02\x91\x06"))
	f.Add([]byte("{}\x1e{}\x1e"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range codecs {
			for rest := data; len(rest) > 0; {
				message, next, err := c.Next(rest, 1000)
				if err != nil || next == nil {
					break
				}
				if len(message) > 1000 || len(next) >= len(rest) {
					t.Fatalf("message of %d bytes, rest %d of %d", len(message), len(next), len(rest))
				}
				rest = next
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	id := "0198f0a2-7c1e-7b6a-8c1e-0123456789ab"
	ids := make([]string, 10)
	for i := range ids {
		ids[i] = id
	}
	for _, c := range codecs {
		b.Run(c.Name(), func(b *testing.B) {
			data, err := c.AppendInvocation(nil, Invocation, "", "AcknowledgeMessages", []any{ids}, nil)
			if err != nil {
				b.Fatal(err)
			}
			var m Message
			var list []string
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				message, _, err := c.Next(data, 1<<20)
				if err == nil {
					err = c.Parse(message, &m)
				}
				if err == nil {
					err = c.Decode(m.Args[0], &list)
				}
				if err != nil || len(list) != 10 {
					b.Fatal(err)
				}
			}
		})
	}
}
