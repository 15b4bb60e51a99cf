//go:build !unix

package node

// fileLimit returns how many files this process may have open.
func fileLimit() (int, error) { return 1 << 14, nil }
