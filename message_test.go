package esh3ar

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestNormalizeRecipient(t *testing.T) {
	long := strings.Repeat("ك", MaxRecipient)
	for _, c := range []struct {
		in, want, code string
	}{
		{in: "user-17", want: "user-17"},
		{in: "  user 17\t", want: "user 17"},
		{in: "Ada@example.com", want: "Ada@example.com"},
		{in: "محمد", want: "محمد"},
		{in: "962791234567", want: "962791234567"}, // no prefix: a name
		{in: "0791234567", want: "0791234567"},     // a national number is a name too
		{in: "+962791234567", want: "+962791234567"},
		{in: "00962791234567", want: "+962791234567"},
		{in: "+962 79 123-45.67", want: "+962791234567"},
		{in: "00 (962) 79 1234567 ", want: "+962791234567"},
		{in: "+1234567", want: "+1234567"},
		{in: "+123456789012345", want: "+123456789012345"},
		{in: "00123456", want: "00123456"}, // too short for a number: a name
		{in: "007 James", want: "007 James"},
		{in: "000962791234567", want: "000962791234567"},
		{in: long, want: long},
		{in: strings.Repeat("x", MaxRecipient), want: strings.Repeat("x", MaxRecipient)},

		{in: "", code: "recipient_empty"},
		{in: " \t\n", code: "recipient_empty"},
		{in: "\x00", code: "recipient_control_character"},
		{in: "a\x00b", code: "recipient_control_character"},
		{in: "a\nb", code: "recipient_control_character"},
		{in: "a\u0085b", code: "recipient_control_character"},
		{in: "a\xffb", code: "recipient_not_utf8"},
		{in: long + "ك", code: "recipient_too_long"},
		{in: strings.Repeat("x", MaxRecipient+1), code: "recipient_too_long"},
		{in: "+", code: "recipient_bad_phone"},
		{in: "+123456", code: "recipient_bad_phone"},
		{in: "+1234567890123456", code: "recipient_bad_phone"},
		{in: "+0962791234567", code: "recipient_bad_phone"},
		{in: "+96279CALLME", code: "recipient_bad_phone"},
	} {
		got, err := NormalizeRecipient(c.in)
		if c.code != "" {
			e, ok := err.(*Error)
			if !ok || e.Kind != KindInvalid || e.Code != c.code {
				t.Errorf("NormalizeRecipient(%q): error %v, want code %s", c.in, err, c.code)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("NormalizeRecipient(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func FuzzNormalizeRecipient(f *testing.F) {
	for _, s := range []string{"user", " +962 79 123-45.67", "00962791234567", "007", "\x00", "\xff", "ك"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := NormalizeRecipient(s)
		if err != nil {
			if KindOf(err) != KindInvalid || got != "" {
				t.Fatalf("NormalizeRecipient(%q) = %q, %v", s, got, err)
			}
			return
		}
		if n := utf8.RuneCountInString(got); n == 0 || n > MaxRecipient || !utf8.ValidString(got) {
			t.Fatalf("NormalizeRecipient(%q) = %q", s, got)
		}
		// A device's token is normalised like a message's recipient, perhaps once more.
		if again, err := NormalizeRecipient(got); err != nil || again != got {
			t.Fatalf("NormalizeRecipient(%q) = %q, but of that %q, %v", s, got, again, err)
		}
	})
}

func BenchmarkNormalizeRecipient(b *testing.B) {
	for _, s := range []string{"user-17", "+962791234567", "00962 79 123 4567"} {
		b.Run(s, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NormalizeRecipient(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestExpired(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	never, m := Message{}, Message{ExpiresAt: at}
	switch {
	case never.Expired(at):
		t.Error("a message without a time to live expired")
	case m.Expired(at.Add(-1)):
		t.Error("expired before its time")
	case !m.Expired(at), !m.Expired(at.Add(1)):
		t.Error("not expired at its time")
	}
}
