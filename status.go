package esh3ar

import (
	"fmt"
	"time"
)

// Status says where a message is on its way from the business client to the device.
//
//	accepted → [scheduled →] queued ⇄ sent → delivered → read
//	                           │
//	                           ├→ expired
//	                           ├→ canceled
//	                           └→ undelivered
//
// The zero Status is not a legal one.
type Status uint8

const (
	// StatusAccepted: durable in the journal. The owner of the recipient's shard moves it on, also
	// after a crash, because it reads the journal from the stored position.
	StatusAccepted Status = iota + 1
	// StatusScheduled: waits in the store for its send_at. The shard's owner moves it to queued.
	StatusScheduled
	// StatusQueued: waits for its recipient, for its turn, or for the next attempt. The shard's
	// owner moves it on when a connection of the recipient attaches or the backoff has passed.
	StatusQueued
	// StatusSent: written to at least one live connection. The device's acknowledgement moves it to
	// delivered; a timeout or a lost connection moves it back to queued.
	StatusSent
	// StatusDelivered: a device of the recipient acknowledged it. Final unless it is read.
	StatusDelivered
	// StatusRead: the device said that its user read it. Final.
	StatusRead
	// StatusExpired: its time to live ran out first. Final, unless a late acknowledgement proves
	// that the device did show it.
	StatusExpired
	// StatusCanceled: withdrawn by its client before delivery. Final, with the same exception.
	StatusCanceled
	// StatusUndelivered: attempts exhausted, or it can never be delivered. It is in the dead-letter
	// queue; a replay brings it back to queued with the next generation.
	StatusUndelivered

	statusEnd
)

var statusNames = [statusEnd]string{
	StatusAccepted:    "accepted",
	StatusScheduled:   "scheduled",
	StatusQueued:      "queued",
	StatusSent:        "sent",
	StatusDelivered:   "delivered",
	StatusRead:        "read",
	StatusExpired:     "expired",
	StatusCanceled:    "canceled",
	StatusUndelivered: "undelivered",
}

// successors lists the legal moves. Late acknowledgements are why expired, canceled and undelivered
// have any: the device did show the message. A read receipt implies the delivery.
var successors = [statusEnd][]Status{
	StatusAccepted:    {StatusScheduled, StatusQueued, StatusExpired, StatusCanceled, StatusUndelivered},
	StatusScheduled:   {StatusQueued, StatusExpired, StatusCanceled},
	StatusQueued:      {StatusSent, StatusDelivered, StatusExpired, StatusCanceled, StatusUndelivered},
	StatusSent:        {StatusQueued, StatusDelivered, StatusExpired, StatusUndelivered},
	StatusDelivered:   {StatusRead},
	StatusRead:        nil,
	StatusExpired:     {StatusDelivered},
	StatusCanceled:    {StatusDelivered},
	StatusUndelivered: {StatusQueued, StatusDelivered, StatusUndelivered}, // the last: discarded
}

// ParseStatus returns the status of that name. Its error is of KindInvalid.
func ParseStatus(name string) (Status, error) {
	for s := StatusAccepted; s < statusEnd; s++ {
		if statusNames[s] == name {
			return s, nil
		}
	}
	return 0, Errorf(KindInvalid, "unknown_status", "%q is not a status", name)
}

// String returns the word that the API uses for s.
func (s Status) String() string {
	if s.Valid() {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Valid reports whether s is one of the declared statuses.
func (s Status) Valid() bool { return s >= StatusAccepted && s < statusEnd }

// Final reports whether no shard owner is responsible for a message in this status any more.
func (s Status) Final() bool { return s >= StatusDelivered && s < statusEnd }

// Shown reports whether a device has acknowledged a message in this status.
func (s Status) Shown() bool { return s == StatusDelivered || s == StatusRead }

// CanBecome reports whether a message may move from s to t in one transition.
func (s Status) CanBecome(t Status) bool {
	if !s.Valid() {
		return false
	}
	for _, n := range successors[s] {
		if n == t {
			return true
		}
	}
	return false
}

// Reason says in one stable word why a transition happened, where the status alone does not.
type Reason string

// The reasons of transitions.
const (
	ReasonNone             Reason = ""
	ReasonRecipientOffline Reason = "recipient_offline" // queued: no live connection
	ReasonBehindBacklog    Reason = "behind_backlog"    // queued: earlier messages of the recipient go first
	ReasonAckTimeout       Reason = "ack_timeout"       // an attempt failed: no acknowledgement in time
	ReasonConnectionLost   Reason = "connection_lost"   // an attempt failed: the last connection broke
	ReasonBehindRetry      Reason = "behind_retry"      // queued again, uncharged: an earlier message is retried first
	ReasonOwnerRestarted   Reason = "owner_restarted"   // queued again, uncharged: the shard changed hands in mid-send
	ReasonTTL              Reason = "ttl"               // expired
	ReasonByClient         Reason = "by_client"         // canceled
	ReasonAttempts         Reason = "attempts_exhausted"
	ReasonUndecodable      Reason = "undecodable"
	ReasonRefusedByStore   Reason = "refused_by_store"
	ReasonReplay           Reason = "replay"
	ReasonDiscarded        Reason = "discarded"            // perhaps followed by ": " and somebody's words
	ReasonLateAck          Reason = "late_acknowledgement" // delivered although already expired, canceled or undelivered
)

// Transition is one move of a message: an entry of its timeline.
type Transition struct {
	// Seq is the message's status_seq: 1 for accepted, then one more for each transition. A consumer
	// that keeps the highest is right whatever the order of arrival.
	Seq    uint32
	Status Status
	At     time.Time
	// Attempt is the number of the send attempt that the transition belongs to, 0 before the first.
	Attempt uint32
	Reason  Reason
}

// State is what is known of a message's life so far. The zero State belongs to no message; NewState
// starts one.
//
// Invariants: Timeline is not empty and ends in Status; its Seq values grow by one.
type State struct {
	Status Status
	// Attempts counts failed or running send attempts of this generation.
	Attempts uint32
	// Generation is 1, and one more for each replay from the dead-letter queue.
	Generation uint32
	// NotBefore is the earliest time of the next attempt, or of the first for a scheduled message.
	// Zero means at once.
	NotBefore time.Time
	Timeline  []Transition
}

// NewState returns the state of a message accepted at that time.
func NewState(at time.Time) State {
	return State{
		Status:     StatusAccepted,
		Generation: 1,
		// Four entries are the common life: accepted, queued, sent, delivered.
		Timeline: append(make([]Transition, 0, 4), Transition{Seq: 1, Status: StatusAccepted, At: at}),
	}
}

// Seq returns the status_seq of the last transition, 0 for the zero State.
func (s *State) Seq() uint32 {
	if len(s.Timeline) == 0 {
		return 0
	}
	return s.Timeline[len(s.Timeline)-1].Seq
}

// Move appends a transition. It reports false, and changes nothing, when the move is not legal.
func (s *State) Move(to Status, at time.Time, why Reason) bool {
	if !s.Status.CanBecome(to) {
		return false
	}
	s.Timeline = append(s.Timeline, Transition{Seq: s.Seq() + 1, Status: to, At: at, Attempt: s.Attempts, Reason: why})
	s.Status = to
	return true
}

// Last returns the newest transition, the zero one for the zero State.
func (s *State) Last() Transition {
	if len(s.Timeline) == 0 {
		return Transition{}
	}
	return s.Timeline[len(s.Timeline)-1]
}
