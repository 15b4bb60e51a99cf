package cluster

import (
	"errors"
	"os"

	"github.com/esh3artech/esh3ar/internal/filelock"
)

// lockDir takes the directory for this process until the returned file is
// closed or the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := filelock.Take(lockPath(dir))
	if errors.Is(err, filelock.ErrTaken) {
		err = errors.New("in use by another server")
	}
	return f, err
}
