package hub

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

// receiveMessage is the method of the device that takes a message.
const receiveMessage = "ReceiveMessage"

// Frame is one attempt to deliver one message, encoded once for each protocol however many devices it
// goes to.
type Frame struct {
	id      esh3ar.ID
	message *signalr.Message
}

// NewFrame returns the frame of that attempt, counted from 1. The message must not change.
func NewFrame(m *esh3ar.Message, attempt uint32) *Frame {
	return &Frame{id: m.ID, message: signalr.NewMessage(receiveMessage, &payload{m, attempt})}
}

// payload is the argument of ReceiveMessage:
//
//	{"id", "from", "content" | "data", "type"?, "metadata"?, "traceparent"?, "accepted_at", "attempt"}
type payload struct {
	m       *esh3ar.Message
	attempt uint32
}

// AppendJSON implements signalr.Appender. The data of a message was checked when it was accepted, and
// goes out as it came in.
func (p *payload) AppendJSON(dst []byte) []byte {
	m := p.m
	dst = append(dst, `{"id":"`...)
	dst = m.ID.Append(dst)
	dst = append(dst, `","from":`...)
	dst = signalr.AppendJSONString(dst, m.From)
	if m.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, m.Data...)
	} else {
		dst = append(dst, `,"content":`...)
		dst = signalr.AppendJSONString(dst, m.Content)
	}
	if m.Type != "" {
		dst = append(dst, `,"type":`...)
		dst = signalr.AppendJSONString(dst, m.Type)
	}
	if len(m.Metadata) > 0 {
		sep := byte('{')
		dst = append(dst, `,"metadata":`...)
		for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
			dst = append(dst, sep)
			dst = signalr.AppendJSONString(dst, k)
			dst = append(dst, ':')
			dst = signalr.AppendJSONString(dst, m.Metadata[k])
			sep = ','
		}
		dst = append(dst, '}')
	}
	if m.TraceParent != "" {
		dst = append(dst, `,"traceparent":`...)
		dst = signalr.AppendJSONString(dst, m.TraceParent)
	}
	dst = append(dst, `,"accepted_at":"`...)
	dst = m.AcceptedAt.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","attempt":`...)
	dst = strconv.AppendUint(dst, uint64(p.attempt), 10)
	return append(dst, '}')
}

// AppendMsgpack implements signalr.Appender.
func (p *payload) AppendMsgpack(dst []byte) []byte {
	m := p.m
	n := 5
	if m.Type != "" {
		n++
	}
	if len(m.Metadata) > 0 {
		n++
	}
	if m.TraceParent != "" {
		n++
	}
	dst = msgpack.AppendMapHeader(dst, n)
	dst = msgpack.AppendString(dst, "id")
	dst = msgpack.AppendString(dst, m.ID.String())
	dst = msgpack.AppendString(dst, "from")
	dst = msgpack.AppendString(dst, m.From)
	if m.Data != nil {
		dst = msgpack.AppendString(dst, "data")
		dst = signalr.RawJSON(m.Data).AppendMsgpack(dst)
	} else {
		dst = msgpack.AppendString(dst, "content")
		dst = msgpack.AppendString(dst, m.Content)
	}
	if m.Type != "" {
		dst = msgpack.AppendString(dst, "type")
		dst = msgpack.AppendString(dst, m.Type)
	}
	if len(m.Metadata) > 0 {
		dst = msgpack.AppendString(dst, "metadata")
		dst = msgpack.AppendMapHeader(dst, len(m.Metadata))
		for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
			dst = msgpack.AppendString(dst, k)
			dst = msgpack.AppendString(dst, m.Metadata[k])
		}
	}
	if m.TraceParent != "" {
		dst = msgpack.AppendString(dst, "traceparent")
		dst = msgpack.AppendString(dst, m.TraceParent)
	}
	dst = msgpack.AppendString(dst, "accepted_at")
	dst = msgpack.AppendString(dst, m.AcceptedAt.UTC().Format(time.RFC3339Nano))
	dst = msgpack.AppendString(dst, "attempt")
	return msgpack.AppendUint(dst, uint64(p.attempt))
}
