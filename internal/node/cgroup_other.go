//go:build !linux

package node

// cgroupMemory is 0: there are control groups on Linux alone.
func cgroupMemory() Bytes { return 0 }

// cgroupProcessors is 0 for the same reason.
func cgroupProcessors() float64 { return 0 }
