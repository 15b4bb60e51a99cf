package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
)

var testNow = time.Date(2026, 11, 25, 8, 30, 0, 123456000, time.UTC)

func TestDraft(t *testing.T) {
	var d decoder
	text := []byte(` {
		"to" : "00962 79 123 45 67", "data": {"a" : [1, "é"]}, "\u0074ype": "order",
		"metadata": {"order": "42", "note": "caf\u00e9"}, "ttl": 3600, "send_at": "2026-11-25T12:30:00.5+03:00"
	} `)
	if err := d.read(text, testNow, false); err != nil {
		t.Fatal(err)
	}
	var m esh3ar.Message
	d.fill(&m, testNow)
	sendAt := time.Date(2026, 11, 25, 9, 30, 0, 500e6, time.UTC)
	if m.To != "+962791234567" || m.Type != "order" || m.Content != "" || string(m.Data) != `{"a" : [1, "é"]}` ||
		!maps.Equal(m.Metadata, map[string]string{"order": "42", "note": "café"}) || !m.AcceptedAt.Equal(testNow) ||
		!m.SendAt.Equal(sendAt) || !m.ExpiresAt.Equal(sendAt.Add(time.Hour)) {
		t.Errorf("%+v", m)
	}
}

func TestDraftTimes(t *testing.T) {
	for _, c := range []struct {
		name, fields   string
		sendAt, expire time.Time
	}{
		{"none", ``, time.Time{}, time.Time{}},
		{"ttl counts from the acceptance", `,"ttl":60`, time.Time{}, testNow.Add(time.Minute)},
		{"a past send_at means now", `,"send_at":"2020-01-01T00:00:00Z","ttl":60`, time.Time{}, testNow.Add(time.Minute)},
		{"the longest ttl", `,"ttl":31622400`, time.Time{}, testNow.Add(esh3ar.MaxTTL)},
		{"the farthest send_at", `,"send_at":"2027-11-26T08:30:00.123456Z"`, testNow.Add(esh3ar.MaxSchedule), time.Time{}},
	} {
		var d decoder
		if err := d.read([]byte(`{"to":"alice","content":"hi"`+c.fields+`}`), testNow, false); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var m esh3ar.Message
		d.fill(&m, testNow)
		if !m.SendAt.Equal(c.sendAt) || !m.ExpiresAt.Equal(c.expire) {
			t.Errorf("%s: send at %s, expires at %s", c.name, m.SendAt, m.ExpiresAt)
		}
	}
}

func TestDraftTooFarAhead(t *testing.T) {
	var d decoder
	err := d.read([]byte(`{"to":"alice","content":"hi","send_at":"2027-11-26T08:30:01Z"}`), testNow, false)
	if err == nil || describe(err) != "send_at_too_far /send_at" {
		t.Errorf("a second beyond what is allowed: %v", err)
	}
}

func TestNullCountsAsLeftOut(t *testing.T) {
	var d decoder
	err := d.read([]byte(`{"to":"alice","content":"hi","data":null,"type":null,"metadata":null,"ttl":null,"send_at":null}`), testNow, false)
	if err != nil || d.data != nil || d.label != "" || d.metadata != nil || d.ttl != 0 || !d.sendAt.IsZero() {
		t.Errorf("%v, %+v", err, d.draft)
	}
}

// badMessages are messages that are refused, each with the codes and pointers of its faults.
var badMessages = []struct {
	name, text string
	want       string
}{
	{"empty", ``, "body_empty"},
	{"white space", " \n", "body_empty"},
	{"malformed", `{"to":"alice","content":}`, "malformed_json"},
	{"cut off", `{"to":"alice","content":"hi"`, "malformed_json"},
	{"trailing data", `{"to":"alice","content":"hi"} {}`, "malformed_json"},
	{"two bodies", `{"to":"alice","content":"hi"}{"to":"alice","content":"hi"}`, "malformed_json"},
	{"trailing comma", `{"to":"alice","content":"hi",}`, "malformed_json"},
	{"control character", "{\"to\":\"alice\",\"content\":\"a\nb\"}", "malformed_json"},
	{"lone surrogate", `{"to":"alice","content":"\ud800"}`, "malformed_json"},
	{"lone surrogate in data", `{"to":"alice","data":["\udfff"]}`, "malformed_json"},
	{"malformed after an unknown field", `{"x":[1,}`, "malformed_json"},
	{"malformed number", `{"to":"alice","content":"hi","ttl":1.}`, "malformed_json"},
	{"an array", `[{"to":"alice","content":"hi"}]`, "not_an_object"},
	{"a string", `"hi"`, "not_an_object"},
	{"null", `null`, "not_an_object"},
	{"not UTF-8", "{\"to\":\"alice\",\"content\":\"\xff\"}", "invalid_utf8"},
	{"UTF-16", "{\x00\"\x00t\x00o\x00", "malformed_json"},
	{"not UTF-8 in a name", "{\"\xc3\x28\":1}", "invalid_utf8"},
	{"overlong UTF-8", "{\"to\":\"alice\",\"content\":\"\xc0\x80\"}", "invalid_utf8"},
	{"data too deep", `{"to":"alice","data":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "too_deep"},

	{"empty object", `{}`, "recipient_missing /to, body_missing "},
	{"no recipient", `{"content":"hi"}`, "recipient_missing /to"},
	{"null recipient", `{"to":null,"content":"hi"}`, "recipient_missing /to"},
	{"empty recipient", `{"to":"","content":"hi"}`, "recipient_empty /to"},
	{"blank recipient", `{"to":"   ","content":"hi"}`, "recipient_empty /to"},
	{"long recipient", `{"to":"` + strings.Repeat("é", 129) + `","content":"hi"}`, "recipient_too_long /to"},
	{"NUL in the recipient", `{"to":"a\u0000b","content":"hi"}`, "recipient_control_character /to"},
	{"bad number", `{"to":"+12","content":"hi"}`, "recipient_bad_phone /to"},
	{"recipient is a number", `{"to":962791234567,"content":"hi"}`, "wrong_type /to"},
	{"recipient is an array", `{"to":["alice","bob"],"content":"hi"}`, "wrong_type /to"},

	{"no body", `{"to":"alice"}`, "body_missing "},
	{"null bodies", `{"to":"alice","content":null,"data":null}`, "body_missing "},
	{"both bodies", `{"to":"alice","content":"hi","data":{}}`, "content_and_data "},
	{"empty content", `{"to":"alice","content":""}`, "content_empty /content"},
	{"content is an object", `{"to":"alice","content":{"a":1}}`, "wrong_type /content"},

	{"unknown field", `{"to":"alice","content":"hi","priority":1}`, "unknown_field /priority"},
	{"wrong case", `{"To":"alice","content":"hi"}`, "unknown_field /To, recipient_missing /to"},
	{"pointer is escaped", `{"to":"alice","content":"hi","a/b~c":1}`, "unknown_field /a~1b~0c"},
	{"duplicate field", `{"to":"alice","content":"hi","to":"bob"}`, "duplicate_field /to"},
	{"duplicate in disguise", `{"to":"alice","content":"hi","\u0074o":"bob"}`, "duplicate_field /to"},
	{"duplicate null", `{"to":"alice","content":"hi","ttl":null,"ttl":5}`, "duplicate_field /ttl"},
	{"idempotency key in the body", `{"to":"alice","content":"hi","idempotency_key":"k"}`, "unknown_field /idempotency_key"},

	{"type is a number", `{"to":"alice","content":"hi","type":1}`, "wrong_type /type"},
	{"long type", `{"to":"alice","content":"hi","type":"` + strings.Repeat("x", 65) + `"}`, "type_too_long /type"},
	{"NUL in the type", `{"to":"alice","content":"hi","type":"a\u0000"}`, "type_control_character /type"},

	{"metadata is a string", `{"to":"alice","content":"hi","metadata":"a"}`, "wrong_type /metadata"},
	{"metadata is an array", `{"to":"alice","content":"hi","metadata":[]}`, "wrong_type /metadata"},
	{"nested metadata", `{"to":"alice","content":"hi","metadata":{"a":{"b":"c"}}}`, "wrong_type /metadata/a"},
	{"number in metadata", `{"to":"alice","content":"hi","metadata":{"a":1,"b":"x","c":null}}`, "wrong_type /metadata/a, wrong_type /metadata/c"},
	{"too much metadata", `{"to":"alice","content":"hi","metadata":{` + entries(33) + `}}`, "metadata_too_many /metadata"},
	{"empty metadata key", `{"to":"alice","content":"hi","metadata":{"":"x"}}`, "metadata_key_length /metadata/"},
	{"long metadata key", `{"to":"alice","content":"hi","metadata":{"` + strings.Repeat("k", 65) + `":"x"}}`, "metadata_key_length /metadata/" + strings.Repeat("k", 64) + "…"},
	{"NUL in a metadata key", `{"to":"alice","content":"hi","metadata":{"\u0000":"x"}}`, "metadata_key_control_character /metadata/\x00"},
	{"NUL in a metadata value", `{"to":"alice","content":"hi","metadata":{"a":"\u0000"}}`, "metadata_value_nul /metadata/a"},
	{"long metadata value", `{"to":"alice","content":"hi","metadata":{"a":"` + strings.Repeat("v", 513) + `"}}`, "metadata_value_too_long /metadata/a"},
	{"duplicate metadata", `{"to":"alice","content":"hi","metadata":{"a":"1","a":"2"}}`, "duplicate_field /metadata/a"},

	{"ttl zero", `{"to":"alice","content":"hi","ttl":0}`, "duration_too_short /ttl"},
	{"ttl negative", `{"to":"alice","content":"hi","ttl":-5}`, "duration_too_short /ttl"},
	{"ttl absurd", `{"to":"alice","content":"hi","ttl":31622401}`, "duration_too_long /ttl"},
	{"ttl overflow", `{"to":"alice","content":"hi","ttl":99999999999999999999999999}`, "duration_too_long /ttl"},
	{"ttl fraction", `{"to":"alice","content":"hi","ttl":1.5}`, "not_whole_seconds /ttl"},
	{"ttl exponent", `{"to":"alice","content":"hi","ttl":1e3}`, "not_whole_seconds /ttl"},
	{"ttl is a string", `{"to":"alice","content":"hi","ttl":"60"}`, "wrong_type /ttl"},

	{"send_at is a number", `{"to":"alice","content":"hi","send_at":1764059400}`, "wrong_type /send_at"},
	{"send_at without a zone", `{"to":"alice","content":"hi","send_at":"2026-11-25T08:30:00"}`, "bad_time /send_at"},
	{"send_at is a date", `{"to":"alice","content":"hi","send_at":"2026-11-25"}`, "bad_time /send_at"},
	{"send_at on no day", `{"to":"alice","content":"hi","send_at":"2026-02-30T00:00:00Z"}`, "bad_time /send_at"},
	{"send_at too far", `{"to":"alice","content":"hi","send_at":"9999-12-31T00:00:00Z"}`, "send_at_too_far /send_at"}, // whatever the clock shows

	{"several at once", `{"to":"","content":"hi","ttl":0,"x":1,"type":5}`, "recipient_empty /to, duration_too_short /ttl, unknown_field /x, wrong_type /type"},
}

func entries(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":"v"`, i)
	}
	return b.String()[1:]
}

// describe lists the codes of an error, each with its pointer where it has one.
func describe(err error) string {
	var fs faults
	if !errors.As(err, &fs) {
		return asError(err).Code
	}
	var list []string
	for _, f := range fs {
		list = append(list, f.Code+" "+f.Pointer)
	}
	return strings.Join(list, ", ")
}

func TestBadMessages(t *testing.T) {
	var d decoder
	for _, c := range badMessages {
		t.Run(c.name, func(t *testing.T) {
			err := d.read([]byte(c.text), testNow, false)
			if err == nil {
				t.Fatalf("%s is taken", c.text)
			}
			if got := describe(err); got != c.want {
				t.Errorf("%s\nis refused with %s (%v)\nwant             %s", c.text, got, err, c.want)
			}
		})
	}
	// What the decoder was given before leaves no traces.
	if err := d.read([]byte(`{"to":"alice","content":"hi"}`), testNow, false); err != nil {
		t.Errorf("a good message after the bad ones: %v", err)
	}
	if d.metadata != nil || d.ttl != 0 || d.data != nil || d.label != "" || !d.sendAt.IsZero() {
		t.Errorf("left over: %+v", d.draft)
	}
}

func TestFaultsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `,"x%d":1`, i)
	}
	var d decoder
	var fs faults
	if err := d.read([]byte("{"+b.String()[1:]+"}"), testNow, false); !errors.As(err, &fs) || len(fs) != maxFaults {
		t.Errorf("%d faults", len(fs))
	}
}

func TestDigestTellsContentFromForm(t *testing.T) {
	digest := func(text string, inBatch bool) [32]byte {
		t.Helper()
		var d decoder
		if err := d.read([]byte(text), testNow, inBatch); err != nil {
			t.Fatal(err)
		}
		return d.digest()
	}
	base := digest(`{"to":"+962791234567","content":"hé","metadata":{"a":"1","b":"2"},"ttl":60}`, false)
	for _, same := range []string{
		`{"ttl":60,"metadata":{"b":"2","a":"1"},"content":"h\u00e9", "to":"00962 79 1234567"}`,
		`{"idempotency_key":"k","to":"+962791234567","content":"hé","metadata":{"a":"1","b":"2"},"ttl":60,"type":null}`,
	} {
		if digest(same, true) != base {
			t.Errorf("%s differs", same)
		}
	}
	seen := map[[32]byte]string{base: "the first"}
	for _, other := range []string{
		`{"to":"+962791234568","content":"hé","metadata":{"a":"1","b":"2"},"ttl":60}`,
		`{"to":"+962791234567","content":"he","metadata":{"a":"1","b":"2"},"ttl":60}`,
		`{"to":"+962791234567","content":"hé","metadata":{"a":"1"},"ttl":60}`,
		`{"to":"+962791234567","content":"hé","metadata":{"a":"1b","2":""},"ttl":60}`,
		`{"to":"+962791234567","content":"hé","metadata":{"a":"1","b":"2"},"ttl":61}`,
		`{"to":"+962791234567","content":"hé","metadata":{"a":"1","b":"2"}}`,
		`{"to":"+962791234567","content":"hé","metadata":{"a":"1","b":"2"},"ttl":60,"type":"x"}`,
		`{"to":"+962791234567","content":"hé","metadata":{"a":"1","b":"2"},"ttl":60,"send_at":"2026-12-01T00:00:00Z"}`,
		`{"to":"+962791234567","data":"hé","metadata":{"a":"1","b":"2"},"ttl":60}`,
	} {
		h := digest(other, false)
		if first, ok := seen[h]; ok {
			t.Errorf("%s has the digest of %s", other, first)
		}
		seen[h] = other
	}
}

// FuzzMessage holds the decoder against encoding/json: what is taken means the same to both.
func FuzzMessage(f *testing.F) {
	for _, c := range badMessages {
		f.Add([]byte(c.text))
	}
	f.Add([]byte(`{"to":"00962 79 123 45 67","data":{"a":[1,"\u00e9"]},"metadata":{"x":"y"},"ttl":60,"send_at":"2026-12-01T00:00:00Z"}`))
	f.Add([]byte(`{"to":"ليلى","content":"\ud83d\ude00","type":null,"idempotency_key":"k-1"}`))
	var d decoder
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		err := d.read(text, testNow, true)
		if !bytes.Equal(before, text) {
			t.Fatal("the text was changed")
		}
		if err != nil {
			if k := asError(err).Kind; k != esh3ar.KindInvalid {
				var fs faults
				if !errors.As(err, &fs) {
					t.Fatalf("%v is of kind %s", err, k)
				}
			}
			if p := problemOf(err); !json.Valid(appendProblem(nil, &p)) {
				t.Fatalf("the problem is not JSON: %s", appendProblem(nil, &p))
			}
			return
		}
		var want struct {
			To, Content, Type *string
			Data              json.RawMessage
			Metadata          map[string]string
			TTL               *int64
			SendAt            *time.Time `json:"send_at"`
			Key               *string    `json:"idempotency_key"`
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("%q is taken, encoding/json says %v", text, err)
		}
		str := func(p *string) string {
			if p == nil {
				return ""
			}
			return *p
		}
		to, err := esh3ar.NormalizeRecipient(str(want.To))
		if err != nil || to != d.to {
			t.Fatalf("recipient %q, want %q (%v)", d.to, to, err)
		}
		if d.content != str(want.Content) || d.label != str(want.Type) || d.key != str(want.Key) || !maps.Equal(d.metadata, want.Metadata) {
			t.Fatalf("%q is read as %+v", text, d.draft)
		}
		if string(want.Data) != "null" && !bytes.Equal(d.data, want.Data) {
			t.Fatalf("data %q, want %q", d.data, want.Data)
		}
		if want.TTL != nil && d.ttl != time.Duration(*want.TTL)*time.Second {
			t.Fatalf("ttl %s, want %d s", d.ttl, *want.TTL)
		}
		if want.SendAt != nil && !d.sendAt.Equal(want.SendAt.Truncate(time.Microsecond)) {
			t.Fatalf("send at %s, want %s", d.sendAt, want.SendAt)
		}
	})
}
