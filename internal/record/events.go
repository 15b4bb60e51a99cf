package record

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/esh3artech/esh3ar"
)

// Field numbers of esh3ar.journal.v1.EventBlock and Event.
const (
	fieldBlockEvents = 1

	fieldEventMessage = 1
	fieldEventClient  = 2
	fieldEventTo      = 3
	fieldEventSeq     = 4
	fieldEventStatus  = 5
	fieldEventAtDelta = 6
	fieldEventAttempt = 7
	fieldEventReason  = 8
	fieldEventTrace   = 9
)

// EventBlock collects the encoding of a run of events. Each event is written as its difference from
// the one before. The zero EventBlock is empty and ready to use.
type EventBlock struct {
	buf  []byte
	last esh3ar.Event
	at   int64 // of last, in microseconds
	n    int
}

// Reset empties the block and keeps its memory.
func (b *EventBlock) Reset() {
	b.buf = b.buf[:0]
	b.last, b.at, b.n = esh3ar.Event{}, 0, 0
}

// Len returns the number of events.
func (b *EventBlock) Len() int { return b.n }

// Bytes returns the encoding, which the next Add or Reset overwrites.
func (b *EventBlock) Bytes() []byte { return b.buf }

// Add appends an event. Times are kept to the microsecond.
func (b *EventBlock) Add(e *esh3ar.Event) {
	dst := protowire.AppendTag(b.buf, fieldBlockEvents, protowire.BytesType)
	// One byte of length is reserved; an event with long names is moved up.
	start := len(dst)
	dst = append(dst, 0)
	if b.n == 0 || e.Message != b.last.Message {
		dst = protowire.AppendTag(dst, fieldEventMessage, protowire.BytesType)
		dst = protowire.AppendBytes(dst, e.Message[:])
		if b.n == 0 || e.Client != b.last.Client {
			dst = protowire.AppendTag(dst, fieldEventClient, protowire.BytesType)
			dst = protowire.AppendString(dst, e.Client)
		}
		if b.n == 0 || e.To != b.last.To {
			dst = protowire.AppendTag(dst, fieldEventTo, protowire.BytesType)
			dst = protowire.AppendString(dst, e.To)
		}
	}
	if e.Seq != b.last.Seq+1 {
		dst = protowire.AppendTag(dst, fieldEventSeq, protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(e.Seq))
	}
	at := e.At.UnixMicro()
	dst = appendVarint(dst, fieldEventStatus, uint64(e.Status))
	dst = appendVarint(dst, fieldEventAtDelta, protowire.EncodeZigZag(at-b.at))
	dst = appendVarint(dst, fieldEventAttempt, uint64(e.Attempt))
	dst = appendString(dst, fieldEventReason, string(e.Reason))
	if e.TraceParent != b.last.TraceParent {
		dst = protowire.AppendTag(dst, fieldEventTrace, protowire.BytesType)
		dst = protowire.AppendString(dst, e.TraceParent)
	}
	if size := len(dst) - start - 1; size < 0x80 {
		dst[start] = byte(size)
	} else {
		more := protowire.SizeVarint(uint64(size)) - 1
		for range more {
			dst = append(dst, 0)
		}
		copy(dst[start+1+more:], dst[start+1:start+1+size])
		protowire.AppendVarint(dst[:start], uint64(size))
	}
	b.buf = dst
	b.last = *e
	b.at = at
	b.n++
}

// AppendEvents decodes a block and appends its events to dst. An error means that block is not what
// an EventBlock wrote; dst is then returned with the events before the fault.
func AppendEvents(dst []esh3ar.Event, block []byte) ([]esh3ar.Event, error) {
	var last esh3ar.Event
	var at int64
	for len(block) > 0 {
		num, typ, n := protowire.ConsumeTag(block)
		if n < 0 {
			return dst, fmt.Errorf("record: event block tag: %w", protowire.ParseError(n))
		}
		block = block[n:]
		if num != fieldBlockEvents || typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, block); n < 0 {
				return dst, fmt.Errorf("record: event block field %d: %w", num, protowire.ParseError(n))
			}
			block = block[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(block)
		if n < 0 {
			return dst, fmt.Errorf("record: event: %w", protowire.ParseError(n))
		}
		block = block[n:]
		delta, err := decodeEvent(v, &last)
		if err != nil {
			return dst, err
		}
		if last.Message == (esh3ar.ID{}) {
			return dst, errors.New("record: event block begins without a message")
		}
		at += delta
		last.At = time.UnixMicro(at).UTC()
		dst = append(dst, last)
	}
	return dst, nil
}

// decodeEvent turns e, the event before, into the event that b encodes, but for its time, whose
// difference it returns.
func decodeEvent(b []byte, e *esh3ar.Event) (delta int64, err error) {
	e.Seq++
	e.Status, e.Attempt, e.Reason = 0, 0, esh3ar.ReasonNone
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, fmt.Errorf("record: event tag: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return 0, fmt.Errorf("record: event field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldEventMessage:
				if len(v) != len(e.Message) {
					return 0, fmt.Errorf("record: event with a message id of %d bytes", len(v))
				}
				copy(e.Message[:], v)
			case fieldEventClient:
				e.Client = string(v)
			case fieldEventTo:
				e.To = string(v)
			case fieldEventReason:
				e.Reason = internReason(v)
			case fieldEventTrace:
				e.TraceParent = string(v)
			}
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0, fmt.Errorf("record: event field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldEventSeq:
				e.Seq = uint32(v)
			case fieldEventStatus:
				e.Status = esh3ar.Status(v)
			case fieldEventAtDelta:
				delta = protowire.DecodeZigZag(v)
			case fieldEventAttempt:
				e.Attempt = uint32(v)
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return 0, fmt.Errorf("record: event field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	if !e.Status.Valid() {
		return 0, fmt.Errorf("record: event of unknown status %d", uint8(e.Status))
	}
	return delta, nil
}
