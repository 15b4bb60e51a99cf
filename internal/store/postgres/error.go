package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar/internal/store"
)

// classify gives an error of the server its meaning in the store's contract: what it refuses because
// of the data is permanent; all else, such as a lost connection, may pass.
func (s *Store) classify(err error) error {
	if err == nil {
		s.heard()
		return nil
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && !isNoPartition(err) && permanent(e) {
		return fmt.Errorf("%w: %w", store.ErrPermanent, err)
	}
	return s.passing(err)
}

// passing is classify for errors that do not come from the caller's data, whatever they are.
func (s *Store) passing(err error) error {
	if disconnected(err) || timedOut(err) && s.silent(time.Now()) {
		// What ended this connection has ended the idle ones too. They are not to fail one by one.
		s.pool.Reset()
	}
	if isReadOnly(err) {
		err = fmt.Errorf("%w: %w", errReadOnly, err)
	}
	return fmt.Errorf("store: postgres: %w", err)
}

// isReadOnly reports whether the server refused a write because it takes none.
func isReadOnly(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == readOnlyTransaction
}

// disconnected reports whether the server went away, in its own words or without, or is not the one that
// takes writes any more.
func disconnected(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		// Admin shutdown, crash shutdown, cannot connect now.
		return strings.HasPrefix(e.Code, "57P") || e.Code == readOnlyTransaction
	}
	if pgconn.Timeout(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// timedOut reports whether the time of a call was up while the server had it, rather than while it waited for the pool to have a
// connection to spare. Its connection is closed by then.
func timedOut(err error) bool { return pgconn.Timeout(err) }

// silentFor is how long no call has had an answer when a server counts as silent, once the time of one is up. A query that is
// slow, or waits for a lock, is no reason to make all connections anew while others get their answers.
const silentFor = 2 * time.Second

// heard notes that a call had an answer.
func (s *Store) heard() { s.answered.Store(time.Now().UnixNano()) }

// silent reports whether the server has not answered anybody lately.
func (s *Store) silent(now time.Time) bool {
	return now.Sub(time.Unix(0, s.answered.Load())) >= silentFor
}

// readOnlyTransaction is the code of writes to a standby, or to a server that was made read-only.
const readOnlyTransaction = "25006"

// permanent goes by the class of the code: data exceptions, violated constraints, and values too long for an
// index, which is the only limit that names a table. The other limits are the server's: one of them is that it
// takes no writes before it is vacuumed. What ends a connection or keeps it from being made is not about data.
func permanent(e *pgconn.PgError) bool {
	if e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC" {
		return false
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "22", "23":
		return true
	case "54":
		return e.TableName != ""
	}
	return false
}

// isNoPartition reports whether a row found no partition, which the server tells as a check violation
// that names no constraint.
func isNoPartition(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23514" && e.ConstraintName == ""
}

// Unreachable reports whether an error of Open or of any call says that the server is not there or not ready:
// it does not answer, starts or stops, has no connection to spare, takes no writes, or went away. All else, such as a wrong
// password or a database that there is not, does not pass by itself.
func Unreachable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code[:min(2, len(e.Code))] {
		case "08", "40", "53", "55", "57", "58":
			return true
		}
		return e.Code == readOnlyTransaction
	}
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, errReadOnly) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, context.DeadlineExceeded)
}
