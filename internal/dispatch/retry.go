package dispatch

import (
	"context"
	"math/rand/v2"
	"time"
)

// retry paces repeated tries of one thing: exponential with full jitter, from 20 ms to 2 s.
type retry struct {
	tries int
}

func newRetry() *retry { return &retry{} }

// first reports whether no wait has happened since the last success.
func (r *retry) first() bool { return r.tries == 0 }

func (r *retry) reset() { r.tries = 0 }

// wait blocks for the next pause; its error is ctx's.
func (r *retry) wait(ctx context.Context) error {
	limit := min(20*time.Millisecond<<min(r.tries, 10), 2*time.Second)
	r.tries++
	t := time.NewTimer(limit/4 + rand.N(limit))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
