// Package faultfs is a file system whose disk fails on demand: it fills up, becomes slow, refuses to
// sync, and forgets in a power cut what was not synced. It lies over a directory of a real file system
// and is mounted through FUSE, so that an unmodified program meets the faults in its own system calls.
//
// What it models: written pages of 4 KiB are durable only when an fsync, fdatasync or a write of a
// descriptor opened with O_SYNC or O_DSYNC has succeeded after them. After a failed sync the pages
// count as clean though they never reached the disk, as on Linux: a later sync that succeeds does not
// bring them back, only writing them again does. In a power cut any part of what was not durable is
// gone.
//
// What it does not model: creating, renaming and removing a file are durable at once, where a real
// file system may want the directory to be synced first.
package faultfs

import (
	"errors"
	"time"
)

// ErrUnavailable means that such a file system cannot be mounted on this machine.
var ErrUnavailable = errors.New("faultfs: needs Linux, /dev/fuse and the right to mount (root, or fusermount3 on PATH)")

// Loss says what a power cut took.
type Loss struct {
	Files int // that were not durable as they were
	Pages int // that went back to what was durable
}

// Delays are how long the slow disk takes. Zero is as fast as the disk below.
type Delays struct {
	Sync  time.Duration // added to each sync
	Write time.Duration // added to each write
}
