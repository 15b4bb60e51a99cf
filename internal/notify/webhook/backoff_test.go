package webhook

import (
	"testing"
	"time"
)

// TestBackoffBounds: waits double from the base to the cap, are spread over all of that, and never nothing.
func TestBackoffBounds(t *testing.T) {
	b := Backoff{Base: 5 * time.Second, Cap: 12 * time.Hour}
	for attempts := 1; attempts < 100; attempts++ {
		limit := b.Cap
		if attempts < 14 {
			limit = 5 * time.Second << (attempts - 1)
		}
		var least, most time.Duration = limit, 0
		for range 200 {
			wait := b.after(attempts)
			least, most = min(least, wait), max(most, wait)
		}
		if least <= 0 || most > limit || least > limit/4 || most < limit/4*3 {
			t.Errorf("after %d attempts: from %s to %s, the limit is %s", attempts, least, most, limit)
		}
	}
}

func TestBreakerPauses(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b breaker
	for range breakerStrikes - 1 {
		b.strike(now, 10*time.Second)
	}
	if !b.closed() || b.open(now) {
		t.Fatal("it opened early")
	}
	for i := range 10 {
		b.strike(now, 10*time.Second)
		until := b.until
		b.strike(now.Add(time.Second), 10*time.Second) // of a request that was begun before
		if b.until != until {
			t.Fatalf("pause %d: a failure while it is open prolonged it", i)
		}
		pause := 10 * time.Second << min(i, breakerDoubles)
		if b.closed() || !b.open(now) || b.until.Sub(now) > pause || b.until.Sub(now) < pause/10*9-1 || b.open(b.until) {
			t.Fatalf("pause %d: %s, want about %s", i, b.until.Sub(now), pause)
		}
		now = b.until
	}
	if b.reset(); !b.closed() {
		t.Fatal("a success did not close it")
	}
}
