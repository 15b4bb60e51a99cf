package ingest

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// skipAll reports what the scanner makes of a text of one value.
func skipAll(text string) (ok bool, s *scanner) {
	s = new(scanner)
	s.reset(text)
	return s.skip(0) && s.end(), s
}

func TestScannerTakesJSON(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `0`, `-0`, `12`, `-1.5`, `1e5`, `1E+5`, `0.25e-10`, `""`, `"a"`, `"\u00e9\n\"\\\/"`,
		`"\ud83d\ude00"`, `[]`, `{}`, ` [ 1 , [ ] , { } ] `, `{"a":{"b":[null,"c"]},"":1}`, "\t\r\n{\n}\n",
		strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
	} {
		if ok, s := skipAll(text); !ok {
			t.Errorf("%s: %v", text, s.err)
		}
	}
}

func TestScannerRefuses(t *testing.T) {
	for _, c := range []struct{ text, why string }{
		{``, "too early at byte 0"},
		{`   `, "too early at byte 3"},
		{`nul`, "unknown word at byte 0"},
		{`nulls`, "more after the end of the value at byte 4"},
		{`TRUE`, "value is missing at byte 0"},
		{`01`, "more after the end of the value at byte 1"},
		{`-`, "no digits at byte 1"},
		{`+1`, "value is missing"},
		{`.5`, "value is missing"},
		{`1.`, "after the point at byte 2"},
		{`1e`, "exponent at byte 2"},
		{`1e+`, "exponent at byte 3"},
		{`0x10`, "more after"},
		{`NaN`, "value is missing"},
		{`'a'`, "value is missing"},
		{`"a`, "does not end"},
		{`"a\`, "does not end"},
		{`"\`, "does not end"},
		{"\"a\nb\"", "control character in a string is not escaped at byte 2"},
		{"\"\\u0020\x00\"", "control character in a string is not escaped at byte 7"},
		{`"\x41"`, "unknown escape at byte 1"},
		{`"\u12"`, "four hexadecimal digits"},
		{`"\u12G4"`, "four hexadecimal digits"},
		{`"\ud800"`, "surrogate"},
		{`"\udc00"`, "surrogate"},
		{`"\ud800\u0041"`, "surrogate"},
		{`"\ud800\n"`, "surrogate"},
		{`[`, "too early"},
		{`[1`, "comma or a closing bracket"},
		{`[1 2]`, "comma or a closing bracket"},
		{`[1,]`, "value is missing"},
		{`[,1]`, "value is missing"},
		{`{`, "name of a member"},
		{`{"a"`, "colon"},
		{`{"a":`, "too early"},
		{`{"a":1`, "comma or a closing brace"},
		{`{"a":1,}`, "name of a member"},
		{`{,}`, "name of a member"},
		{`{a:1}`, "name of a member"},
		{`{"a" 1}`, "colon"},
		{`{"a":1 "b":2}`, "comma or a closing brace"},
		{`{} {}`, "more after"},
		{"\x00", "value is missing"},
		{"\ufeff{}", "value is missing"},
		{`// no`, "value is missing"},
		{strings.Repeat("[", maxDepth+1), "nest more than 64 deep"},
		{strings.Repeat(`{"a":`, maxDepth+1), "nest more than 64 deep"},
	} {
		ok, s := skipAll(c.text)
		if ok || s.err == nil || !strings.Contains(s.err.Message, c.why) {
			t.Errorf("%q: %v, want … %s …", c.text, s.err, c.why)
		}
	}
}

func TestStringsAreUnescaped(t *testing.T) {
	for text, want := range map[string]string{
		`"plain"`:                            "plain",
		`"\"\\\/\b\f\n\r\t"`:                 "\"\\/\b\f\n\r\t",
		`"caf\u00e9 \u0000 \uFFFD"`:          "café \x00 \ufffd",
		`"\ud83d\uDE00!"`:                    "😀!",
		`"ليلى \u0644"`:                      "ليلى ل",
		`"` + strings.Repeat("x", 9) + `\n"`: strings.Repeat("x", 9) + "\n",
	} {
		var s scanner
		s.reset(text)
		if got, ok := s.str(); !ok || got != want {
			t.Errorf("%s: %q, %v", text, got, s.err)
		}
	}
}

// sameAsStdlib reports whether the scanner and encoding/json are to agree on the text: json lets pass
// what is not UTF-8 and lone surrogates, and deeper nesting.
func sameAsStdlib(text string) bool {
	if !utf8.ValidString(text) || strings.Count(text, "[")+strings.Count(text, "{") > maxDepth {
		return false
	}
	for rest := text; ; {
		i := strings.Index(rest, `\u`)
		if i < 0 {
			return true
		}
		rest = rest[i+2:]
		if len(rest) >= 1 && (rest[0] == 'd' || rest[0] == 'D') {
			return false
		}
	}
}

func FuzzScanner(f *testing.F) {
	for _, text := range []string{
		`{"to":"alice","content":"hi","n":[1,-2.5e3,true,null]}`, `"\u00e9\n\"\\"`, `"\ud83d\ude00"`, `[[[]]]`, `{"a":1,}`, `01`,
		`1e`, ` `, `{"a":{"a":{"a":"\t"}}}`, `"a` + "\x01" + `"`, `-0.0E-0`, `tru`, `[1,2`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ok, s := skipAll(text)
		if ok != (s.err == nil) {
			t.Fatalf("%q: ok is %t and the error %v", text, ok, s.err)
		}
		if !sameAsStdlib(text) {
			// Still: what the scanner lets pass is JSON to others, too.
			if ok && !json.Valid([]byte(text)) {
				t.Fatalf("%q is taken and is not JSON", text)
			}
			return
		}
		if want := json.Valid([]byte(text)); ok != want {
			t.Fatalf("%q: %t, encoding/json says %t (%v)", text, ok, want, s.err)
		}
		var want string
		if strings.HasPrefix(text, `"`) && json.Unmarshal([]byte(text), &want) == nil {
			var s scanner
			s.reset(text)
			if got, ok := s.str(); !ok || got != want {
				t.Fatalf("%q is %q, encoding/json says %q", text, got, want)
			}
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("plain")
	f.Add("\"\\\n\r\t\x00\x1f\x7f é 😀 \xff")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		out := appendString(nil, s)
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: %s: %v", s, out, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && got != want {
			t.Fatalf("%q came back as %q", s, got)
		}
	})
}
