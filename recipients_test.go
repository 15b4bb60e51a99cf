package esh3ar

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRecipients(t *testing.T) {
	for pattern, want := range map[string]struct{ yes, no []string }{
		"":               {yes: []string{"alice", "+962791234567", ""}},
		"   ":            {yes: []string{"alice"}},
		"*":              {yes: []string{"", "alice"}},
		"alice":          {yes: []string{"alice"}, no: []string{"alice2", "alic", "", "Alice"}},
		"+962*":          {yes: []string{"+962", "+962791234567"}, no: []string{"+96", "962791234567", "x+962"}},
		"+962* shop-*":   {yes: []string{"+9621", "shop-", "shop-1"}, no: []string{"shop", "+1", " shop-1"}},
		"*@a.example":    {yes: []string{"x@a.example", "@a.example"}, no: []string{"x@a.example.org", "a.example"}},
		"a*b*c":          {yes: []string{"abc", "aXbYc", "abbcc", "abcbc"}, no: []string{"ab", "ac", "acb", "abcd"}},
		"ab*ba":          {yes: []string{"abba", "abXba"}, no: []string{"aba", "ab"}},
		"**a**":          {yes: []string{"a", "bab"}, no: []string{"", "b"}},
		"ورد*":           {yes: []string{"ورد", "وردة"}, no: []string{"رد"}},
		"a?c [ab] \\*":   {yes: []string{"a?c", "[ab]", "\\x"}, no: []string{"abc", "a"}},
		"00abc* 000* 00": {yes: []string{"00abcd", "0001", "00"}, no: []string{"001"}},
	} {
		r, err := ParseRecipients(pattern)
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		for _, s := range want.yes {
			if !r.Match(s) {
				t.Errorf("%q does not match %q", pattern, s)
			}
		}
		for _, s := range want.no {
			if r.Match(s) {
				t.Errorf("%q matches %q", pattern, s)
			}
		}
	}
}

func TestBadRecipients(t *testing.T) {
	for _, pattern := range []string{
		"a\x00b", "a\nb", "\xff", "00962*", "shop-* 0049*",
		strings.Repeat("a", MaxRecipients+1), strings.Repeat("a ", MaxRecipientAlternatives+1),
	} {
		if _, err := ParseRecipients(pattern); KindOf(err) != KindInvalid {
			t.Errorf("%.40q: %v", pattern, err)
		}
	}
	if _, err := ParseRecipients(strings.TrimSpace(strings.Repeat("a ", MaxRecipientAlternatives))); err != nil {
		t.Error(err)
	}
}

// TestRecipientsLikePath compares with the standard library, whose * is the same but for slashes.
func TestRecipientsLikePath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{1,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "recipient")
		want, err := path.Match(pattern, s)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRecipients(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Match(s); got != want {
			t.Fatalf("%q over %q: %v", pattern, s, got)
		}
	})
}

func TestMatchAllocatesNothing(t *testing.T) {
	r, err := ParseRecipients("shop-* *@a.example +96279*")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if !r.Match("+962791234567") {
			t.Error("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	r, err := ParseRecipients("shop-* *@a.example +96279*")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !r.Match("+962791234567") {
			b.Fatal("no match")
		}
	}
}
