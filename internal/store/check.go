package store

import (
	"fmt"
	"math"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Check reports why a batch can never be stored, nil if nothing speaks against it. Every backend's
// Commit begins with it. A fault of a change or a reject wraps ErrPermanent; a fault of the batch
// itself, which no smaller batch would mend, does not.
func (b *Batch) Check() error {
	if !inRange(b.At) {
		return fmt.Errorf("store: batch with a time out of range: %v", b.At)
	}
	for t, p := range b.Positions {
		if p > math.MaxInt64 {
			return fmt.Errorf("store: position %d of tier %s is out of range", p, esh3ar.Tier(t))
		}
	}
	if b.Number < 0 {
		return fmt.Errorf("store: batch with a number of %d", b.Number)
	}
	for i := range b.Changes {
		if err := b.Changes[i].check(); err != nil {
			return err
		}
	}
	for i := range b.Rejects {
		if b.Rejects[i].Ord > math.MaxInt64 {
			return fmt.Errorf("%w: reject with an ord of %d", ErrPermanent, b.Rejects[i].Ord)
		}
	}
	return nil
}

// inRange reports whether t has the year that a date on a calendar has; the zero time has not.
func inRange(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 9999 }

func (c *Change) check() error {
	m, s := c.Message, &c.State
	if m == nil {
		return fmt.Errorf("%w: change without a message", ErrPermanent)
	}
	fault := ""
	switch {
	case m.ID == esh3ar.ID{}:
		fault = "no id"
	case m.Client == "" || m.To == "":
		fault = "no client or no recipient"
	case !inRange(m.AcceptedAt):
		fault = "time of acceptance out of range"
	case m.Tier >= esh3ar.Tiers:
		fault = "unknown tier"
	case !s.Status.Valid() || s.Last().Status != s.Status:
		fault = "status is not the timeline's last"
	case s.Seq() == 0:
		fault = "status_seq of zero"
	case c.NewFrom < 0 || c.NewFrom > len(s.Timeline):
		fault = "new transitions beyond the timeline"
	case c.Ord > math.MaxInt64:
		fault = "ord out of range"
	default:
		return nil
	}
	return fmt.Errorf("%w: message %s: %s", ErrPermanent, m.ID, fault)
}
