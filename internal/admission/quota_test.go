package admission

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDay(t *testing.T) {
	for text, want := range map[string]struct {
		day  int64
		left time.Duration
	}{
		"1970-01-01T00:00:00Z":      {0, 24 * time.Hour},
		"1970-01-02T23:59:59.5Z":    {1, 500 * time.Millisecond},
		"1969-12-31T23:00:00Z":      {-1, time.Hour},
		"2026-11-25T02:30:00+03:00": {20781, 30 * time.Minute},
	} {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		if day, left := Day(at); day != want.day || left != want.left {
			t.Errorf("%s: day %d, %s left", text, day, left)
		}
	}
}

// Nodes that report to one store: what they let through on a day is counted exactly once, and is at most the quota
// and what they accepted since their last report.
func TestQuotaOverNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(0, 300).Draw(t, "limit")
		nodes := make([]Quota, rapid.IntRange(1, 3).Draw(t, "nodes"))
		stored, accepted := map[int64]int64{}, map[int64]int64{}
		day := int64(20_000)
		report := func(q *Quota) {
			for {
				d, add, fine := q.Report()
				if fine {
					return
				}
				stored[d] += add
				q.Reported(d, add, stored[d])
			}
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			q := &nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "node")]
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				// Whoever is to be counted on a past day reports before the next one ends.
				for i := range nodes {
					report(&nodes[i])
				}
				day++
			case 1, 2, 3:
				q.Left(limit, day) // looks at the day
				report(q)
				if left, least := q.Left(limit, day), max(limit-accepted[day], 0); left < least {
					t.Fatalf("%d left after a report, want at least %d", left, least)
				}
			default:
				n := rapid.IntRange(1, 50).Draw(t, "n")
				left := q.Left(limit, day)
				ok := q.Take(n, limit, day)
				if ok != (int64(n) <= left) {
					t.Fatalf("%d of %d left: %v", n, left, ok)
				}
				if ok && rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
					q.Return(n, day)
				} else if ok {
					accepted[day] += int64(n)
				}
			}
			if len(nodes) == 1 && accepted[day] > limit {
				t.Fatalf("%d accepted of %d", accepted[day], limit)
			}
		}
		for i := range nodes {
			report(&nodes[i])
		}
		for d, n := range accepted {
			if stored[d] != n {
				t.Fatalf("day %d: %d accepted, %d stored", d, n, stored[d])
			}
		}
	})
}

// What a store that was away did not hear of is told later, also over midnight.
func TestQuotaKeepsWhatIsUnsent(t *testing.T) {
	var q Quota
	q.Take(5, 10, 1)
	if day, add, fine := q.Report(); day != 1 || add != 5 || fine {
		t.Errorf("day %d, %d, %v", day, add, fine)
	}
	q.Take(3, 10, 2)
	day, add, fine := q.Report()
	if day != 1 || add != 5 || fine {
		t.Errorf("day %d, %d, %v", day, add, fine)
	}
	q.Return(2, 1)
	q.Reported(1, 3, 3)
	day, add, _ = q.Report()
	if day != 2 || add != 3 {
		t.Errorf("day %d, %d", day, add)
	}
	q.Take(1, 10, 2) // while the store is told
	q.Reported(2, 3, 8)
	if left := q.Left(10, 2); left != 1 {
		t.Errorf("%d left", left)
	}
	if q.Take(2, 10, 2) {
		t.Error("more than the quota")
	}
	// What was told and is then taken back is set off against what comes.
	q.Return(4, 2)
	q.Take(1, 10, 2)
	if day, add, fine := q.Report(); day != 2 || add != 0 || !fine {
		t.Errorf("day %d, %d, %v", day, add, fine)
	}
	if left := q.Left(10, 2); left != 4 {
		t.Errorf("%d left", left)
	}
}
