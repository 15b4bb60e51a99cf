// Package store is the contract of the message store: the rows of every message, its queue state, its
// status events and the journal position up to which all of this is stored, moved together in one
// transaction. Backends are sqlite (embedded) and postgres (production); storetest is the suite that
// both pass.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
)

var (
	// ErrNotOwner means that the shard's epoch is not the caller's: somebody else has claimed the shard, or the store has lost
	// the caller's claim, and then it wraps ErrSetBack, too. The caller must stop working on the shard at once; nothing of the
	// call was stored.
	ErrNotOwner = errors.New("store: no longer the owner of the shard")
	// ErrSetBack means that the store has lost commits that it had confirmed to the shard's owner: it was restored from a copy,
	// or failed over to a standby that lagged. Nothing of the call was stored. The owner must claim the shard anew and read the
	// journal from the positions that it is told then, or what was lost stays lost.
	ErrSetBack = errors.New("store: it lacks what it had stored")
	// ErrNotFound means that there is no such row, or that it is not the caller's.
	ErrNotFound = errors.New("store: not found")
	// ErrPermanent wraps an error that the same data will always meet again, such as a value that
	// the database refuses. Any other error is worth a retry.
	ErrPermanent = errors.New("store: refused for good")
	// ErrBusy means that a question was not asked, because no connection was free for it, or could be made, in time. Alone it
	// does not say whether the store answers.
	ErrBusy = errors.New("store: no connection was to be had in time")
	// ErrForgotten means that the events asked for are not kept any more.
	ErrForgotten = errors.New("store: events are not kept any more")
)

// Shards is what a shard's owner needs. Every method may be called from several goroutines; Commit
// calls for one shard must not overlap. On an error nothing is stored, except
// that a lost connection may leave a Commit's outcome unknown: repeating the same Commit is then
// safe, because changes carry whole states and lower status_seq never overwrites higher.
type Shards interface {
	// Claim gives the shard a new epoch and so ends the rights of every earlier owner.
	Claim(ctx context.Context, shard uint16) (Claim, error)

	// Positions returns the stored positions of every shard that was ever claimed, without claiming
	// any: what the journal must not fall behind.
	Positions(ctx context.Context) (map[uint16][esh3ar.Tiers]uint64, error)

	// Commit stores a batch of changes and moves the positions in one transaction.
	// Errors: ErrNotOwner and ErrSetBack, alone or together, ErrPermanent (some change can never be stored: bisect), others transient.
	Commit(ctx context.Context, b *Batch) error

	// Waiting returns the queue rows of one recipient with After < Ord < Before, lowest Ord first,
	// but for scheduled ones. Rows in backoff are included: the order of a lane is the owner's to keep.
	Waiting(ctx context.Context, q Waiting) ([]Row, error)

	// Due returns queue rows of the shard that time has something to do with, oldest due first:
	// scheduled ones whose NotBefore has come (<= now), and any whose ExpiresAt has passed (<= now).
	Due(ctx context.Context, shard uint16, now time.Time, limit int) ([]Row, error)

	// Rows returns the rows with these ids, wherever they lie; ids without one are left out. The
	// order is not defined.
	Rows(ctx context.Context, shard uint16, ids []esh3ar.ID) ([]Row, error)
}

// Reader answers the questions of business clients. Every method is safe for concurrent use.
type Reader interface {
	// Message returns one message of that client. Errors: ErrNotFound, others transient.
	Message(ctx context.Context, client string, id esh3ar.ID) (Row, error)

	// Messages lists a client's messages, newest first.
	Messages(ctx context.Context, q Query) (Page, error)

	// Idempotent returns what is remembered under a client's idempotency key.
	// Errors: ErrNotFound, others transient.
	Idempotent(ctx context.Context, client, key string) (Remembered, error)

	// Events returns the writes of the shard's event sequence with a number above after, in order, none
	// when there are none. The result ends with the first write that brings it to limit events, and may
	// exceed limit by less than MaxEventsPerWrite.
	// Errors: ErrForgotten when the write that follows after is not kept any more; others transient.
	Events(ctx context.Context, shard uint16, after int64, limit int) ([]EventWrite, error)

	// EventRanges returns what is kept of the event sequence of every shard that was ever claimed.
	EventRanges(ctx context.Context) (map[uint16]EventRange, error)
}

// Store is everything together.
type Store interface {
	Deployment
	Shards
	Reader
	Clients
	Auditor
	Usage
	Webhooks
	Pruner
	RejectReader
	// Ping reports whether the store answers, to questions and with answers as long as those of real work, and whether it takes
	// writes as far as it can be told without any. Errors: ErrBusy; others of a store that does not.
	Ping(ctx context.Context) error
	// Close ends all work and releases everything. No other method may be running.
	Close() error
}

// Claim is the right to work on a shard until somebody claims it again.
type Claim struct {
	Epoch Epoch
	// Positions holds, for each tier, the journal sequence up to which everything is stored: the
	// checkpoint from which the owner reads on. Zero at first.
	Positions [esh3ar.Tiers]uint64
}

// MaxEventsPerWrite bounds how many events share one number of the event sequence.
const MaxEventsPerWrite = 1024

// EventWrite is a run of status events that a shard's committer stored under one number.
type EventWrite struct {
	// Number is one more than that of the write before in the same shard; the first is 1.
	Number int64
	// Events are never empty and never change.
	Events []esh3ar.Event
}

// EventRange says which part of a shard's event sequence is kept: the writes above Forgotten, up to Last.
type EventRange struct {
	// Forgotten is the number of the last write that is not kept any more, 0 while all are.
	Forgotten int64
	// Last is the number of the newest write, 0 before the first.
	Last int64
}

// Batch is one transaction's work. Check says what makes one acceptable.
type Batch struct {
	Shard uint16
	// Epoch is that of the owner's claim.
	Epoch Epoch
	// Number counts the owner's transactions since its claim, from 1; a repetition of one whose outcome is not known has the same.
	// The store keeps the last, and refuses one that does not follow it, because what lies between was lost (ErrSetBack). Zero
	// is not counted.
	Number int64
	// Positions are the new checkpoints, below 2^63. A position never moves back: a lower one than the
	// stored one, such as zero, leaves it.
	Positions [esh3ar.Tiers]uint64
	Changes   []Change
	// Rejects are journal records that cannot become messages; they go raw to the dead letters.
	Rejects []Reject
	// At is the owner's time of the commit, from which the retention of what it finalises counts. It
	// must be set.
	At time.Time
}

// Place says where a message's row lies.
type Place uint8

const (
	// Nowhere: there is no row yet.
	Nowhere Place = iota
	// InQueue: not final; payload included; unpartitioned.
	InQueue
	// InHistory: final; retention counts from the transaction that moved it there.
	InHistory
)

// Row is a message with its state as stored.
type Row struct {
	// Message has neither Key nor Digest if it was stored by this version: Idempotent knows them.
	Message esh3ar.Message
	State   esh3ar.State
	// Ord is the message's place in its shard's order of arrival: the number of the owner's epoch in the
	// high 24 bits, a count of the owner's in the low 40. So it grows over changes of owner too.
	Ord   uint64
	Place Place
}

// Change stores the new state of one message. The place that it goes to follows from the status:
// final statuses lie InHistory, all others InQueue; a replayed message moves back.
//
// The backend applies a change only over a row with a lower status_seq, or none; a change over a
// higher one is skipped without an error and without events, which is what makes a repeated commit and
// a repeated journal record harmless. When the idempotency key is remembered for another id, the
// message is still stored (it was accepted), and the key keeps its first meaning.
type Change struct {
	// Message must not change after the commit was asked for.
	Message *esh3ar.Message
	// State likewise; the owner hands over a copy whose Timeline it will only append to.
	State esh3ar.State
	Ord   uint64
	// From is where the owner believes the row to lie, so that the backend can choose the cheapest
	// statement. It is a hint: whatever it says, a row that lies elsewhere is found, and a missing
	// one is inserted.
	From Place
	// NewFrom is the index in State.Timeline of the first transition that is not stored yet: the
	// events to write.
	NewFrom int
}

// Reject is a journal record that cannot be decoded or that the store refuses for good. It is stored
// once for each shard and Record, wherever a repetition says that it lies.
type Reject struct {
	Tier   esh3ar.Tier
	Ord    uint64
	Record []byte
	Reason esh3ar.Reason
	Detail string
}

// Waiting asks for one recipient's waiting messages.
type Waiting struct {
	Shard     uint16
	Recipient string
	// After and Before bound Ord, both exclusive. Before 0 means no bound.
	After, Before uint64
	Limit         int
}

// Query asks for a client's messages. Zero fields do not filter.
type Query struct {
	Client string
	To     string
	Status esh3ar.Status
	// From is inclusive, Until exclusive; both are compared with AcceptedAt.
	From, Until time.Time
	// Cursor is a Page's Next, "" for the first page. A cursor that did not come from the same
	// backend is an *esh3ar.Error of KindInvalid.
	Cursor string
	// Limit is between 1 and 1000.
	Limit int
}

// Page is one page of a listing.
type Page struct {
	Rows []Row
	// Next is the cursor of the following page, "" on the last one.
	Next string
}

// Remembered is what an idempotency key was first used for.
type Remembered struct {
	ID         esh3ar.ID
	Digest     [32]byte
	To         string
	AcceptedAt time.Time
}

// Pruner forgets what retention no longer covers.
type Pruner interface {
	// Prune forgets a bounded amount of what is older than the cutoffs and reports how much. It holds
	// no lock for long: call it again while it reports More. What is not final is never forgotten.
	Prune(ctx context.Context, older Cutoffs) (Pruned, error)
}

// Cutoffs are the times before which things may be forgotten. A zero time keeps all of its kind.
type Cutoffs struct {
	Final   time.Time // messages that became final before
	Events  time.Time // events stored before
	Keys    time.Time // idempotency keys of messages accepted before
	Rejects time.Time // raw dead letters stored before
	Audit   time.Time // entries of the audit log made before
	Usage   time.Time // uses of daily quotas on days that ended before
}

// Pruned is what one call of Prune forgot.
type Pruned struct {
	Messages, Events, Keys, Rejects, Audit, Usage int64 // rows
	// More reports that another call may find more to forget.
	More bool
}

// RejectReader shows the raw dead letters to operators. It is safe for concurrent use.
type RejectReader interface {
	// Rejected returns at most limit raw dead letters with a number above after, in the order of
	// their numbers.
	Rejected(ctx context.Context, after int64, limit int) ([]Rejected, error)
}

// Rejected is a stored Reject.
type Rejected struct {
	Number int64
	Shard  uint16
	At     time.Time
	Reject
}
