package hub

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/esh3artech/esh3ar"
)

func messages() map[string]*esh3ar.Message {
	id, _ := esh3ar.ParseID("0198c0de-7a1b-7c3d-8e4f-012345670001")
	at := time.Date(2026, 11, 24, 23, 41, 7, 489_000_000, time.UTC)
	return map[string]*esh3ar.Message{
		"text":   {ID: id, From: "bank", Content: "Your code is 123456", AcceptedAt: at},
		"quotes": {ID: id, From: `"Bank" <\>`, Content: "line\nbreak \u0001 \u2028 \U0001f512 </script>", Type: "otp", AcceptedAt: at},
		"data":   {ID: id, From: "shop", Data: []byte(`{"total":12.5,"n":9007199254740993,"items":[{"sku":"a"},null,true,-1e3],"clé":"<ü>"}`), AcceptedAt: at},
		"all": {ID: id, From: "shop", Content: "x", Type: "t", Metadata: map[string]string{"order": "17", "": "é\"", "z": ""}, AcceptedAt: at,
			TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
}

// want is what a device must see of a message.
func want(t *testing.T, m *esh3ar.Message, attempt int) map[string]any {
	t.Helper()
	w := map[string]any{"id": m.ID.String(), "from": m.From, "accepted_at": "2026-11-24T23:41:07.489Z", "attempt": float64(attempt)}
	if m.Data != nil {
		var v any
		if err := json.Unmarshal(m.Data, &v); err != nil {
			t.Fatal(err)
		}
		w["data"] = v
	} else {
		w["content"] = m.Content
	}
	if m.Type != "" {
		w["type"] = m.Type
	}
	if m.Metadata != nil {
		all := make(map[string]any)
		for k, v := range m.Metadata {
			all[k] = v
		}
		w["metadata"] = all
	}
	if m.TraceParent != "" {
		w["traceparent"] = m.TraceParent
	}
	return w
}

func TestPayload(t *testing.T) {
	for name, m := range messages() {
		t.Run(name, func(t *testing.T) {
			p := &payload{m, 3}
			var got map[string]any
			if err := json.Unmarshal(p.AppendJSON(nil), &got); err != nil {
				t.Fatalf("%v: %s", err, p.AppendJSON(nil))
			}
			if w := want(t, m, 3); !reflect.DeepEqual(got, w) {
				t.Errorf("JSON\ngot  %v\nwant %v", got, w)
			}
			var packed any
			if err := msgpack.Unmarshal(p.AppendMsgpack(nil), &packed); err != nil {
				t.Fatal(err)
			}
			// Compared as JSON, where all numbers are one kind.
			text, err := json.Marshal(packed)
			if err != nil {
				t.Fatal(err)
			}
			got = nil
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			if w := want(t, m, 3); !reflect.DeepEqual(got, w) {
				t.Errorf("MessagePack\ngot  %v\nwant %v", got, w)
			}
		})
	}
}

func BenchmarkFrame(b *testing.B) {
	m := messages()["text"]
	for name, encode := range map[string]func(*payload, []byte) []byte{
		"JSON":        func(p *payload, dst []byte) []byte { return p.AppendJSON(dst) },
		"MessagePack": func(p *payload, dst []byte) []byte { return p.AppendMsgpack(dst) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, 1024)
			for b.Loop() {
				buf = encode(&payload{m, 1}, buf[:0])
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}
