package protocol

import (
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// vectors are the examples of the protocol's document, in both encodings. The
// MessagePack ones are without their length prefix.
var vectors = []struct {
	name    string
	json    string
	msgpack string
	want    Message
}{
	{
		"invocation", `{"type":1,"invocationId":"xyz","target":"method","arguments":[42]}`,
		"96 01 80 a3 78797a a6 6d6574686f64 91 2a 90",
		Message{Type: Invocation, ID: []byte("xyz"), Target: []byte("method"), Args: [][]byte{{'?'}}},
	},
	{
		"invocation without id", `{"type":1,"target":"method","arguments":[42]}`,
		"96 01 80 c0 a6 6d6574686f64 91 2a 90",
		Message{Type: Invocation, Target: []byte("method"), Args: [][]byte{{'?'}}},
	},
	{
		"invocation with null id", `{"type":1,"invocationId":null,"target":"method","arguments":[42],"headers":{"a":"b"}}`,
		"96 01 81 a1 61 a1 62 c0 a6 6d6574686f64 91 2a 90",
		Message{Type: Invocation, Target: []byte("method"), Args: [][]byte{{'?'}}},
	},
	{
		"invocation without stream ids", `{"arguments":[42],"target":"method","type":1}`,
		"95 01 80 c0 a6 6d6574686f64 91 2a",
		Message{Type: Invocation, Target: []byte("method"), Args: [][]byte{{'?'}}},
	},
	{
		"invocation with streams", `{"type":1,"invocationId":"xyz","target":"method","arguments":[],"streamIds":["1","2"]}`,
		"96 01 80 a3 78797a a6 6d6574686f64 90 92 a1 31 a1 32",
		Message{Type: Invocation, ID: []byte("xyz"), Target: []byte("method"), StreamIDs: [][]byte{{'1'}, {'2'}}},
	},
	{
		"stream item", `{"type":2,"invocationId":"xyz","item":42}`,
		"94 02 80 a3 78797a 2a",
		Message{Type: StreamItem, ID: []byte("xyz"), Value: []byte{'?'}},
	},
	{
		"completion with error", `{"type":3,"invocationId":"xyz","error":"Error"}`,
		"95 03 80 a3 78797a 01 a5 4572726f72",
		Message{Type: Completion, ID: []byte("xyz"), Error: []byte("Error")},
	},
	{
		"void completion", `{"type":3,"invocationId":"xyz"}`,
		"94 03 80 a3 78797a 02",
		Message{Type: Completion, ID: []byte("xyz")},
	},
	{
		"completion with result", `{"type":3,"invocationId":"xyz","result":42}`,
		"95 03 80 a3 78797a 03 2a",
		Message{Type: Completion, ID: []byte("xyz"), Value: []byte{'?'}},
	},
	{
		"stream invocation", `{"type":4,"invocationId":"xyz","target":"method","arguments":[42]}`,
		"96 04 80 a3 78797a a6 6d6574686f64 91 2a 90",
		Message{Type: StreamInvocation, ID: []byte("xyz"), Target: []byte("method"), Args: [][]byte{{'?'}}},
	},
	{
		"cancellation", `{"type":5,"invocationId":"xyz"}`,
		"93 05 80 a3 78797a",
		Message{Type: CancelInvocation, ID: []byte("xyz")},
	},
	{"ping", `{"type":6}`, "91 06", Message{Type: Ping}},
	{"close", `{"type":7}`, "92 07 c0", Message{Type: Close}},
	{"close with error", `{"type":7,"error":"xyz"}`, "92 07 a3 78797a", Message{Type: Close, Error: []byte("xyz")}},
	{
		"close with reconnect", `{"type":7,"error":"xyz","allowReconnect":true}`,
		"93 07 a3 78797a c3",
		Message{Type: Close, Error: []byte("xyz"), AllowReconnect: true},
	},
	{"acknowledgement", `{"type":8,"sequenceId":1394}`, "92 08 cd 0572", Message{Type: Ack, SequenceID: 1394}},
	{"sequence", `{"type":9,"sequenceId":1394}`, "92 09 cd 0572", Message{Type: Sequence, SequenceID: 1394}},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plain returns the message with nil for empty slices, and ? for each value,
// of which it checks that it decodes to 42.
func plain(t *testing.T, c Codec, m Message) Message {
	t.Helper()
	check := func(raw []byte) []byte {
		if raw == nil {
			return nil
		}
		var n int
		if err := c.Decode(raw, &n); err != nil || n != 42 {
			t.Errorf("value %q: %d, %v", raw, n, err)
		}
		return []byte{'?'}
	}
	var args [][]byte
	for _, a := range m.Args {
		args = append(args, check(a))
	}
	m.Args = args
	m.Value = check(m.Value)
	if len(m.StreamIDs) == 0 {
		m.StreamIDs = nil
	}
	return m
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		for _, c := range []Codec{JSON{}, MessagePack{}} {
			t.Run(v.name+" "+c.Name(), func(t *testing.T) {
				text := []byte(v.json)
				if c.Binary() {
					text = unhex(t, v.msgpack)
				}
				var m Message
				if err := c.Parse(text, &m); err != nil {
					t.Fatal(err)
				}
				if got := plain(t, c, m); !reflect.DeepEqual(got, v.want) {
					t.Errorf("got %+v, want %+v", got, v.want)
				}
			})
		}
	}
}

// TestEncodings checks what is sent, byte for byte.
func TestEncodings(t *testing.T) {
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, test := range []struct {
		json, msgpack string
		encode        func(c Codec) []byte
	}{
		{
			`{"type":1,"target":"method","arguments":[42]}`, "0e 96 01 80 c0 a6 6d6574686f64 91 2a 90",
			func(c Codec) []byte { return must(c.AppendInvocation(nil, Invocation, "", "method", []any{42}, nil)) },
		},
		{
			`{"type":4,"invocationId":"xyz","target":"method","arguments":[42],"streamIds":["1"]}`,
			"13 96 04 80 a3 78797a a6 6d6574686f64 91 2a 91 a1 31",
			func(c Codec) []byte {
				return must(c.AppendInvocation(nil, StreamInvocation, "xyz", "method", []any{42}, []string{"1"}))
			},
		},
		{
			`{"type":1,"invocationId":"s7","target":"method","arguments":[42]}`, "10 96 01 80 a2 7337 a6 6d6574686f64 91 2a 90",
			func(c Codec) []byte {
				return c.AppendWithID(nil, must(c.AppendInvocation(nil, Invocation, "", "method", []any{42}, nil)), "s7")
			},
		},
		{
			`{"type":2,"invocationId":"xyz","item":42}`, "08 94 02 80 a3 78797a 2a",
			func(c Codec) []byte { return must(c.AppendStreamItem(nil, "xyz", 42)) },
		},
		{
			`{"type":3,"invocationId":"xyz"}`, "08 94 03 80 a3 78797a 02",
			func(c Codec) []byte { return must(c.AppendCompletion(nil, "xyz", Void, nil)) },
		},
		{
			`{"type":3,"invocationId":"xyz","result":null}`, "09 95 03 80 a3 78797a 03 c0",
			func(c Codec) []byte { return must(c.AppendCompletion(nil, "xyz", Result, nil)) },
		},
		{
			`{"type":3,"invocationId":"xyz","error":"Error"}`, "0e 95 03 80 a3 78797a 01 a5 4572726f72",
			func(c Codec) []byte { return must(c.AppendCompletion(nil, "xyz", Failed, "Error")) },
		},
		{
			`{"type":5,"invocationId":"xyz"}`, "07 93 05 80 a3 78797a",
			func(c Codec) []byte { return c.AppendCancel(nil, "xyz") },
		},
		{`{"type":6}`, "02 91 06", func(c Codec) []byte { return c.AppendPing(nil) }},
		{`{"type":7}`, "04 93 07 c0 c2", func(c Codec) []byte { return c.AppendClose(nil, "", false) }},
		{
			`{"type":7,"error":"xyz","allowReconnect":true}`, "07 93 07 a3 78797a c3",
			func(c Codec) []byte { return c.AppendClose(nil, "xyz", true) },
		},
		{`{"type":8,"sequenceId":1394}`, "05 92 08 cd 0572", func(c Codec) []byte { return c.AppendAck(nil, 1394) }},
		{`{"type":9,"sequenceId":1}`, "03 92 09 01", func(c Codec) []byte { return c.AppendSequence(nil, 1) }},
	} {
		if got, want := string(test.encode(JSON{})), test.json+"\x1e"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := test.encode(MessagePack{}), unhex(t, test.msgpack); string(got) != string(want) {
			t.Errorf("%s: got % x, want % x", test.json, got, want)
		}
	}
}

func TestLengthPrefix(t *testing.T) {
	c := MessagePack{}
	for _, n := range []int{0, 100, 127, 128, 129, 16000, 16383, 16384, 16400, 1 << 21, 1<<21 + 5} {
		data, err := c.AppendStreamItem([]byte("before"), "1", strings.Repeat("x", n))
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, 2, 0x91, 6)
		message, rest, err := c.Next(data[len("before"):], 1<<22)
		if err != nil || len(rest) != 3 {
			t.Fatalf("%d: rest %d, %v", n, len(rest), err)
		}
		var m Message
		if err := c.Parse(message, &m); err != nil {
			t.Fatal(err)
		}
		var s string
		if err := c.Decode(m.Value, &s); err != nil || len(s) != n {
			t.Errorf("%d: %d bytes, %v", n, len(s), err)
		}
	}
}

func TestNext(t *testing.T) {
	for _, test := range []struct {
		codec Codec
		data  string
		want  error
		rest  bool
	}{
		{JSON{}, "", nil, false},
		{JSON{}, strings.Repeat("x", 100), nil, false},
		{JSON{}, strings.Repeat("x", 101), ErrTooLong, false},
		{JSON{}, strings.Repeat("x", 100) + "\x1e", nil, true},
		{JSON{}, strings.Repeat("x", 101) + "\x1e", ErrTooLong, false},
		{MessagePack{}, "", nil, false},
		{MessagePack{}, "\x80", nil, false},
		{MessagePack{}, "\x02\x91", nil, false},
		{MessagePack{}, "\x02\x91\x06", nil, true},
		{MessagePack{}, "\x65", ErrTooLong, false},
		{MessagePack{}, "\xff\xff\xff\xff\x0f", ErrTooLong, false},
		{MessagePack{}, "\xff\xff\xff\xff\xff\x0f", new(FormatError), false},
	} {
		_, rest, err := test.codec.Next([]byte(test.data), 100)
		if (rest != nil) != test.rest {
			t.Errorf("%s %q: rest %q", test.codec.Name(), test.data, rest)
		}
		if format := (*FormatError)(nil); !errors.Is(err, test.want) && !(errors.As(test.want, &format) && errors.As(err, &format)) {
			t.Errorf("%s %q: %v", test.codec.Name(), test.data, err)
		}
	}
}

func TestMalformedJSON(t *testing.T) {
	for _, text := range []string{
		``, ` `, `1`, `[]`, `null`, `{}`, `{"type":"1"}`, `{"type":1.5}`, `{"type":1e0}`, `{"type":6}}`, `{"type":6}x`, `{"type":6,}`,
		`{"type":}`, `{"type" 6}`, `{type:6}`, `{"type":06}`, `{"type":-}`, `{"type":6`, `{"type":6,"x":tru}`, `{"type":6,"x":"`,
		`{"type":6,"x":"\x"}`, `{"type":6,"x":"\u12"}`, `{"type":6,"x":"\u12g4"}`, "{\"type\":6,\"x\":\"\n\"}", "{\"type\":6,\"x\":\"\xff\"}",
		`{"type":6,"x":[1,]}`, `{"type":6,"x":[1 2]}`, `{"type":6,"x":1.}`, `{"type":6,"x":1e}`, `{"type":6,"x":"\`, `{"type":6,"x":"\u`,
		`{"type":1}`, `{"type":1,"target":"x"}`, `{"type":1,"arguments":[]}`, `{"type":1,"target":null,"arguments":[]}`,
		`{"type":1,"target":"x","arguments":{}}`, `{"type":1,"target":1,"arguments":[]}`,
		`{"type":1,"target":"x","arguments":[],"streamIds":[1]}`, `{"type":1,"invocationId":1,"target":"x","arguments":[]}`,
		`{"type":2,"invocationId":"1"}`, `{"type":2,"item":1}`, `{"type":3}`, `{"type":3,"invocationId":"1","error":"x","result":1}`,
		`{"type":4,"target":"x","arguments":[]}`, `{"type":5}`, `{"type":7,"allowReconnect":1}`, `{"type":8}`, `{"type":9}`,
		`{"type":8,"sequenceId":99999999999999999999}`, `{"type":8,"sequenceId":"1"}`,
		`{"type":6,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	} {
		var m Message
		if err := (JSON{}).Parse([]byte(text), &m); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
	var m Message
	for _, text := range []string{`{"type":0}`, `{"type":10}`, `{"type":-1}`, `{"type":42,"x":{}}`} {
		if err := (JSON{}).Parse([]byte(text), &m); !errors.As(err, new(UnknownTypeError)) {
			t.Errorf("%s: %v", text, err)
		}
	}
	deep := `{"type":6,"x":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`
	if err := (JSON{}).Parse([]byte(deep), &m); err != nil {
		t.Errorf("the deepest allowed: %v", err)
	}
}

func TestMalformedMessagePack(t *testing.T) {
	for _, text := range []string{
		"", "90", "c0", "80", "06", "91", "91 c0", "91 a1 31", "91 06 00", "92 06", "91 cf ffffffffffffffff",
		"96 01 80 c0 a6 6d657468", "94 01 80 c0 a1 61", "95 01 c2 c0 a1 61 90", "95 01 80 01 a1 61 90", "95 01 80 c0 01 90", "95 01 80 c0 a1 61 80",
		"96 01 80 c0 a1 61 90 91 01", "96 01 80 c0 a1 61 dd ffffffff 90", "96 01 80 c0 a1 61 dc ffff 90", "96 01 df ffffffff c0 a1 61 90 90",
		"96 01 80 c0 a1 61 91 c1 90", "96 01 80 c0 db ffffffff 90 90", "96 01 80 c0 a1 61 91 c6 ffffffff 90",
		"96 01 80 c0 a1 61 91 c9 ffffffff 01 90", "96 01 80 c0 a1 ff 90 90",
		"93 02 80 a1 31", "94 02 80 c0 01", "94 02 80 a0 01", "94 03 80 a1 31 01", "94 03 80 a1 31 03", "95 03 80 a1 31 04 01", "95 03 80 a1 31 01 01",
		"95 04 80 c0 a1 61 90", "93 05 80 c0", "92 05 80", "91 07", "92 07 01", "93 07 c0 01", "91 08", "92 08 c0", "92 09 a1 31",
		"96 01 80 c0 a1 61 91" + strings.Repeat("91", 100) + "01 90",
	} {
		var m Message
		if err := (MessagePack{}).Parse(unhex(t, text), &m); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
	var m Message
	for _, text := range []string{"91 00", "91 0a", "91 ff", "92 2a c0"} {
		if err := (MessagePack{}).Parse(unhex(t, text), &m); !errors.As(err, new(UnknownTypeError)) {
			t.Errorf("%s: %v", text, err)
		}
	}
	// More fields than known are a newer peer's.
	if err := (MessagePack{}).Parse(unhex(t, "97 01 80 c0 a1 61 90 90 2a"), &m); err != nil {
		t.Errorf("an additional field: %v", err)
	}
}

func TestHandshake(t *testing.T) {
	request := `{"version":2,"x":[],"protocol":"json"}` + "\x1erest"
	req, rest, err := ParseHandshakeRequest([]byte(request), 100)
	if err != nil || req != (HandshakeRequest{"json", 2}) || string(rest) != "rest" {
		t.Errorf("%+v, %q, %v", req, rest, err)
	}
	if _, rest, err := ParseHandshakeRequest([]byte(`{"protocol":`), 100); rest != nil || err != nil {
		t.Errorf("a part: %q, %v", rest, err)
	}
	for _, bad := range []string{"\x1e", "{}\x1e", `{"protocol":"json"}` + "\x1e", `{"version":1}` + "\x1e", `{"protocol":1,"version":1}` + "\x1e", `{"protocol":"json","version":1}x` + "\x1e"} {
		if _, _, err := ParseHandshakeRequest([]byte(bad), 100); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	back, _, err := ParseHandshakeRequest(AppendHandshakeRequest(nil, req), 100)
	if err != nil || back != req {
		t.Errorf("round trip: %+v, %v", back, err)
	}
	for _, failure := range []string{"", "no \"such\" protocol"} {
		got, rest, err := ParseHandshakeResponse(append(AppendHandshakeResponse(nil, failure), "rest"...), 100)
		if got != failure || string(rest) != "rest" || err != nil {
			t.Errorf("response: %q, %q, %v", got, rest, err)
		}
	}
}
