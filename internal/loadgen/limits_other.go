//go:build !unix

package loadgen

// RaiseFileLimit returns how many connections a process may have: these systems set no limit of
// their own, so it is what the range of ports allows.
func RaiseFileLimit() (int, error) { return 16_000, nil }
