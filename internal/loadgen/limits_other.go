//go:build !unix

package loadgen

import "time"

// RaiseFileLimit returns how many connections a process may have: these systems set no limit of
// their own, so it is what the range of ports allows.
func RaiseFileLimit() (int, error) { return 16_000, nil }

// usage is not known here.
func usage() (cpu time.Duration, resident int64) { return 0, 0 }
