package notify

import (
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

func TestCursorGoesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Cursor(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Place {
			return Place{
				Number: rapid.Int64Range(0, math.MaxInt64).Draw(t, "number"),
				Offset: rapid.IntRange(0, store.MaxEventsPerWrite-1).Draw(t, "offset"),
			}
		}), 1, 300).Draw(t, "cursor"))
		back, err := ParseCursor(c.String(), len(c))
		if err != nil || back.String() != c.String() {
			t.Fatalf("%v came back as %v, %v", c, back, err)
		}
		for i := range c {
			if back[i] != c[i] {
				t.Fatalf("shard %d: %v came back as %v", i, c[i], back[i])
			}
		}
	})
}

func TestCursorsFromElsewhere(t *testing.T) {
	good := Cursor{{Number: 300}, {Number: 5, Offset: 2}}.String()
	for name, test := range map[string]struct{ cursor, detail string }{
		"empty":           {"", "whole and unchanged"},
		"words":           {"not a cursor!", "whole and unchanged"},
		"cut":             {good[:len(good)-2], "whole and unchanged"},
		"longer":          {good + "AAAA", "whole and unchanged"},
		"another letter":  {"B" + good[1:], "whole and unchanged"},
		"padded":          {good + "=", "whole and unchanged"},
		"of more shards":  {make(Cursor, 3).String(), "3 shards, this one has 2"},
		"of fewer shards": {make(Cursor, 1).String(), "1 shards, this one has 2"},
		"endless":         {strings.Repeat("A", 1<<20), "whole and unchanged"},
	} {
		_, err := ParseCursor(test.cursor, 2)
		var e *esh3ar.Error
		if !errors.As(err, &e) || e.Kind != esh3ar.KindInvalid || e.Code != "bad_cursor" || !strings.Contains(e.Message, test.detail) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A change anywhere is noticed.
	for i := range good {
		for _, c := range "AQgw_-9" {
			changed := good[:i] + string(c) + good[i+1:]
			if _, err := ParseCursor(changed, 2); err == nil && changed != good {
				t.Errorf("%s was taken, of %s", changed, good)
			}
		}
	}
}

func TestCursorOverForgottenEvents(t *testing.T) {
	ranges := map[uint16]store.EventRange{0: {Forgotten: 10, Last: 20}, 1: {Last: 7}}
	for _, c := range []Cursor{
		{{Number: 10}, {}, {}},
		{{Number: 20}, {Number: 7}, {}},
		{{Number: 19, Offset: 3}, {Number: 6, Offset: 1}, {}},
	} {
		if err := c.check(ranges); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	for _, test := range []struct {
		cursor, oldest Cursor
		code           string
	}{
		{Cursor{{Number: 9}, {Number: 3}, {}}, Cursor{{Number: 10}, {Number: 3}, {}}, "cursor_expired"},
		{Cursor{{Number: 9, Offset: 5}, {Number: 8}, {}}, Cursor{{Number: 10}, {Number: 7}, {}}, "cursor_expired"},
		{Cursor{{Number: 20, Offset: 1}, {Number: 3}, {}}, Cursor{{Number: 20}, {Number: 3}, {}}, "cursor_ahead"},
		{Cursor{{Number: 15}, {Number: 3}, {Number: 1}}, Cursor{{Number: 15}, {Number: 3}, {}}, "cursor_ahead"},
	} {
		err := test.cursor.check(ranges)
		var gone *goneError
		if !errors.As(err, &gone) || gone.err.Code != test.code || esh3ar.KindOf(err) != esh3ar.KindGone {
			t.Errorf("%v: %v, want %s", test.cursor, err, test.code)
			continue
		}
		name, value := gone.ProblemMember()
		if name != "oldest_cursor" || value != test.oldest.String() {
			t.Errorf("%v: %s %v, want %v", test.cursor, name, gone.oldest, test.oldest)
		}
		if err := gone.oldest.check(ranges); err != nil {
			t.Errorf("going on from %v: %v", gone.oldest, err)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add(Cursor{{Number: 1}, {Number: 1 << 40, Offset: 9}}.String(), 2)
	f.Add("AQIAAPZr", 2)
	f.Fuzz(func(t *testing.T, s string, shards int) {
		c, err := ParseCursor(s, shards)
		if err != nil {
			return
		}
		again, err := ParseCursor(c.String(), shards)
		if err != nil || again.String() != c.String() {
			t.Fatalf("%q became %q: %v", s, c.String(), err)
		}
	})
}
