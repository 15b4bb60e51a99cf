package sqlite

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/esh3artech/esh3ar/internal/store"
)

// classify gives an error of the driver its meaning in the store's contract: what the database
// refuses because of the data is permanent; all else, such as a full disk, may pass.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case lib.SQLITE_CONSTRAINT, lib.SQLITE_TOOBIG, lib.SQLITE_MISMATCH, lib.SQLITE_RANGE:
			return fmt.Errorf("%w: %w", store.ErrPermanent, err)
		}
	}
	return fmt.Errorf("store: sqlite: %w", err)
}
