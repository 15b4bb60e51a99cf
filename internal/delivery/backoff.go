package delivery

import (
	"encoding/binary"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Backoff is exponential with full jitter: before attempt n+1 the wait is uniform in
// (0, min(Cap, Base·2ⁿ⁻¹)].
type Backoff struct {
	Base, Cap time.Duration
}

// After returns the wait after that many attempts. The jitter is a function of the message's random
// bits and the attempt, so that the decision stays pure and yet no two messages march in step.
func (b Backoff) After(attempts int, id esh3ar.ID) time.Duration {
	limit := b.Cap
	if shift := attempts - 1; shift < 32 {
		if d := b.Base << max(shift, 0); d > 0 && d < limit {
			limit = d
		}
	}
	if limit <= 0 {
		return 0
	}
	// SplitMix64 over the random half of the identifier and the attempt.
	x := binary.BigEndian.Uint64(id[8:]) + uint64(attempts)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return time.Duration(x%uint64(limit)) + 1
}
