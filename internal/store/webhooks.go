package store

import (
	"context"
	"fmt"
	"time"

	"github.com/esh3artech/esh3ar"
)

// ErrTooMany means that there are as many as there may be. Nothing was stored.
var ErrTooMany = fmt.Errorf("%w: as many as there may be", ErrConflict)

// Webhook is an endpoint of a client: where its events are posted to, and how far that is.
type Webhook struct {
	ID, Client       string
	URL, Description string
	// Statuses are those whose events are posted, nil for all.
	Statuses []esh3ar.Status
	// Format is the form of a body, in a word of the webhooks' own.
	Format string
	// BatchMax is how many events one request holds at most, 1 or more.
	BatchMax int
	// Secret signs requests, and so does OldSecret until OldUntil. They are stored as they are, since
	// signing needs them.
	Secret, OldSecret []byte
	OldUntil          time.Time
	CreatedAt         time.Time
	UpdatedAt         time.Time
	// DisabledAt is when posting was stopped, zero while it goes on, DisabledReason why, in one word.
	DisabledAt     time.Time
	DisabledReason string
	// Version is 1, and one more for each UpdateWebhook. Epoch is 1, and one more for each of them that sets
	// the webhook back or revives it. They are ignored on the way in.
	Version, Epoch int64
	WebhookProgress
	// Parked is the number of parked events. It is ignored on the way in.
	Parked int
}

// WebhookProgress is what the posting of events moves on.
type WebhookProgress struct {
	// Cursor is a place in the client's events: everything before it is posted, given up or parked.
	Cursor string
	// FailingSince is when the first of the failures happened that no success has followed, zero if the
	// last request did not fail.
	FailingSince time.Time
	// ResumeAt is until when the endpoint asked to be left alone, zero if it did not.
	ResumeAt time.Time
	// SucceededAt is when a request last succeeded, zero for never.
	SucceededAt time.Time
	// LostAt is when events that were not posted were last found to be forgotten, zero for never.
	LostAt time.Time
}

// WebhookRef names a webhook in a version.
type WebhookRef struct {
	ID      string
	Version int64
}

// ParkedEvent is an event of a webhook that waits: for its next attempt, or for that of an earlier event
// of its message.
type ParkedEvent struct {
	Event    esh3ar.Event
	Attempts int
	// FirstAt is when the first attempt was made, zero if there was none. NextAt is the time of the next.
	FirstAt, NextAt time.Time
}

// EventKey names an event of a client.
type EventKey struct {
	Message esh3ar.ID
	Seq     uint32
}

// WebhookDelivery is one request in the log of a webhook.
type WebhookDelivery struct {
	// Number is given by the store and grows. It is ignored on the way in.
	Number int64
	At     time.Time
	// RequestID is the request's webhook-id.
	RequestID string
	// Events names the first of the events that were posted, Count is how many there were.
	Events []EventKey
	Count  int
	// Attempt is 1 for the first one.
	Attempt int
	// Outcome says in one word what came of it.
	Outcome string
	// StatusCode is that of the answer, 0 without one.
	StatusCode int
	Duration   time.Duration // to the microsecond
	// Error says what went wrong, "" for nothing. Response is the beginning of the answer's body. Both are
	// valid UTF-8 without NUL.
	Error, Response string
}

// WebhookUpdate replaces what people and the posting decide about a webhook.
type WebhookUpdate struct {
	// Webhook is what is to be stored. Its WebhookProgress is left as it is stored, and Version, here, must
	// be the stored one.
	Webhook Webhook
	// Cursor, if it is not "", becomes the webhook's.
	Cursor string
	// Revive forgets failures: FailingSince and ResumeAt become zero, and every parked event is due at
	// UpdatedAt, as if no attempt had been made.
	Revive bool
}

// WebhookSave moves a webhook on.
type WebhookSave struct {
	// Epoch must be the stored one, and Holder hold the webhook. A change that raises the version alone does
	// not keep who posts from saving what it had done by then.
	ID       string
	Epoch    int64
	Holder   string
	Progress WebhookProgress
	// Unpark are removed first; keys without an event are passed over. Park are added then, or replaced.
	Unpark []EventKey
	Park   []ParkedEvent
	// Deliveries are added to the log, of which the newest KeepDeliveries stay.
	Deliveries     []WebhookDelivery
	KeepDeliveries int
}

// Webhooks keeps the webhooks of clients. Every method is safe for concurrent use, and what one call
// writes, with its entry of the audit log, is one transaction.
type Webhooks interface {
	// CreateWebhook adds a webhook, with Version and Epoch 1.
	// Errors: ErrTooMany if the client has most of them or more; ErrPermanent for an id that is taken.
	CreateWebhook(ctx context.Context, w Webhook, most int, e AuditEntry) error

	// Webhook returns a webhook of that client. Errors: ErrNotFound.
	Webhook(ctx context.Context, client, id string) (Webhook, error)

	// Webhooks returns all webhooks of a client, the oldest first.
	Webhooks(ctx context.Context, client string) ([]Webhook, error)

	// HoldWebhooks gives the holder, for that time from now, the right to post to every webhook that is not
	// disabled and that nobody else holds, and returns all of these. The time is the store's own, so that
	// nodes need not agree on theirs.
	HoldWebhooks(ctx context.Context, holder string, d time.Duration) ([]WebhookRef, error)

	// ReleaseWebhooks gives up what the holder holds.
	ReleaseWebhooks(ctx context.Context, holder string) error

	// WebhookByRef returns a webhook for posting, with all its parked events: those of one message in the
	// order of their Seq. Errors: ErrNotFound; ErrConflict if it has another version.
	WebhookByRef(ctx context.Context, ref WebhookRef) (Webhook, []ParkedEvent, error)

	// UpdateWebhook replaces a webhook and raises its version. Errors: ErrNotFound; ErrConflict if it has
	// another version.
	UpdateWebhook(ctx context.Context, u WebhookUpdate, e AuditEntry) error

	// DeleteWebhook removes a webhook of that client with everything that belongs to it.
	// Errors: ErrNotFound.
	DeleteWebhook(ctx context.Context, client, id string, e AuditEntry) error

	// SaveWebhook moves a webhook on. Errors: ErrConflict if it has another epoch or another holder, or is
	// gone.
	SaveWebhook(ctx context.Context, s WebhookSave) error

	// Deliveries returns the log of a webhook, newest first: entries with a Number below before, if that
	// is not 0, and with that outcome, if it is not "".
	Deliveries(ctx context.Context, id string, before int64, outcome string, limit int) ([]WebhookDelivery, error)

	// LogDelivery adds to the log of a webhook, of which the newest keep entries stay.
	LogDelivery(ctx context.Context, id string, d WebhookDelivery, keep int, e AuditEntry) error

	// PruneDeliveries removes a bounded number of log entries from before that time. It reports whether
	// another call may find more.
	PruneDeliveries(ctx context.Context, before time.Time) (more bool, err error)

	// EventTime returns when the write of that number in the shard's event sequence was stored. It never
	// falls with growing numbers. Errors: ErrForgotten if it is not kept, or not there yet.
	EventTime(ctx context.Context, shard uint16, number int64) (time.Time, error)
}
