package dispatch

import (
	"testing"
	"time"
)

// What is behind is told by its age, and nothing is once there is nothing to read.
func TestLag(t *testing.T) {
	var l lag
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(after time.Duration) time.Time { return start.Add(after) }
	check := func(after, want time.Duration, when string) {
		t.Helper()
		if got := l.age(at(after)); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check(time.Hour, 0, "nothing was read")
	l.wait(at(0))
	check(time.Hour, 0, "nothing came")
	l.took(at(time.Second))
	check(4*time.Second, 3*time.Second, "an entry of 3 s ago is worked on")
	l.wait(at(5 * time.Second))
	check(5*time.Second+caughtUpAfter/2, 4*time.Second, "the next one is on its way")
	check(5*time.Second+caughtUpAfter, 0, "there is no next one")
	l.took(at(10 * time.Second))
	check(9*time.Second, 0, "the journal's clock is ahead")
}
