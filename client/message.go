package client

import (
	"encoding/json"
	"fmt"
	"time"
)

// Message is a message to send. Exactly one of Content and Data is set.
type Message struct {
	// To is the recipient: a telephone number or a user name, 1 to 128 characters.
	To string
	// Content is the text of a text message.
	Content string
	// Data is the content of a data message: any value that encodes as JSON. A json.RawMessage is
	// sent as it is, but for white space.
	Data any
	// Type is a short label of the sender's own, "" for none.
	Type string
	// Metadata is handed to the device with the message. May be nil.
	Metadata map[string]string
	// TTL is how long the message is worth delivering, 0 for always. It is sent in whole seconds,
	// rounded up.
	TTL time.Duration
	// SendAt is the earliest time of delivery, zero for at once.
	SendAt time.Time
	// IdempotencyKey names this sending, so that repeating it cannot make a second message. "" lets
	// the SDK choose one. Set it, and keep it, where the sending must survive a restart of the
	// sending program.
	IdempotencyKey string
}

// MarshalJSON encodes the message as the body of a send request: without its idempotency key.
func (m Message) MarshalJSON() ([]byte, error) {
	w, err := m.wire()
	if err != nil {
		return nil, err
	}
	w.IdempotencyKey = ""
	return json.Marshal(w)
}

// wireMessage is a Message as the API spells it. The key is a member in batches alone; a single
// message carries it in a header.
type wireMessage struct {
	To             string            `json:"to"`
	Content        *string           `json:"content,omitempty"`
	Data           json.RawMessage   `json:"data,omitempty"`
	Type           string            `json:"type,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	TTL            int64             `json:"ttl,omitempty"`
	SendAt         *time.Time        `json:"send_at,omitempty"`
	IdempotencyKey string            `json:"idempotency_key,omitempty"`
}

func (m *Message) wire() (wireMessage, error) {
	w := wireMessage{
		To: m.To, Type: m.Type, Metadata: m.Metadata, IdempotencyKey: m.IdempotencyKey,
		TTL: int64((m.TTL + time.Second - 1) / time.Second),
	}
	if m.TTL < 0 {
		// Division rounds a negative TTL towards zero, which would mean "for ever": let the server
		// refuse it as what it is.
		w.TTL = -1
	}
	if !m.SendAt.IsZero() {
		at := m.SendAt.UTC()
		w.SendAt = &at
	}
	if m.Data != nil {
		data, err := json.Marshal(m.Data)
		if err != nil {
			return w, fmt.Errorf("client: the message's data does not encode as JSON: %w", err)
		}
		w.Data = data
	}
	if m.Content != "" || m.Data == nil {
		w.Content = &m.Content
	}
	return w, nil
}

// Receipt says that a message was accepted: it is durable, and ID tracks it.
type Receipt struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	// To is the recipient in its normal form.
	To         string    `json:"to"`
	AcceptedAt time.Time `json:"accepted_at"`
	// IdempotencyKey is the key that the message was sent with.
	IdempotencyKey string `json:"-"`
}

// Status says where a message is on its way. A word that this version of the SDK does not know is
// passed on as it is.
type Status string

// The statuses of a message.
const (
	StatusAccepted    Status = "accepted"    // durable
	StatusScheduled   Status = "scheduled"   // waits for its SendAt
	StatusQueued      Status = "queued"      // waits for its recipient or its turn
	StatusSent        Status = "sent"        // written to a live connection of the recipient
	StatusDelivered   Status = "delivered"   // a device acknowledged it
	StatusRead        Status = "read"        // the device says that its user read it
	StatusExpired     Status = "expired"     // its TTL ran out first
	StatusCanceled    Status = "canceled"    // withdrawn before delivery
	StatusUndelivered Status = "undelivered" // given up; it lies in the dead-letter queue
)

// Final reports whether the platform has nothing left to do for the message. Only a delivered message
// is expected to move on by itself, to read.
func (s Status) Final() bool {
	switch s {
	case StatusDelivered, StatusRead, StatusExpired, StatusCanceled, StatusUndelivered:
		return true
	}
	return false
}

// Transition is one entry of a message's timeline.
type Transition struct {
	// Seq grows by one with each transition of the message.
	Seq    uint32    `json:"status_seq"`
	Status Status    `json:"status"`
	At     time.Time `json:"at"`
	// Attempt numbers the send attempt that the transition belongs to, 0 before the first.
	Attempt uint32 `json:"attempt,omitempty"`
	// Reason says why in one stable word, "" where the status says it all.
	Reason string `json:"reason,omitempty"`
}

// Details is a message as its sender sees it: what was sent and what became of it. In listings it
// comes without Content, Data and Timeline.
type Details struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	// Seq is the number of the transition that led to Status.
	Seq uint32 `json:"status_seq,omitempty"`
	// From is the sender's name as devices see it.
	From       string            `json:"from,omitempty"`
	To         string            `json:"to"`
	Content    string            `json:"content,omitempty"`
	Data       json.RawMessage   `json:"data,omitempty"`
	Type       string            `json:"type,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	AcceptedAt time.Time         `json:"accepted_at"`
	// PayloadUnavailable says that the server's store refused what the message carried, and perhaps more
	// of it: there is no Content, Data or Metadata. Such a message cannot be replayed.
	PayloadUnavailable bool `json:"payload_unavailable,omitempty"`
	// SendAt, ExpiresAt and NextAttemptAt are nil where the message has none.
	SendAt        *time.Time `json:"send_at,omitempty"`
	ExpiresAt     *time.Time `json:"expires_at,omitempty"`
	NextAttemptAt *time.Time `json:"next_attempt_at,omitempty"`
	// Attempts counts the send attempts so far.
	Attempts uint32 `json:"attempts,omitempty"`
	// Timeline holds every transition, oldest first.
	Timeline []Transition `json:"timeline,omitempty"`
}

// Reached reports whether the message has, or has had, the status.
func (d *Details) Reached(s Status) bool {
	if d.Status == s {
		return true
	}
	for i := range d.Timeline {
		if d.Timeline[i].Status == s {
			return true
		}
	}
	return false
}
