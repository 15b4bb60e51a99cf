//go:build !linux

package faultfs

import "math/rand/v2"

// FS is not available on this system.
type FS struct{}

// Mount returns ErrUnavailable.
func Mount(string, string) (*FS, error) { return nil, ErrUnavailable }

// Limit is not available.
func (*FS) Limit(int64) {}

// Unlimit is not available.
func (*FS) Unlimit() {}

// Slow is not available.
func (*FS) Slow(Delays) {}

// FailSync is not available.
func (*FS) FailSync(bool) {}

// PowerCut returns ErrUnavailable.
func (*FS) PowerCut(*rand.Rand) (Loss, error) { return Loss{}, ErrUnavailable }

// Close does nothing.
func (*FS) Close() error { return nil }
