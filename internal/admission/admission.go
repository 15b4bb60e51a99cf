// Package admission decides which messages a server takes: whether a client is within its rate and its
// daily quota, and whether the server as a whole keeps up. It is pure: no clock, no goroutine, no
// waiting. Time is handed in, as the time since some fixed moment, and so is what was measured.
//
// A value of this package has one caller at a time; who shares one among goroutines guards it.
package admission

import (
	"time"

	"github.com/esh3artech/esh3ar"
)

// Day returns the number of the UTC day of t, counted from 1970-01-01, and how long it is until the next.
func Day(t time.Time) (day int64, left time.Duration) {
	const length = 24 * 60 * 60
	s := t.Unix()
	day = s / length
	if s%length < 0 {
		day--
	}
	return day, time.Duration(length-(s-day*length))*time.Second - time.Duration(t.Nanosecond())
}

// share is what of a Limit is a tier's to fill, in hundredths. Where a lower tier's ends, only higher
// ones go on.
func share(t esh3ar.Tier) int64 {
	switch t {
	case esh3ar.TierGold:
		return 100
	case esh3ar.TierSilver:
		return 75
	}
	return 50
}
