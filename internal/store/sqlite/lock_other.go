//go:build !unix

package sqlite

// lockFile does nothing where the system has no advisory locks: that one process at a time opens the
// store is then the operator's care.
func lockFile(string) (unlock func() error, err error) { return func() error { return nil }, nil }
