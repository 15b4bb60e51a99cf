package sqlite

import (
	"errors"
	"fmt"

	"github.com/esh3artech/esh3ar/internal/filelock"
)

// lockFile takes the lock that keeps a second process from the store. It ends with the process,
// however that ends, or with unlock.
func lockFile(path string) (unlock func() error, err error) {
	f, err := filelock.Take(path + "-lock")
	if errors.Is(err, filelock.ErrTaken) {
		err = ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("store: %s: %w", path, err)
	}
	return f.Close, nil
}
