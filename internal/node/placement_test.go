package node

import (
	"testing"
	"time"
)

func TestPlacement(t *testing.T) {
	now := time.Unix(0, 0)
	told := []elsewhere{{name: "b", url: "b", devices: 100}, {name: "c", url: "c", devices: 40}}
	p := &placement{now: func() time.Time { return now }, others: func() []elsewhere { return append([]elsewhere(nil), told...) }}
	place := func(own int64, want string) {
		t.Helper()
		if got := p.place(own); got != want {
			t.Errorf("with %d devices one is sent to %q, want %q", own, got, want)
		}
	}
	// 1.25 × (186 + 140) / 3 + 50 is 185.8.
	place(100, "")
	place(185, "")
	place(187, "c")
	// Who is sent counts, though nobody has told it yet: a storm is spread.
	got := make(map[string]int)
	for range 200 {
		got[p.place(1000)]++
	}
	if got["c"] != 129 || got["b"] != 71 { // c is level with b after 59 more, then they take turns
		t.Errorf("200 were sent to %v", got)
	}
	// Figures that have not moved know of nothing; those that have know of all.
	now = now.Add(placementEvery)
	told[0].devices = 170
	place(1000, "b") // 170 against 40 + 130
	place(1000, "c")
	now = now.Add(placementEvery)
	told[1].devices = 0
	place(1000, "c")
	// Without others all stay.
	now = now.Add(placementEvery)
	told = nil
	place(1000, "")
}
