package admission

import "time"

// token is the unit of a bucket's level: rates are whole tokens a second, so that a nanosecond adds
// exactly rate of these, and nothing is ever lost or won by rounding.
const token = int64(time.Second)

// Bucket is the token bucket of one client: messages cost a token each, and tokens come back at a steady
// rate until the bucket is full. The zero Bucket has no rate yet; SetRate gives it one.
//
// A call for more messages than the bucket can ever hold goes through when the bucket is full, and
// leaves a debt that is worked off before anything else goes through. So a large batch is possible, and the
// rate holds in the long run: in any time t at most rate*t + burst messages go through, or, if that is
// more, rate*t + the largest call.
type Bucket struct {
	rate  int64 // tokens a second
	burst int64 // tokens that it holds
	// level is what it holds, in token/1e9. It is negative while tokens are promised to calls that wait for
	// them, or owed by a large call.
	level int64
	at    time.Duration // when level was right
}

// SetRate sets how many tokens come a second, and how many the bucket holds; a burst of 0 means one
// second's worth. A new Bucket is full. A change takes effect at once: no more than the new burst stays,
// and nobody waits longer for a debt than the old or the new rate makes him. Both are at most a billion.
func (b *Bucket) SetRate(rate, burst int, now time.Duration) {
	r, most := int64(rate), int64(burst)
	if most == 0 {
		most = r
	}
	if r == b.rate && most == b.burst {
		return
	}
	if b.rate == 0 {
		*b = Bucket{rate: r, burst: most, level: most * token, at: now}
		return
	}
	b.fill(now)
	if b.level < 0 && r < b.rate {
		// The same time at the lower rate.
		b.level = -(-b.level / b.rate * r)
	}
	b.rate, b.burst = r, most
	b.level = min(b.level, most*token)
}

// fill brings the level up to now. Calls may come in another order than their times.
func (b *Bucket) fill(now time.Duration) {
	past := now - b.at
	if past <= 0 {
		return
	}
	b.at = now
	if missing := b.burst*token - b.level; int64(past) >= missing/b.rate+1 {
		b.level = b.burst * token
	} else {
		b.level += int64(past) * b.rate
	}
}

// Take asks for n tokens. They are the caller's after the given wait, which is at most the wait that
// was allowed; waiting calls get theirs in the order in which they asked. When it would have to wait
// longer nothing is taken, ok is false, and wait is how long it takes until the same call would pass if
// nobody else asked.
func (b *Bucket) Take(n int, now, allowed time.Duration) (wait time.Duration, ok bool) {
	b.fill(now)
	if missing := min(int64(n), b.burst)*token - b.level; missing > 0 {
		wait = time.Duration((missing + b.rate - 1) / b.rate)
	}
	if wait > allowed {
		return wait, false
	}
	b.level -= int64(n) * token
	return wait, true
}

// Return gives back n tokens that were taken for nothing.
func (b *Bucket) Return(n int) {
	b.level = min(b.level+int64(n)*token, b.burst*token)
}

// Left returns how many tokens there are, and when there are none, after what time there is one.
func (b *Bucket) Left(now time.Duration) (tokens int, next time.Duration) {
	b.fill(now)
	if b.level >= token {
		return int(b.level / token), 0
	}
	return 0, time.Duration((token - b.level + b.rate - 1) / b.rate)
}

// Full reports whether the bucket holds all it can: it knows nothing that a new one does not.
func (b *Bucket) Full(now time.Duration) bool {
	if b.rate == 0 {
		return true
	}
	b.fill(now)
	return b.level == b.burst*token
}
