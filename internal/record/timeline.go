package record

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/esh3artech/esh3ar"
)

// Field numbers of esh3ar.journal.v1.State and Transition.
const (
	fieldStateAttempts   = 1
	fieldStateGeneration = 2
	fieldStateNotBefore  = 3
	fieldStateTimeline   = 4

	fieldMoveSeq     = 1
	fieldMoveStatus  = 2
	fieldMoveAt      = 3
	fieldMoveAttempt = 4
	fieldMoveReason  = 5
)

// AppendState appends the encoding of s to dst. The status is the timeline's last.
func AppendState(dst []byte, s *esh3ar.State) []byte {
	dst = appendVarint(dst, fieldStateAttempts, uint64(s.Attempts))
	dst = appendVarint(dst, fieldStateGeneration, uint64(s.Generation))
	dst = appendTime(dst, fieldStateNotBefore, s.NotBefore)
	for i := range s.Timeline {
		dst = protowire.AppendTag(dst, fieldStateTimeline, protowire.BytesType)
		// One byte of length is reserved and holds for every transition with a reason under 100
		// bytes; a longer one is moved up.
		at := len(dst)
		dst = append(dst, 0)
		dst = AppendTransition(dst, &s.Timeline[i])
		size := len(dst) - at - 1
		if size < 0x80 {
			dst[at] = byte(size)
			continue
		}
		body := append([]byte(nil), dst[at+1:]...)
		dst = protowire.AppendBytes(dst[:at], body)
	}
	return dst
}

// DecodeState decodes what AppendState wrote. An error means that b is no state with at least one
// transition.
func DecodeState(b []byte) (esh3ar.State, error) {
	var s esh3ar.State
	s.Timeline = make([]esh3ar.Transition, 0, 4)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return s, fmt.Errorf("record: state tag: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return s, fmt.Errorf("record: state field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldStateAttempts:
				s.Attempts = uint32(v)
			case fieldStateGeneration:
				s.Generation = uint32(v)
			case fieldStateNotBefore:
				s.NotBefore = decodeTime(v)
			}
		case typ == protowire.BytesType && num == fieldStateTimeline:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return s, fmt.Errorf("record: timeline: %w", protowire.ParseError(n))
			}
			b = b[n:]
			t, err := DecodeTransition(v)
			if err != nil {
				return s, err
			}
			s.Timeline = append(s.Timeline, t)
			s.Status = t.Status
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return s, fmt.Errorf("record: state field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	if len(s.Timeline) == 0 {
		return s, fmt.Errorf("record: state without a timeline")
	}
	return s, nil
}

// AppendTransition appends the encoding of t to dst.
func AppendTransition(dst []byte, t *esh3ar.Transition) []byte {
	dst = appendVarint(dst, fieldMoveSeq, uint64(t.Seq))
	dst = appendVarint(dst, fieldMoveStatus, uint64(t.Status))
	dst = appendTime(dst, fieldMoveAt, t.At)
	dst = appendVarint(dst, fieldMoveAttempt, uint64(t.Attempt))
	return appendString(dst, fieldMoveReason, string(t.Reason))
}

// DecodeTransition decodes what AppendTransition wrote. An error means that b is no transition to a
// known status.
func DecodeTransition(b []byte) (esh3ar.Transition, error) {
	var t esh3ar.Transition
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return t, fmt.Errorf("record: transition tag: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return t, fmt.Errorf("record: transition field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldMoveSeq:
				t.Seq = uint32(v)
			case fieldMoveStatus:
				t.Status = esh3ar.Status(v)
			case fieldMoveAt:
				t.At = decodeTime(v)
			case fieldMoveAttempt:
				t.Attempt = uint32(v)
			}
		case typ == protowire.BytesType && num == fieldMoveReason:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return t, fmt.Errorf("record: transition reason: %w", protowire.ParseError(n))
			}
			b = b[n:]
			t.Reason = internReason(v)
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return t, fmt.Errorf("record: transition field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	if !t.Status.Valid() {
		return t, fmt.Errorf("record: transition to unknown status %d", uint8(t.Status))
	}
	return t, nil
}

// internReason avoids an allocation for the reasons that waiting messages have by the thousand.
func internReason(b []byte) esh3ar.Reason {
	switch string(b) {
	case string(esh3ar.ReasonRecipientOffline):
		return esh3ar.ReasonRecipientOffline
	case string(esh3ar.ReasonBehindBacklog):
		return esh3ar.ReasonBehindBacklog
	case string(esh3ar.ReasonAckTimeout):
		return esh3ar.ReasonAckTimeout
	case string(esh3ar.ReasonConnectionLost):
		return esh3ar.ReasonConnectionLost
	}
	return esh3ar.Reason(b)
}
