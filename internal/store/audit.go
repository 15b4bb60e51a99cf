package store

import (
	"context"
	"time"

	"github.com/esh3artech/esh3ar"
)

// AuditEntry says who did what to clients, keys, dead letters or webhooks.
type AuditEntry struct {
	// Number is given by the store and grows with every entry. It is ignored on the way in.
	Number int64
	At     time.Time
	// Actor is who did it: "admin", or the id of the client whose API key was used, followed by a slash
	// and the key's id.
	Actor string
	// Address is the network address that the request came from, without a port, "" if unknown.
	Address string
	// Action names what was done: the kind of thing and a verb, as in "key.revoke" or "dead_letter.replay".
	Action string
	// Client is the client that the thing belongs to, Object the thing's id.
	Client, Object string
	// Detail is a JSON object that says more, nil for nothing. It never holds a secret.
	Detail []byte
}

// AuditQuery asks for entries of the audit log, newest first. Zero fields do not filter.
type AuditQuery struct {
	Client, Actor, Action string
	// From is inclusive, Until exclusive.
	From, Until time.Time
	// Before, if not 0, leaves out entries with this Number or a higher one.
	Before int64
	// Limit is between 1 and 1000.
	Limit int
}

// Auditor keeps the audit log. Its methods are safe for concurrent use.
type Auditor interface {
	// Audit adds an entry.
	Audit(ctx context.Context, e AuditEntry) error
	// Audited returns entries, newest first. Its error is of KindInvalid for a Limit out of range.
	Audited(ctx context.Context, q AuditQuery) ([]AuditEntry, error)
}

// Check reports what is wrong with the query, as an *esh3ar.Error of KindInvalid.
func (q *AuditQuery) Check() error {
	if q.Limit < 1 || q.Limit > MaxLimit {
		return esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "the limit is between 1 and %d", MaxLimit)
	}
	return nil
}
