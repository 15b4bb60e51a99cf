// Package record encodes what outlives a process or crosses to another node: the message record of the
// journal and the timeline column of the store. The encoding is Protocol Buffers (record.proto, which
// is the specification); it is written by hand over protowire because the accept path encodes every
// message once and dispatch decodes it once.
package record

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/esh3artech/esh3ar"
)

// Field numbers of esh3ar.journal.v1.Message. They are stored: never reuse one.
const (
	fieldID          = 1
	fieldClient      = 2
	fieldFrom        = 3
	fieldTier        = 4
	fieldTo          = 5
	fieldType        = 6
	fieldContent     = 7
	fieldData        = 8
	fieldMetadata    = 9
	fieldAcceptedAt  = 10
	fieldSendAt      = 11
	fieldExpiresAt   = 12
	fieldKey         = 13
	fieldDigest      = 14
	fieldTraceParent = 15
	fieldUnchecked   = 16
	fieldStripped    = 17

	fieldMapKey   = 1
	fieldMapValue = 2
)

// AppendMessage appends the encoding of m to dst. Times are kept to the microsecond. Equal messages
// have equal encodings.
func AppendMessage(dst []byte, m *esh3ar.Message) []byte {
	dst = protowire.AppendTag(dst, fieldID, protowire.BytesType)
	dst = protowire.AppendBytes(dst, m.ID[:])
	dst = appendString(dst, fieldClient, m.Client)
	dst = appendString(dst, fieldFrom, m.From)
	dst = appendVarint(dst, fieldTier, uint64(m.Tier))
	dst = appendString(dst, fieldTo, m.To)
	dst = appendString(dst, fieldType, m.Type)
	// content and data are a oneof: the set one is written even when empty.
	if m.Data != nil {
		dst = protowire.AppendTag(dst, fieldData, protowire.BytesType)
		dst = protowire.AppendBytes(dst, m.Data)
	} else {
		dst = protowire.AppendTag(dst, fieldContent, protowire.BytesType)
		dst = protowire.AppendString(dst, m.Content)
	}
	if len(m.Metadata) > 0 {
		for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
			v := m.Metadata[k]
			size := protowire.SizeTag(fieldMapKey) + protowire.SizeBytes(len(k)) +
				protowire.SizeTag(fieldMapValue) + protowire.SizeBytes(len(v))
			dst = protowire.AppendTag(dst, fieldMetadata, protowire.BytesType)
			dst = protowire.AppendVarint(dst, uint64(size))
			dst = protowire.AppendTag(dst, fieldMapKey, protowire.BytesType)
			dst = protowire.AppendString(dst, k)
			dst = protowire.AppendTag(dst, fieldMapValue, protowire.BytesType)
			dst = protowire.AppendString(dst, v)
		}
	}
	dst = appendTime(dst, fieldAcceptedAt, m.AcceptedAt)
	dst = appendTime(dst, fieldSendAt, m.SendAt)
	dst = appendTime(dst, fieldExpiresAt, m.ExpiresAt)
	if m.Key != "" {
		dst = appendString(dst, fieldKey, m.Key)
		dst = protowire.AppendTag(dst, fieldDigest, protowire.BytesType)
		dst = protowire.AppendBytes(dst, m.Digest[:])
	}
	dst = appendString(dst, fieldTraceParent, m.TraceParent)
	dst = appendVarint(dst, fieldUnchecked, protowire.EncodeBool(m.Unchecked))
	return appendVarint(dst, fieldStripped, protowire.EncodeBool(m.Stripped))
}

// AppendRow is AppendMessage for a message's row in a store, without its idempotency key and digest: the store
// keeps these where it finds them by the key, and the row would say them twice.
func AppendRow(dst []byte, m *esh3ar.Message) []byte {
	if m.Key == "" {
		return AppendMessage(dst, m)
	}
	row := *m
	row.Key = ""
	return AppendMessage(dst, &row)
}

// DecodeMessage decodes what AppendMessage or AppendRow wrote, into m. Unknown fields are skipped, so that a newer
// version's records stay readable. The decoded message does not keep b.
//
// An error means that b is no message record; m is then undefined.
func DecodeMessage(b []byte, m *esh3ar.Message) error {
	*m = esh3ar.Message{}
	body := false
	t := text{all: string(b)} // all strings of m are parts of this one
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("record: message tag: %w", protowire.ParseError(n))
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fmt.Errorf("record: message field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldID:
				if copy(m.ID[:], v) != len(m.ID) || len(v) != len(m.ID) {
					return fmt.Errorf("record: message id of %d bytes", len(v))
				}
			case fieldClient:
				m.Client = t.last(v, b)
			case fieldFrom:
				m.From = t.last(v, b)
			case fieldTo:
				m.To = t.last(v, b)
			case fieldType:
				m.Type = t.last(v, b)
			case fieldContent:
				m.Content, m.Data, body = t.last(v, b), nil, true
			case fieldData:
				m.Content, m.Data, body = "", append([]byte{}, v...), true
			case fieldMetadata:
				if err := decodeEntry(v, text{t.last(v, b)}, m); err != nil {
					return err
				}
			case fieldKey:
				m.Key = t.last(v, b)
			case fieldDigest:
				if copy(m.Digest[:], v) != len(m.Digest) || len(v) != len(m.Digest) {
					return fmt.Errorf("record: message digest of %d bytes", len(v))
				}
			case fieldTraceParent:
				m.TraceParent = t.last(v, b)
			}
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return fmt.Errorf("record: message field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
			switch num {
			case fieldTier:
				if v >= esh3ar.Tiers {
					return fmt.Errorf("record: message tier %d", v)
				}
				m.Tier = esh3ar.Tier(v)
			case fieldAcceptedAt:
				m.AcceptedAt = decodeTime(v)
			case fieldSendAt:
				m.SendAt = decodeTime(v)
			case fieldExpiresAt:
				m.ExpiresAt = decodeTime(v)
			case fieldUnchecked:
				m.Unchecked = protowire.DecodeBool(v)
			case fieldStripped:
				m.Stripped = protowire.DecodeBool(v)
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return fmt.Errorf("record: message field %d: %w", num, protowire.ParseError(n))
			}
			b = b[n:]
		}
	}
	switch {
	case m.ID == esh3ar.ID{}:
		return fmt.Errorf("record: message without an id")
	case m.To == "" || m.Client == "":
		return fmt.Errorf("record: message %s without a recipient or a client", m.ID)
	case !body:
		return fmt.Errorf("record: message %s without content or data", m.ID)
	case m.AcceptedAt.IsZero():
		return fmt.Errorf("record: message %s without a time of acceptance", m.ID)
	}
	return nil
}

// text is a record as a string.
type text struct{ all string }

// last returns v, which ends where rest, the rest of the record, begins.
func (t text) last(v, rest []byte) string {
	end := len(t.all) - len(rest)
	return t.all[end-len(v) : end]
}

func decodeEntry(b []byte, t text, m *esh3ar.Message) error {
	var key, value string
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("record: metadata: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if typ == protowire.BytesType && (num == fieldMapKey || num == fieldMapValue) {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return fmt.Errorf("record: metadata: %w", protowire.ParseError(n))
			}
			b = b[n:]
			if num == fieldMapKey {
				key = t.last(v, b)
			} else {
				value = t.last(v, b)
			}
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return fmt.Errorf("record: metadata: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	if m.Metadata == nil {
		m.Metadata = make(map[string]string, 4)
	}
	m.Metadata[key] = value
	return nil
}

func appendString(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), s)
}

func appendVarint(dst []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), v)
}

// appendTime writes t as microseconds since 1970, the zero time as an absent field.
func appendTime(dst []byte, num protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	return appendVarint(dst, num, uint64(t.UnixMicro()))
}

func decodeTime(v uint64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(v)).UTC()
}
