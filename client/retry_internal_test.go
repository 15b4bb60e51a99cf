package client

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	p := RetryPolicy{Base: 100 * time.Millisecond, Max: 3 * time.Second}
	for n := 1; n < 200; n++ {
		limit := p.Max
		if n < 6 {
			limit = min(p.Max, p.Base<<(n-1))
		}
		for range 50 {
			if d := p.backoff(n); d <= 0 || d > limit {
				t.Fatalf("the wait after attempt %d is %v, want up to %v", n, d, limit)
			}
		}
	}
	if d := (RetryPolicy{}).backoff(3); d != 0 {
		t.Errorf("a policy without waits waits %v", d)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for field, want := range map[string]time.Duration{
		"":                     0,
		"0":                    0,
		"120":                  2 * time.Minute,
		"-1":                   0,
		"1.5":                  0,
		"99999999999999999999": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
		"soon": 0,
	} {
		if got := retryAfter(field, now); got != want {
			t.Errorf("Retry-After %q means %v, want %v", field, got, want)
		}
	}
}

func TestMemoryForgetsTheOldest(t *testing.T) {
	const size = 4
	m := newMemory(size)
	for i := range 11 {
		m.add(fmt.Sprint(i))
		for j := range 11 {
			if got, want := m.has(fmt.Sprint(j)), j <= i && j > i-size; got != want {
				t.Errorf("after adding %d: has(%d) is %t", i, j, got)
			}
		}
	}
	if len(m.known) != size || len(m.ring) != size {
		t.Errorf("holds %d and %d ids, want %d", len(m.known), len(m.ring), size)
	}
}
