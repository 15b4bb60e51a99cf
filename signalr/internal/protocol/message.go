// Package protocol is the wire format of SignalR: the handshake and the hub
// messages in their JSON and MessagePack encodings. Server and client share
// it.
package protocol

import (
	"errors"
	"fmt"
)

// Type is the kind of a hub message.
type Type uint8

// The hub messages of the protocol.
const (
	Invocation       Type = 1
	StreamItem       Type = 2
	Completion       Type = 3
	StreamInvocation Type = 4
	CancelInvocation Type = 5
	Ping             Type = 6
	Close            Type = 7
	Ack              Type = 8
	Sequence         Type = 9
)

// Sequenced tells whether messages of the type are numbered, acknowledged and
// replayed by stateful reconnect.
func (t Type) Sequenced() bool { return t >= Invocation && t <= CancelInvocation }

// MaxDepth is how deep arrays and maps may be nested in a received message,
// the message itself included.
const MaxDepth = 64

// A Message is a hub message as it was received. Its byte slices alias the
// input of [Codec.Parse] or buffers of the Message itself and are valid until
// the next Parse into the same Message.
type Message struct {
	Type Type

	// ID is the invocation id: empty means that no answer is wanted.
	ID []byte

	// Target is the name of the method of an invocation.
	Target []byte

	// Args are the encoded arguments of an invocation.
	Args [][]byte

	// StreamIDs are the streams that come with an invocation.
	StreamIDs [][]byte

	// Value is the encoded item of a stream or the encoded result of a
	// completion, and nil for a completion without result.
	Value []byte

	// Error is the error of a completion or of a close message, and nil when
	// there is none. It may be empty and yet be an error.
	Error []byte

	// AllowReconnect belongs to a close message.
	AllowReconnect bool

	// SequenceID belongs to an acknowledgement or a sequence message.
	SequenceID int64
}

// reset makes the message empty but keeps its slices' memory.
func (m *Message) reset() {
	*m = Message{Args: m.Args[:0], StreamIDs: m.StreamIDs[:0]}
}

// Outcome is what a completion says.
type Outcome uint8

// The outcomes.
const (
	Void   Outcome = iota // completed without a result
	Result                // completed with a result
	Failed                // completed with an error
)

// A Codec is one encoding of hub messages.
//
// The Append methods add one whole message, with its framing, to dst. An
// error leaves the content of dst beyond its length undefined.
type Codec interface {
	// Name is the protocol's name in the handshake.
	Name() string

	// Binary tells whether messages need a transport for binary data.
	Binary() bool

	// Next splits the first message off data. Both results are nil when data
	// holds only a part of it. It fails when the message is longer than max
	// bytes, or its length is not a length.
	Next(data []byte, max int) (message, rest []byte, err error)

	// Parse reads a message that Next returned. An unknown type is an
	// [UnknownTypeError].
	Parse(message []byte, m *Message) error

	// Decode stores an encoded value, that Parse has returned, in what v
	// points to.
	Decode(raw []byte, v any) error

	// AppendValue encodes any value.
	AppendValue(dst []byte, v any) ([]byte, error)

	AppendInvocation(dst []byte, t Type, id, target string, args []any, streamIDs []string) ([]byte, error)

	// AppendWithID appends an invocation that AppendInvocation encoded
	// without an id, and gives it one.
	AppendWithID(dst, invocation []byte, id string) []byte

	AppendStreamItem(dst []byte, id string, item any) ([]byte, error)

	// AppendCompletion appends a completion whose value is a result or, for
	// Failed, the error's text as a string.
	AppendCompletion(dst []byte, id string, outcome Outcome, value any) ([]byte, error)

	AppendCancel(dst []byte, id string) []byte
	AppendPing(dst []byte) []byte

	// AppendClose appends a close message. An empty text means no error.
	AppendClose(dst []byte, text string, allowReconnect bool) []byte

	AppendAck(dst []byte, sequenceID int64) []byte
	AppendSequence(dst []byte, sequenceID int64) []byte
}

// An Appender is a value that encodes itself.
type Appender interface {
	AppendJSON(dst []byte) []byte
	AppendMsgpack(dst []byte) []byte
}

// ErrTooLong is returned for a message that exceeds the limit.
var ErrTooLong = errors.New("message too long")

// An UnknownTypeError is returned for a well-formed message of a type that
// the protocol does not have.
type UnknownTypeError int64

func (e UnknownTypeError) Error() string { return fmt.Sprintf("unknown message type %d", int64(e)) }

// A FormatError says what is wrong with a message.
type FormatError struct {
	What   string
	Offset int // in the message
}

func (e *FormatError) Error() string { return fmt.Sprintf("%s at byte %d", e.What, e.Offset) }

func malformed(offset int, format string, args ...any) error {
	return &FormatError{What: fmt.Sprintf(format, args...), Offset: offset}
}
