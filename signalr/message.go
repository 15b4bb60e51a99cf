package signalr

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// An Appender is a value that encodes itself. Arguments and results that
// implement it are written without reflection and without another check, so
// what it appends must be exactly one valid value. The package
// [github.com/esh3artech/esh3ar/signalr/msgpack] and [AppendJSONString] help.
type Appender interface {
	AppendJSON(dst []byte) []byte
	AppendMsgpack(dst []byte) []byte
}

// A Message is an invocation prepared for sending: it is encoded at most once
// for each protocol, when first needed, however many connections it is sent
// to. It may be used from many goroutines; its arguments must not be changed.
type Message struct {
	target string
	args   []any
	few    [2]any // memory of args, mostly

	mu      sync.Mutex
	json    encoding
	msgpack encoding
}

// An encoding is an invocation without id in one protocol. data and err are
// immutable once done is set.
type encoding struct {
	done atomic.Bool
	data []byte
	err  error
}

// NewMessage prepares the invocation of a client's method. Arguments that are
// not an [Appender] are encoded by encoding/json or, for MessagePack, by
// reflection over the same json struct tags.
func NewMessage(target string, args ...any) *Message {
	m := &Message{target: target}
	m.args = append(m.few[:0], args...)
	return m
}

func (m *Message) encoding(codec protocol.Codec) *encoding {
	if codec.Binary() {
		return &m.msgpack
	}
	return &m.json
}

// encoded returns the encoding if it was made already, or nil.
func (m *Message) encoded(codec protocol.Codec) []byte {
	if e := m.encoding(codec); e.done.Load() && e.err == nil {
		return e.data
	}
	return nil
}

// encode returns the encoding of the message without id. The result must not
// be changed.
func (m *Message) encode(codec protocol.Codec) ([]byte, error) {
	e := m.encoding(codec)
	if !e.done.Load() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !e.done.Load() {
			e.data, e.err = encodeClone(func(dst []byte) ([]byte, error) {
				return codec.AppendInvocation(dst, protocol.Invocation, "", m.target, m.args, nil)
			})
			if e.err != nil {
				e.err = fmt.Errorf("signalr: encoding a message for %q: %w", m.target, e.err)
			}
			e.done.Store(true)
		}
	}
	return e.data, e.err
}

// scratches are buffers for encoding. What is kept is copied out at its exact
// size, because it may wait in many outboxes for long.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

const maxScratch = 64 << 10

func encodeClone(appendTo func(dst []byte) ([]byte, error)) ([]byte, error) {
	scratch := scratches.Get().(*[]byte)
	b, err := appendTo((*scratch)[:0])
	var data []byte
	if err == nil {
		data = bytes.Clone(b)
	}
	if cap(b) <= maxScratch {
		*scratch = b
	}
	scratches.Put(scratch)
	return data, err
}

// RawJSON is an [Appender] of JSON that is known to be valid. For MessagePack
// connections it is transcoded.
type RawJSON []byte

// AppendJSON implements [Appender].
func (j RawJSON) AppendJSON(dst []byte) []byte { return append(dst, j...) }

// AppendMsgpack implements [Appender].
func (j RawJSON) AppendMsgpack(dst []byte) []byte { return protocol.AppendTranscoded(dst, j) }

// AppendJSONString appends s as a JSON string, with its quotes.
func AppendJSONString(dst []byte, s string) []byte { return protocol.AppendJSONString(dst, s) }
