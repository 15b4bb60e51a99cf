package store

import (
	"context"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
)

// ErrConflict means that what is stored does not allow the change: the id is taken, somebody else changed
// the row meanwhile, or something still depends on it. Nothing was stored.
var ErrConflict = errors.New("store: what is stored does not allow it")

// Clients keeps business clients and their keys. Every method is safe for concurrent use.
//
// A method that changes something takes the entry of the audit log that tells of it, and stores both or
// neither.
type Clients interface {
	// Client returns a client by id. Errors: ErrNotFound.
	Client(ctx context.Context, id string) (esh3ar.Client, error)
	// ListClients returns at most limit clients whose id comes after that one, by id.
	ListClients(ctx context.Context, after string, limit int) ([]esh3ar.Client, error)
	// PutClient stores a client and returns its new Revision, which is one above c's. One of Revision 0 is
	// inserted; any other replaces the stored one if that has the same Revision.
	// Errors: ErrConflict when the id is taken, also by a client that was deleted, or the Revision is
	// another; ErrNotFound when there is none to replace; ErrPermanent.
	PutClient(ctx context.Context, c esh3ar.Client, e AuditEntry) (revision int64, err error)
	// DeleteClient forgets a client, with its webhooks, but for its id, which is never free again: what the client sent is
	// kept under it, and would be shown to whoever got it next.
	// Errors: ErrNotFound; ErrConflict while one of its keys works at e.At.
	DeleteClient(ctx context.Context, id string, e AuditEntry) error

	// Keys returns a client's keys, newest first, at most limit of them; none for a client that is not there.
	Keys(ctx context.Context, client string, limit int) ([]esh3ar.APIKey, error)
	// PutKeys stores keys of one client. Of a key that is stored already, by its Hash, only the end is
	// taken: its RevokedAt if the key was not revoked, its ExpiresAt if that comes earlier. So no change
	// brings an ended key back, whatever it raced with.
	// Errors: ErrNotFound when there is no such client; ErrConflict when another key has the ID;
	// ErrPermanent.
	PutKeys(ctx context.Context, keys []esh3ar.APIKey, e AuditEntry) error
	// ClientByKey returns the key with that hash and its client, whether or not it works.
	// Errors: ErrNotFound.
	ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error)
	// TouchKeys notes when keys were used, by their hashes. An earlier time than the stored one, and a
	// hash that is not stored, change nothing.
	TouchKeys(ctx context.Context, used map[[32]byte]time.Time) error
}

// Usage counts what clients use of their daily quotas. It is safe for concurrent use, also over nodes.
type Usage interface {
	// AddUsage adds to what clients have used on a day, counted from 1970-01-01 UTC, and returns the new
	// totals of these clients. Adding 0 asks for the total. A call whose outcome is unknown may have
	// counted: repeating it may count twice.
	AddUsage(ctx context.Context, day int64, add map[string]int64) (map[string]int64, error)
}

// UsageDay returns the number of the day of t, as AddUsage counts them.
func UsageDay(t time.Time) int64 {
	const day = 24 * 60 * 60
	s := t.Unix()
	if s < 0 {
		s -= day - 1
	}
	return s / day
}
