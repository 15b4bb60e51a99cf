package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// bucket is a server's token bucket of a rate, with a burst of as much.
type bucket struct {
	mu     sync.Mutex
	rate   float64
	tokens float64
	at     time.Time
}

func (b *bucket) take(n float64) (left int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.at.IsZero() {
		b.tokens = b.rate
	} else {
		b.tokens = min(b.rate, b.tokens+b.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if ok = b.tokens >= min(n, b.rate)-1e-9; ok {
		b.tokens -= n
	}
	return max(int(b.tokens), 0), ok
}

// limited answers as a server does that allows so many messages a second.
func limited(rate int, refused *atomic.Int64) func(int, http.ResponseWriter, request) {
	b := &bucket{rate: float64(rate)}
	return func(n int, w http.ResponseWriter, _ request) {
		left, ok := b.take(1)
		w.Header()["RateLimit-Policy"] = []string{fmt.Sprintf(`"day";q=1000000;w=86400, "rate";q=%d;w=1`, rate)}
		w.Header()["RateLimit"] = []string{fmt.Sprintf(`"day";r=900000;t=3600, "rate";r=%d;t=1`, left)}
		if !ok {
			refused.Add(1)
			w.Header().Set("Retry-After", "1")
			refuse(w, client.Problem{Status: http.StatusTooManyRequests, Code: "rate_limited"})
			return
		}
		accepted(w, fmt.Sprint(n))
	}
}

// A client that sends more than it may has everything accepted, at its rate, and is refused next to never
// once it knows the rate.
func TestSendKeepsToTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int64
		_, c := serve(t, limited(20, &refused))
		if _, err := c.Send(t.Context(), client.Message{To: "a", Content: "first"}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var calls sync.WaitGroup
		for range 200 {
			calls.Go(func() {
				if _, err := c.Send(t.Context(), client.Message{To: "a", Content: "b"}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if took := time.Since(start); took < 8*time.Second || took > 12*time.Second {
			t.Errorf("200 messages at 20/s took %s", took)
		}
		if n := refused.Load(); n > 10 {
			t.Errorf("%d requests were refused", n)
		}
	})
}

// A client that learns the rate by being refused gets all of it accepted, too.
func TestSendLearnsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int64
		_, c := serve(t, limited(20, &refused))
		start := time.Now()
		var calls sync.WaitGroup
		for range 100 {
			calls.Go(func() {
				if _, err := c.Send(t.Context(), client.Message{To: "a", Content: "b"}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if took := time.Since(start); took < 3*time.Second || took > 8*time.Second {
			t.Errorf("100 messages at 20/s took %s", took)
		}
		if n := refused.Load(); n < 1 || n > 120 {
			t.Errorf("%d requests were refused", n)
		}
	})
}

// A message whose turn comes after its deadline is refused at once, and costs no request.
func TestSendWithoutATurnInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused atomic.Int64
		s, c := serve(t, limited(1, &refused))
		if _, err := c.Send(t.Context(), client.Message{To: "a", Content: "b"}); err != nil {
			t.Fatal(err)
		}
		waits, stop := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() {
				if _, err := c.Send(waits, client.Message{To: "a", Content: "b"}); err == nil {
					t.Error("a call that was canceled while it waited succeeds")
				}
			})
		}
		synctest.Wait()
		asked := len(s.requests())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Send(ctx, client.Message{To: "a", Content: "b"})
		var e *client.SendError
		if !errors.As(err, &e) || e.Attempts != 0 || e.Unknown || time.Since(start) != 0 {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if n := len(s.requests()) - asked; n > 1 {
			t.Errorf("%d requests were made", n)
		}
		// Those who give up while they wait leave their turns to others.
		stop()
		calls.Wait()
		if _, err := c.Send(ctx, client.Message{To: "a", Content: "b"}); err != nil {
			t.Error(err)
		}
	})
}

// Fields that make no sense mean nothing, and a rate that is not repeated is forgotten.
func TestRateLimitFields(t *testing.T) {
	for _, c := range []struct {
		name, policy, limit string
		paced               bool
	}{
		{"none", "", "", false},
		{"a rate", `"rate";q=1;w=1`, `"rate";r=0;t=1`, true},
		{"a policy alone", `"rate";q=1;w=1`, "", true},
		{"a day", `"day";q=1;w=86400`, `"day";r=0;t=60`, false},
		{"not closed", `"rate;q=1;w=1`, `"rate";r=0`, false},
		{"a token", `rate;q=1;w=1`, `rate;r=0`, false},
		{"another unit", `"rate";q=1;qu="content-bytes";w=1`, `"rate";r=0`, false},
		{"nothing allowed", `"rate";q=0;w=1`, `"rate";r=0`, false},
		{"no window", `"rate";q=1`, `"rate";r=0`, false},
		{"window of 0", `"rate";q=1;w=0`, `"rate";r=0`, false},
		{"a fraction", `"rate";q=1.5;w=1`, `"rate";r=0`, false},
		{"negative", `"rate";q=-1;w=1`, `"rate";r=-1`, false},
		{"huge", `"rate";q=999999999999999;w=1`, `"rate";r=999999999999999`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				silent := false
				_, sdk := serve(t, func(n int, w http.ResponseWriter, _ request) {
					if c.policy != "" && !silent {
						w.Header()["RateLimit-Policy"] = []string{c.policy}
						w.Header()["RateLimit"] = []string{c.limit}
					}
					accepted(w, fmt.Sprint(n))
				})
				send := func() {
					for range 4 {
						if _, err := sdk.Send(t.Context(), client.Message{To: "a", Content: "b"}); err != nil {
							t.Fatal(err)
						}
					}
				}
				start := time.Now()
				send()
				if took := time.Since(start); (took > time.Second) != c.paced {
					t.Errorf("four messages took %s", took)
				}
				silent = true
				time.Sleep(2 * time.Minute)
				start = time.Now()
				send()
				if took := time.Since(start); took != 0 {
					t.Errorf("when no rate is told any more, four messages take %s", took)
				}
			})
		})
	}
}
