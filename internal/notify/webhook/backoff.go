package webhook

import (
	"math/rand/v2"
	"time"
)

// Backoff is exponential with full jitter: after n failed attempts the next wait is uniform in
// (0, min(Cap, Base·2ⁿ⁻¹)]. Span is how long an event is tried in all.
type Backoff struct {
	Base, Cap, Span time.Duration
}

// after returns the wait after that many failed attempts.
func (b *Backoff) after(attempts int) time.Duration {
	limit := b.Cap
	if shift := max(attempts-1, 0); shift < 32 {
		if d := b.Base << shift; d > 0 && d < limit {
			limit = d
		}
	}
	return rand.N(limit) + 1
}

// breaker keeps an endpoint that does not answer well from being called over and over. It opens after a
// number of failures in a row; when the pause is over one request may try, and another failure doubles the
// pause. A success closes it.
type breaker struct {
	strikes int       // failures in a row
	until   time.Time // end of the pause, zero while closed
}

const (
	breakerStrikes = 5
	breakerDoubles = 6
)

// The names of the states that a breaker changes to.
const (
	breakerClosed = "closed"
	breakerOpen   = "open" // also again
)

// open reports whether nothing may be sent now.
func (b *breaker) open(now time.Time) bool { return now.Before(b.until) }

// closed reports whether as much may be sent as usual. When it is neither open nor closed one request may
// try.
func (b *breaker) closed() bool { return b.until.IsZero() }

// strike counts a failure. The first pause is that long. What fails while the breaker is open was begun
// before, and says nothing new.
func (b *breaker) strike(now time.Time, pause time.Duration) {
	if b.open(now) {
		return
	}
	if b.strikes++; b.strikes < breakerStrikes {
		return
	}
	pause <<= min(b.strikes-breakerStrikes, breakerDoubles)
	// A tenth of jitter keeps endpoints that failed together from being tried together.
	b.until = now.Add(pause - rand.N(pause/10+1))
}

// reset counts a success.
func (b *breaker) reset() { *b = breaker{} }
