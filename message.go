package esh3ar

import (
	"crypto/sha256"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a message. They are part of the API's contract.
const (
	MaxRecipient      = 128      // characters of a normalised recipient
	MaxType           = 64       // bytes of a type label
	MaxIdempotencyKey = 255      // bytes of an Idempotency-Key
	MaxMessageBytes   = 64 << 10 // bytes of a message's JSON as sent
	MaxMetadata       = 32       // entries of the metadata map
	MaxMetadataKey    = 64       // bytes of a metadata key
	MaxMetadataValue  = 512      // bytes of a metadata value
	MaxTTL            = 366 * 24 * time.Hour
	MaxSchedule       = 366 * 24 * time.Hour // how far ahead send_at may lie
	MaxBatch          = 1000                 // messages of one batch request
	MaxBatchBytes     = 8 << 20              // bytes of one batch request
)

// Message is one message from a business client to one recipient. It is immutable once accepted;
// what becomes of it is its State.
type Message struct {
	ID ID
	// Client is the id of the sending client, From its name as devices see it, Tier its service
	// level when the message was accepted.
	Client string
	From   string
	Tier   Tier
	// To is the normalised recipient.
	To string
	// Type is the sender's short label, "" when there is none.
	Type string
	// Content is the text of a text message; Data the JSON of a data message. Exactly one is set.
	Content string
	Data    []byte
	// Metadata is nil when there is none.
	Metadata map[string]string
	// AcceptedAt is when the request was admitted. A time to live counts from it, or from SendAt if
	// that is later.
	AcceptedAt time.Time
	// SendAt is the earliest time of delivery, zero for at once.
	SendAt time.Time
	// ExpiresAt is when the message is worth nothing any more, zero for never.
	ExpiresAt time.Time
	// Key is the Idempotency-Key, "" without one; Digest is the digest of what the sender said that
	// tells a repetition from another message under the same key, zero without a key.
	Key    string
	Digest [sha256.Size]byte
	// Unchecked says that the message's key could not be looked up when it was accepted, because the
	// store did not answer. Whoever routes it asks first whether the store knows its ID.
	Unchecked bool
	// Stripped says that what the message carried, and perhaps more of it, is gone: the store refused it
	// for good as it was. It keeps its ID and Client; the whole is a raw dead letter. Nothing is delivered
	// of it any more.
	Stripped bool
	// TraceParent is the W3C traceparent of the request, "" without one.
	TraceParent string
}

// Expired reports whether the message's time to live has run out.
func (m *Message) Expired(now time.Time) bool {
	return !m.ExpiresAt.IsZero() && !now.Before(m.ExpiresAt)
}

// NormalizeRecipient returns the form of a recipient under which messages and device tokens meet.
//
// A telephone number, written with a leading + or 00 and any spaces, dashes, dots or parentheses,
// becomes E.164: + and 7 to 15 digits. Anything else of 1 to 128 characters is a user name and stays
// as it is but for surrounding white space. Its errors are of KindInvalid.
func NormalizeRecipient(s string) (string, error) {
	if plainName(s) || plainPhone(s) {
		return s, nil
	}
	if !utf8.ValidString(s) {
		return "", Errorf(KindInvalid, "recipient_not_utf8", "the recipient is not valid UTF-8")
	}
	s = strings.TrimSpace(s)
	if s == "" {
		return "", Errorf(KindInvalid, "recipient_empty", "the recipient is empty; give a telephone number or a user name")
	}
	if utf8.RuneCountInString(s) > MaxRecipient {
		return "", Errorf(KindInvalid, "recipient_too_long", "the recipient is longer than %d characters", MaxRecipient)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return "", Errorf(KindInvalid, "recipient_control_character", "the recipient holds the control character U+%04X", r)
		}
	}
	digits, phone := phoneDigits(s)
	switch {
	case phone && len(digits) >= 7 && len(digits) <= 15 && digits[0] != '0':
		return "+" + digits, nil
	case s[0] == '+':
		return "", Errorf(KindInvalid, "recipient_bad_phone", "a telephone number is + and 7 to 15 digits, as in +962791234567")
	}
	return s, nil
}

// plainName is the fast path: short ASCII names that no rule changes.
func plainName(s string) bool {
	if len(s) == 0 || len(s) > MaxRecipient || s[0] == '+' || s[0] == '0' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// plainPhone is the other fast path: numbers that are E.164 already.
func plainPhone(s string) bool {
	if len(s) < 1+7 || len(s) > 1+15 || s[0] != '+' || s[1] == '0' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// phoneDigits returns the digits after the international prefix, and whether s is written as a
// telephone number at all.
func phoneDigits(s string) (string, bool) {
	rest, ok := strings.CutPrefix(s, "+")
	if !ok {
		if rest, ok = strings.CutPrefix(s, "00"); !ok {
			return "", false
		}
	}
	b := make([]byte, 0, len(rest))
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c >= '0' && c <= '9':
			b = append(b, c)
		case c == ' ' || c == '-' || c == '.' || c == '(' || c == ')':
		default:
			return "", false
		}
	}
	return string(b), true
}
