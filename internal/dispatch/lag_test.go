package dispatch

import (
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
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

// A journal's server whose clock was set back does not make messages look old.
func TestAcceptedByTheMessagesOwnTime(t *testing.T) {
	server := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	own := server.Add(time.Hour)
	je := journal.Entry{Time: server}
	if got := accepted(je, []*esh3ar.Message{{AcceptedAt: own}, {AcceptedAt: own.Add(time.Second)}}); !got.Equal(own) {
		t.Errorf("an entry with messages: %v, want %v", got, own)
	}
	if got := accepted(je, nil); !got.Equal(server) {
		t.Errorf("an entry without: %v, want %v", got, server)
	}
}
