//go:build !unix

package balance

// nothingToRead cannot tell here. A connection that the node has closed shows when it is used.
func nothingToRead(uintptr) bool { return true }
