package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar/internal/store"
)

// classify gives an error of the server its meaning in the store's contract: what it refuses because
// of the data is permanent; all else, such as a lost connection, may pass.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && !isNoPartition(err) && permanent(e) {
		return fmt.Errorf("%w: %w", store.ErrPermanent, err)
	}
	return fmt.Errorf("store: postgres: %w", err)
}

// permanent goes by the class of the code: data exceptions, violated constraints, and limits of the
// program such as the longest index entry.
func permanent(e *pgconn.PgError) bool {
	switch e.Code[:min(2, len(e.Code))] {
	case "22", "23", "54":
		return true
	}
	return false
}

// isNoPartition reports whether a row found no partition, which the server tells as a check violation
// that names no constraint.
func isNoPartition(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23514" && e.ConstraintName == ""
}
