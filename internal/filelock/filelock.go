// Package filelock locks files between processes. A lock ends with the processes that hold its file open, however they end, so
// that none is left behind by kill -9 or a power cut.
package filelock

import (
	"errors"
	"fmt"
	"os"
)

// ErrTaken means that somebody else has the lock.
var ErrTaken = errors.New("in use by another process")

// Take takes the lock of the file at that path, which it creates if it is not there and leaves behind. The lock ends when the
// returned file is closed. Errors: ErrTaken, at once.
func Take(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	taken, err := Try(f)
	if taken {
		return f, nil
	}
	if err == nil {
		err = ErrTaken
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
}
