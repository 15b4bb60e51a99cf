package ingest

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
)

// maxFaults bounds how many faults of one message are told at once.
const maxFaults = 16

// draft is a message as its sender wrote it: read and checked, not yet accepted.
type draft struct {
	to       string // normalised
	label    string // type
	content  string
	data     []byte // JSON, a part of the text that was read; nil for a text message
	metadata map[string]string
	ttl      time.Duration // 0 for none
	sendAt   time.Time     // as sent, even if it lies in the past; zero for none
	key      string        // idempotency key, "" without one
}

// A member is one of the fields that a message may have, as a bit.
type member uint

const (
	memberTo member = 1 << iota
	memberContent
	memberData
	memberType
	memberMetadata
	memberTTL
	memberSendAt
	memberKey
)

// memberOf returns the member of that name, 0 if a message has none.
func memberOf(name string) member {
	switch name {
	case "to":
		return memberTo
	case "content":
		return memberContent
	case "data":
		return memberData
	case "type":
		return memberType
	case "metadata":
		return memberMetadata
	case "ttl":
		return memberTTL
	case "send_at":
		return memberSendAt
	case "idempotency_key":
		return memberKey
	}
	return 0
}

// decoder reads messages. It is used again and again: the draft that read leaves is valid until the
// next call, and while the text that was read does not change.
type decoder struct {
	scanner
	draft
	text   []byte // what is read
	now    time.Time
	faults faults
	given  member // the members that are there and not null
	plain  []byte // what digest hashes
}

// read reads the JSON of one message. Only in a batch may it carry its own idempotency_key.
//
// The error is an *esh3ar.Error if the text is no JSON object, and faults with everything that is
// wrong with the message otherwise. A member whose value is null counts as left out, because many
// serialisers write the optional members that way.
func (d *decoder) read(text []byte, now time.Time, inBatch bool) error {
	d.draft = draft{}
	d.now, d.given = now, 0
	if err := d.open(text); err != nil {
		return err
	}
	var seen member
	for n := 0; d.member(n); n++ {
		m := memberOf(d.name)
		switch {
		case m == 0:
			d.fault(pointer("", clip(d.name)), "unknown_field", "a message has no such field")
			d.skip(1)
		case m == memberKey && !inBatch:
			d.fault("/idempotency_key", "unknown_field", "the key of a single message goes into the Idempotency-Key header")
			d.skip(1)
		case seen&m != 0:
			d.fault("/"+d.name, "duplicate_field", "the field is given twice")
			d.skip(1)
		default:
			d.value(m)
		}
		seen |= m
	}
	if !d.end() {
		return d.err
	}
	d.complete()
	if len(d.faults) > 0 {
		return d.faults
	}
	return nil
}

// open begins to read text, up to the brace of the object that it is to be.
func (d *decoder) open(text []byte) error {
	d.text, d.faults = text, nil // callers keep the faults of an earlier text
	if err := utf8Fault(text); err != nil {
		return err
	}
	d.reset(string(text))
	c := d.peek()
	switch {
	case c == '{':
		return nil
	case d.pos == len(d.src):
		return esh3ar.Errorf(esh3ar.KindInvalid, "body_empty", "the body is empty; send a JSON object")
	case d.skip(0) && d.end():
		return notAnObject(c)
	}
	return d.err
}

// fault records what is wrong with the member at that pointer.
func (d *decoder) fault(at, code, format string, args ...any) {
	d.refuse(at, esh3ar.Errorf(esh3ar.KindInvalid, code, format, args...))
}

func (d *decoder) refuse(at string, err error) {
	if len(d.faults) < maxFaults {
		d.faults = append(d.faults, asError(err).At(at))
	}
}

// value reads the value of a member. Faults of syntax are left in err.
func (d *decoder) value(m member) {
	c := d.peek()
	if c == 'n' {
		d.word("null")
		return
	}
	d.given |= m
	switch m {
	case memberData:
		start := d.pos
		if d.skip(1) {
			d.data = d.text[start:d.pos]
		}
		return
	case memberMetadata:
		d.readMetadata(c)
		return
	case memberTTL:
		d.readTTL(c)
		return
	}
	if c != '"' {
		at := "/" + d.name
		if d.skip(1) {
			d.refuse(at, wrongType("a string", c))
		}
		return
	}
	s, ok := d.str()
	if !ok {
		return
	}
	var err error
	switch m {
	case memberTo:
		if d.to, err = esh3ar.NormalizeRecipient(s); err != nil {
			d.refuse("/to", err)
		}
	case memberContent:
		if d.content = s; s == "" {
			d.fault("/content", "content_empty", "the content is empty")
		}
	case memberType:
		if d.label = s; len(s) > esh3ar.MaxType {
			d.fault("/type", "type_too_long", "a type has at most %d bytes", esh3ar.MaxType)
		} else if strings.ContainsFunc(s, isControl) {
			d.fault("/type", "type_control_character", "a type holds no control characters")
		}
	case memberSendAt:
		d.readSendAt(s)
	case memberKey:
		if d.key, err = idempotencyKey(s); err != nil {
			d.refuse("/idempotency_key", err)
		}
	}
}

// readMetadata reads a flat object of strings.
func (d *decoder) readMetadata(c byte) {
	const at = "/metadata"
	if c != '{' {
		if d.skip(1) {
			d.refuse(at, wrongType("an object of strings", c))
		}
		return
	}
	for n := 0; d.member(n); n++ {
		name := d.name
		if n == esh3ar.MaxMetadata {
			d.fault(at, "metadata_too_many", "metadata has at most %d entries", esh3ar.MaxMetadata)
		}
		if c := d.peek(); c != '"' {
			if !d.skip(2) {
				return
			}
			d.refuse(pointer(at, clip(name)), wrongType("a string", c))
			continue
		}
		value, ok := d.str()
		if !ok {
			return
		}
		_, twice := d.metadata[name]
		switch {
		case twice:
			d.fault(pointer(at, clip(name)), "duplicate_field", "the entry is given twice")
		case name == "" || len(name) > esh3ar.MaxMetadataKey:
			d.fault(pointer(at, clip(name)), "metadata_key_length", "a metadata key has 1 to %d bytes", esh3ar.MaxMetadataKey)
		case strings.ContainsFunc(name, isControl):
			d.fault(pointer(at, name), "metadata_key_control_character", "a metadata key holds no control characters")
		case len(value) > esh3ar.MaxMetadataValue:
			d.fault(pointer(at, name), "metadata_value_too_long", "a metadata value has at most %d bytes", esh3ar.MaxMetadataValue)
		case strings.IndexByte(value, 0) >= 0:
			d.fault(pointer(at, name), "metadata_value_nul", "a metadata value holds no NUL character")
		case n < esh3ar.MaxMetadata:
			if d.metadata == nil {
				d.metadata = make(map[string]string, 4)
			}
			d.metadata[name] = value
		}
	}
}

// readTTL reads a number of whole seconds.
func (d *decoder) readTTL(c byte) {
	const at, most = "/ttl", int64(esh3ar.MaxTTL / time.Second)
	ttl, err := d.seconds(c, most)
	if err != nil {
		d.refuse(at, err)
	}
	d.ttl = ttl
}

// seconds reads a duration of 1 to most whole seconds. The error tells what is wrong with the number;
// faults of syntax are left in err.
func (s *scanner) seconds(c byte, most int64) (time.Duration, error) {
	if c != '-' && (c < '0' || c > '9') {
		if s.skip(1) {
			return 0, wrongType("a number of whole seconds", c)
		}
		return 0, nil
	}
	digits, ok := s.number()
	switch {
	case !ok:
		return 0, nil
	case strings.ContainsAny(digits, ".eE"):
		return 0, esh3ar.Errorf(esh3ar.KindInvalid, "not_whole_seconds", "write the duration as a whole number of seconds")
	case c == '-' || c == '0':
		return 0, esh3ar.Errorf(esh3ar.KindInvalid, "duration_too_short", "the duration is at least 1 second")
	}
	var n int64
	for i := 0; i < len(digits) && n <= most; i++ {
		n = n*10 + int64(digits[i]-'0')
	}
	if n > most {
		return 0, esh3ar.Errorf(esh3ar.KindInvalid, "duration_too_long", "the duration is at most %d seconds", most)
	}
	return time.Duration(n) * time.Second, nil
}

// readSendAt reads the time of delivery.
func (d *decoder) readSendAt(s string) {
	t, err := parseTime(s)
	if err != nil {
		d.refuse("/send_at", err)
		return
	}
	if t.After(d.now.Add(esh3ar.MaxSchedule)) {
		d.fault("/send_at", "send_at_too_far", "send_at lies at most %d days ahead", esh3ar.MaxSchedule/(24*time.Hour))
	}
	d.sendAt = t
}

// parseTime reads an RFC 3339 time, to the microsecond. Its error is of KindInvalid.
func parseTime(s string) (time.Time, error) {
	var t time.Time
	// Unlike time.Parse, UnmarshalText holds to RFC 3339 strictly.
	if len(s) > 64 || t.UnmarshalText([]byte(s)) != nil {
		return time.Time{}, esh3ar.Errorf(esh3ar.KindInvalid, "bad_time", "write a time by RFC 3339, as in 2026-11-25T08:30:00Z")
	}
	return t.UTC().Truncate(time.Microsecond), nil
}

// complete checks what concerns the message as a whole.
func (d *decoder) complete() {
	if d.given&memberTo == 0 {
		d.fault("/to", "recipient_missing", "give the recipient in to: a telephone number or a user name")
	}
	switch d.given & (memberContent | memberData) {
	case 0:
		d.fault("", "body_missing", "give either content, a text, or data, any JSON")
	case memberContent | memberData:
		d.fault("", "content_and_data", "give either content or data, not both")
	}
}

// digest returns what tells a repetition of the message from another message under the same key. It
// covers what the sender said, not how it was written: the order of members, white space outside of
// data and escapes do not count, nor whether the message came alone or in a batch. Data counts as
// written.
func (d *decoder) digest() [sha256.Size]byte {
	b := d.plain[:0]
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	str(d.to)
	str(d.label)
	str(d.content)
	b = binary.AppendUvarint(b, uint64(len(d.data)))
	b = append(b, d.data...)
	b = binary.AppendUvarint(b, uint64(d.ttl/time.Second))
	var at int64
	if !d.sendAt.IsZero() {
		at = d.sendAt.UnixMicro()
	}
	b = binary.AppendVarint(b, at)
	if len(d.metadata) > 0 {
		for _, k := range slices.Sorted(maps.Keys(d.metadata)) {
			str(k)
			str(d.metadata[k])
		}
	}
	d.plain = b
	return sha256.Sum256(b)
}

// fill sets m to what the sender said, as accepted at that time.
func (d *decoder) fill(m *esh3ar.Message, at time.Time) {
	*m = esh3ar.Message{
		To:         d.to,
		Type:       d.label,
		Content:    d.content,
		Data:       d.data,
		Metadata:   d.metadata,
		AcceptedAt: at,
		Key:        d.key,
	}
	from := at
	if d.sendAt.After(at) {
		m.SendAt = d.sendAt
		from = d.sendAt
	}
	if d.ttl > 0 {
		m.ExpiresAt = from.Add(d.ttl)
	}
}

// idempotencyKey checks a key and returns it. Its error is of KindInvalid.
func idempotencyKey(s string) (string, error) {
	if s == "" || len(s) > esh3ar.MaxIdempotencyKey {
		return "", esh3ar.Errorf(esh3ar.KindInvalid, "idempotency_key_length", "an idempotency key has 1 to %d bytes", esh3ar.MaxIdempotencyKey)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return "", esh3ar.Errorf(esh3ar.KindInvalid, "idempotency_key_not_ascii", "an idempotency key holds printable ASCII characters alone")
		}
	}
	return s, nil
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r <= 0x9f }

// clip shortens a name that a caller made up to what is fit to be shown.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
