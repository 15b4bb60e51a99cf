package esh3ar

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTransitions(t *testing.T) {
	// A row for each status, a column for each status that it may become.
	table := []string{
		//             ac sc qu se de re ex ca un
		"accepted      .  x  x  .  .  .  x  x  x",
		"scheduled     .  .  x  .  .  .  x  x  .",
		"queued        .  .  .  x  x  .  x  x  x",
		"sent          .  .  x  .  x  .  x  .  x",
		"delivered     .  .  .  .  .  x  .  .  .",
		"read          .  .  .  .  .  .  .  .  .",
		"expired       .  .  .  .  x  .  .  .  .",
		"canceled      .  .  .  .  x  .  .  .  .",
		"undelivered   .  .  x  .  x  .  .  .  x",
	}
	if len(table) != int(statusEnd)-1 {
		t.Fatalf("%d rows for %d statuses", len(table), statusEnd-1)
	}
	for i, row := range table {
		from := Status(i + 1)
		if name := from.String(); row[:len(name)] != name {
			t.Fatalf("row %d is %s", i, from)
		}
		for j := range table {
			to := Status(j + 1)
			if want := row[14+3*j] == 'x'; from.CanBecome(to) != want {
				t.Errorf("%s can become %s: %v, want %v", from, to, !want, want)
			}
		}
		for _, none := range []Status{0, statusEnd, 255} {
			if from.CanBecome(none) || none.CanBecome(from) {
				t.Errorf("%s and %s", from, none)
			}
		}
	}
}

func TestStatusNames(t *testing.T) {
	for s := StatusAccepted; s < statusEnd; s++ {
		got, err := ParseStatus(s.String())
		if err != nil || got != s || !s.Valid() {
			t.Errorf("ParseStatus(%q) = %v, %v", s.String(), got, err)
		}
		// A final status is one that nobody has to move on; all others have an owner.
		waiting := s == StatusAccepted || s == StatusScheduled || s == StatusQueued || s == StatusSent
		if s.Final() == waiting {
			t.Errorf("%s is final: %v", s, s.Final())
		}
		if shown := s == StatusDelivered || s == StatusRead; s.Shown() != shown {
			t.Errorf("%s was shown: %v", s, s.Shown())
		}
	}
	for _, name := range []string{"", "Sent", "status(1)"} {
		if s, err := ParseStatus(name); KindOf(err) != KindInvalid || s != 0 {
			t.Errorf("ParseStatus(%q) = %v, %v", name, s, err)
		}
	}
	for _, s := range []Status{0, statusEnd, 255} {
		if s.Valid() || s.Final() || s.Shown() {
			t.Errorf("%s is taken for a status", s)
		}
	}
	if got := Status(200).String(); got != "status(200)" {
		t.Errorf("unknown status is called %q", got)
	}
}

func TestMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := NewState(now)
		if s.Status != StatusAccepted || s.Seq() != 1 || s.Generation != 1 || s.Last().At != now {
			t.Fatalf("new state %+v", s)
		}
		for range rapid.IntRange(0, 30).Draw(t, "moves") {
			to := Status(rapid.IntRange(0, int(statusEnd)).Draw(t, "to"))
			s.Attempts = rapid.Uint32().Draw(t, "attempts")
			why := rapid.SampledFrom([]Reason{ReasonNone, ReasonAckTimeout}).Draw(t, "why")
			now = now.Add(time.Second)

			before, handed := s, s.Timeline
			want := before.Status.CanBecome(to)
			if s.Move(to, now, why) != want {
				t.Fatalf("from %s to %s: %v", before.Status, to, !want)
			}
			if !want {
				if s.Status != before.Status || len(s.Timeline) != len(before.Timeline) {
					t.Fatalf("a refused move changed %+v to %+v", before, s)
				}
				continue
			}
			if got := (Transition{Seq: before.Seq() + 1, Status: to, At: now, Attempt: s.Attempts, Reason: why}); s.Last() != got || s.Status != to {
				t.Fatalf("last is %+v, want %+v", s.Last(), got)
			}
			// Who was given the timeline before keeps what it was given.
			for i := range handed {
				if handed[i] != s.Timeline[i] || handed[i].Seq != uint32(i+1) {
					t.Fatalf("transition %d changed to %+v", i, s.Timeline[i])
				}
			}
		}
	})
}

func TestZeroState(t *testing.T) {
	var s State
	if s.Seq() != 0 || s.Last() != (Transition{}) || s.Move(StatusQueued, time.Now(), ReasonNone) {
		t.Errorf("the zero state is %+v", s)
	}
}

// The common life of a message costs one allocation for its timeline.
func TestCommonLifeAllocates(t *testing.T) {
	now := time.Now()
	n := testing.AllocsPerRun(100, func() {
		s := NewState(now)
		for _, to := range []Status{StatusQueued, StatusSent, StatusDelivered} {
			if !s.Move(to, now, ReasonNone) {
				t.Fatal("refused")
			}
		}
	})
	if n > 1 {
		t.Errorf("%v allocations", n)
	}
}
