package delivery

import (
	"time"

	"github.com/esh3artech/esh3ar"
)

// Conn names a live connection of the recipient. Zero names none.
type Conn uint64

// Params are the rules of delivery, the same for all recipients of a node.
type Params struct {
	// Window is the largest number of messages in flight to one recipient; WindowBytes bounds their
	// payload, but one message may always fly.
	Window      int
	WindowBytes int
	// Hold is the largest number of arrivals held in memory for one recipient while earlier messages
	// go first. Beyond it they are parked in the store.
	Hold int
	// Settle is how long a change may be known to memory alone before it is saved.
	Settle time.Duration
	// AckTimeout is how long a device may take to acknowledge.
	AckTimeout time.Duration
	// MaxAttempts is the number of failed attempts after which a message is undelivered.
	MaxAttempts int
	Backoff     Backoff
	// Strikes is the number of failed attempts in a row that opens the recipient's circuit breaker; 0
	// means never. Pause is how long it stays open before one message may try; it doubles with each
	// further failure, six times at most.
	Strikes int
	Pause   time.Duration
}

// Item is one message in memory. It belongs to one Recipient, which alone changes it.
type Item struct {
	Message *esh3ar.Message
	State   esh3ar.State
	// Ord is the message's place in its shard's order. Arrivals of one recipient have growing Ords.
	Ord uint64
	// Saved says that the store has, or has been asked for, a row of this message. The driver's
	// effects are carried out in order, so a later effect may rely on it.
	Saved bool
	// Unsaved is the index in State.Timeline of the first transition that no effect has handed out.
	Unsaved int
	// Aside says, on arrival, that the client has more than its share in memory: the message waits in the
	// store for its turn, also if the recipient is connected.
	Aside bool
	// Origin is the driver's: where the message came from. The core does not look at it.
	Origin any

	deadline time.Time // in flight: when the attempt has failed
}

func (it *Item) size() int {
	return len(it.Message.Content) + len(it.Message.Data) + 256
}

// Action says what an Effect asks the driver to do.
type Action uint8

const (
	// Send: give Item to connection Conn, or to every attached connection when Conn is 0.
	Send Action = iota + 1
	// Save: store Item's state, which is not final. It may stay in memory.
	Save
	// Park: store Item's state; it has left memory, to be read back later.
	Park
	// Done: store Item's final state; it has left memory.
	Done
	// Read: fetch waiting rows with After < Ord < Before (0: no bound), at most Limit, and bring
	// them with Page and the same Ticket. It may see the store as of any moment between now and then.
	// At most one is out.
	Read
	// Late: the device acknowledged (or read) a message that is not in memory. Look its row up, no
	// earlier than when all earlier effects of the recipient are committed (the message may have been
	// settled a moment ago), and bring it with Settle. There may be none, or another recipient's: then
	// it is none of the device's business, and nothing is to be done.
	Late
	// Open: the recipient's circuit breaker is open Until then. Nothing is to be done but to tell it.
	Open
	// Close: the recipient's circuit breaker is closed again.
	Close
)

// Effect is one thing for the driver to do. The stores of one recipient (Save, Park, Done) are committed
// in the order of their effects. Changes of one message that are not committed yet may be joined into
// the earliest; as in the store, the highest status_seq wins.
type Effect struct {
	Action Action
	Item   *Item // Send, Save, Park, Done
	// State is Item's state at the time of the effect; NewFrom the index of its first transition
	// that no earlier effect handed out; Fresh says that no earlier effect stored the message.
	State   esh3ar.State
	NewFrom int
	Fresh   bool
	// Report says that the driver reports with Parked when this effect and all before it are
	// committed. It is set where a row changes that memory no longer holds, and that a Read might
	// still see as it was.
	Report bool

	Conn Conn // Send

	Ticket        uint64 // Read
	After, Before uint64
	Limit         int

	Until time.Time // Open

	ID   esh3ar.ID // Late
	Read bool      // Late: a read receipt rather than an acknowledgement
}
