package signalr

// An Appender is a value that encodes itself. Arguments and results that
// implement it are written without reflection and without another check, so
// what it appends must be exactly one valid value.
type Appender interface {
	AppendJSON(dst []byte) []byte
	AppendMsgpack(dst []byte) []byte
}

// A Message is an invocation prepared for sending: it is encoded at most once
// for each protocol, when first needed, however many connections it is sent
// to. It may be used from many goroutines; its arguments must not be changed.
type Message struct{}

// NewMessage prepares the invocation of a client's method. Arguments that are
// not an [Appender] are encoded by encoding/json or, for MessagePack, by
// reflection over the same json struct tags.
func NewMessage(target string, args ...any) *Message { panic("not yet") }

// RawJSON is an [Appender] of JSON that is known to be valid. For MessagePack
// connections it is transcoded.
type RawJSON []byte

// AppendJSON implements [Appender].
func (j RawJSON) AppendJSON(dst []byte) []byte { return append(dst, j...) }

// AppendMsgpack implements [Appender].
func (j RawJSON) AppendMsgpack(dst []byte) []byte { panic("not yet") }

// AppendJSONString appends s as a JSON string.
func AppendJSONString(dst []byte, s string) []byte { panic("not yet") }
