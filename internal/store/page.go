package store

import (
	"cmp"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar"
)

// MaxLimit is the highest Limit of a Query.
const MaxLimit = 1000

// Check reports what is wrong with the query, as an *esh3ar.Error of KindInvalid. The cursor is not
// looked at.
func (q *Query) Check() error {
	if q.Limit < 1 || q.Limit > MaxLimit {
		return esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "the limit is between 1 and %d", MaxLimit)
	}
	if q.Status != 0 && !q.Status.Valid() {
		return esh3ar.Errorf(esh3ar.KindInvalid, "unknown_status", "%d is not a status", uint8(q.Status))
	}
	return nil
}

// NewPage makes a page of at most limit rows, for backends, out of the rows of a query for one more,
// which tells whether there is a next page.
func NewPage(rows []Row, limit int) Page {
	if len(rows) <= limit {
		return Page{Rows: rows}
	}
	rows = rows[:limit]
	last := &rows[limit-1].Message
	return Page{Rows: rows, Next: Cursor{AcceptedAt: last.AcceptedAt, ID: last.ID}.String()}
}

// MergeDue makes, for backends, the answer of Due out of the first limit scheduled rows by NotBefore
// and the first limit expiring ones by ExpiresAt, in any order. A row may be among both.
func MergeDue(rows []Row, limit int) []Row {
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(dueAt(&a).Compare(dueAt(&b)), slices.Compare(a.Message.ID[:], b.Message.ID[:]))
	})
	rows = slices.CompactFunc(rows, func(a, b Row) bool { return a.Message.ID == b.Message.ID })
	return rows[:min(len(rows), limit)]
}

// dueAt is the first time at which time has something to do with a waiting row.
func dueAt(r *Row) time.Time {
	at := r.Message.ExpiresAt
	if r.State.Status == esh3ar.StatusScheduled && (at.IsZero() || r.State.NotBefore.Before(at)) {
		at = r.State.NotBefore
	}
	return at
}
