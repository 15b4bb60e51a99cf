package protocol

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	vmsgpack "github.com/vmihailenco/msgpack/v5"

	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

// MessagePack is the MessagePack hub protocol. The messages themselves are
// read and written by hand; values that do not encode themselves go through
// reflection, under the names of their json struct tags.
type MessagePack struct{}

// Name implements [Codec].
func (MessagePack) Name() string { return "messagepack" }

// Binary implements [Codec].
func (MessagePack) Binary() bool { return true }

// maxPrefix is the longest length prefix: 32 bits, 7 in each byte.
const maxPrefix = 5

// Next implements [Codec].
func (MessagePack) Next(data []byte, max int) (message, rest []byte, err error) {
	length := uint64(0)
	for i := range maxPrefix {
		if i == len(data) {
			return nil, nil, nil
		}
		length |= uint64(data[i]&0x7f) << (7 * i)
		if data[i]&0x80 != 0 {
			continue
		}
		if length > uint64(max) {
			return nil, nil, ErrTooLong
		}
		start, end := i+1, i+1+int(length)
		if end > len(data) {
			return nil, nil, nil
		}
		return data[start:end:end], data[end:], nil
	}
	return nil, nil, malformed(0, "length prefix of more than %d bytes", maxPrefix)
}

// Parse implements [Codec].
func (MessagePack) Parse(message []byte, m *Message) error {
	m.reset()
	s := msgpackScanner{data: message}
	n, err := s.array()
	if err != nil {
		return err
	}
	if n == 0 {
		return s.fail("empty message")
	}
	t, err := s.integer()
	if err != nil {
		return err
	}
	if t < int64(Invocation) || t > int64(Sequence) {
		return UnknownTypeError(t)
	}
	m.Type = Type(t)
	read := 1
	// field tells whether the array has another field.
	field := func() bool { read++; return read <= n }
	need := func(fields int) error {
		if n < fields {
			return s.fail("message with too few fields")
		}
		return nil
	}
	if m.Type <= CancelInvocation {
		if err := need(3); err != nil {
			return err
		}
		if err := s.headers(); err != nil {
			return err
		}
		if m.ID, err = s.strOrNil(); err != nil {
			return err
		}
		if len(m.ID) == 0 && m.Type != Invocation {
			return s.fail("message without id")
		}
		read = 3
	}
	switch m.Type {
	case Invocation, StreamInvocation:
		if err := need(5); err != nil {
			return err
		}
		if m.Target, err = s.str(); err != nil {
			return err
		}
		if m.Args, err = s.values(m.Args, (*msgpackScanner).value); err != nil {
			return err
		}
		read = 5
		// Some clients leave the stream ids out.
		if field() {
			if m.StreamIDs, err = s.values(m.StreamIDs, (*msgpackScanner).str); err != nil {
				return err
			}
		}
	case StreamItem:
		if err := need(4); err != nil {
			return err
		}
		if m.Value, err = s.value(); err != nil {
			return err
		}
		read = 4
	case Completion:
		if err := need(4); err != nil {
			return err
		}
		kind, err := s.integer()
		if err != nil {
			return err
		}
		read = 4
		switch kind {
		case 1:
			if err := need(5); err != nil {
				return err
			}
			if m.Error, err = s.str(); err != nil {
				return err
			}
			read = 5
		case 2:
		case 3:
			if err := need(5); err != nil {
				return err
			}
			if m.Value, err = s.value(); err != nil {
				return err
			}
			read = 5
		default:
			return s.fail("unknown kind of completion")
		}
	case Close:
		if err := need(2); err != nil {
			return err
		}
		if m.Error, err = s.strOrNil(); err != nil {
			return err
		}
		read = 2
		if field() {
			if m.AllowReconnect, err = s.boolean(); err != nil {
				return err
			}
		}
	case Ack, Sequence:
		if err := need(2); err != nil {
			return err
		}
		if m.SequenceID, err = s.integer(); err != nil {
			return err
		}
		read = 2
	}
	// Newer peers may send more fields.
	for field() {
		if err := s.skip(); err != nil {
			return err
		}
	}
	if s.pos != len(message) {
		return s.fail("unexpected data after message")
	}
	return s.checkText(m)
}

// headers passes the headers of a message, of which nothing is used.
func (s *msgpackScanner) headers() error {
	if s.pos < len(s.data) {
		if c := s.data[s.pos]; c&0xf0 == 0x80 || c == 0xde || c == 0xdf || c == 0xc0 {
			return s.skip()
		}
	}
	return s.fail("MessagePack map expected")
}

// values passes an array and appends its elements to list.
func (s *msgpackScanner) values(list [][]byte, element func(*msgpackScanner) ([]byte, error)) ([][]byte, error) {
	n, err := s.array()
	if err != nil {
		return list, err
	}
	s.depth += 2 // this array and the message's
	for range n {
		v, err := element(s)
		if err != nil {
			return list, err
		}
		list = append(list, v)
	}
	s.depth -= 2
	return list, nil
}

// checkText checks the strings of the message itself.
func (s *msgpackScanner) checkText(m *Message) error {
	for _, text := range [][]byte{m.ID, m.Target, m.Error} {
		if !utf8.Valid(text) {
			return s.fail("invalid UTF-8")
		}
	}
	return nil
}

// Decode implements [Codec].
func (MessagePack) Decode(raw []byte, v any) error {
	switch p := v.(type) {
	case *string:
		if s := (msgpackScanner{data: raw}); len(raw) > 0 && raw[0] != 0xc0 {
			b, err := s.str()
			*p = string(bytes.ToValidUTF8(b, []byte("\uFFFD")))
			return err
		}
	case *[]string:
		if len(raw) > 0 && raw[0] != 0xc0 {
			return decodeMsgpackStrings(raw, p)
		}
	}
	d := vmsgpack.GetDecoder()
	defer vmsgpack.PutDecoder(d)
	d.Reset(bytes.NewReader(raw))
	d.SetCustomStructTag("json")
	d.UseLooseInterfaceDecoding(true)
	return d.Decode(v)
}

// decodeMsgpackStrings decodes an array of strings with two allocations: the
// strings share one copy of the data.
func decodeMsgpackStrings(raw []byte, p *[]string) error {
	s := msgpackScanner{data: raw}
	n, err := s.array()
	if err != nil {
		return err
	}
	all := string(raw)
	list := make([]string, 0, n)
	for range n {
		b, err := s.str()
		if err != nil {
			return err
		}
		list = append(list, strings.ToValidUTF8(all[s.pos-len(b):s.pos], "\uFFFD"))
	}
	*p = list
	return nil
}

// AppendValue implements [Codec].
func (MessagePack) AppendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return msgpack.AppendNil(dst), nil
	case Appender:
		return v.AppendMsgpack(dst), nil
	case string:
		return msgpack.AppendString(dst, v), nil
	case bool:
		return msgpack.AppendBool(dst, v), nil
	case int:
		return msgpack.AppendInt(dst, int64(v)), nil
	case int64:
		return msgpack.AppendInt(dst, v), nil
	case []string:
		if v == nil {
			return msgpack.AppendNil(dst), nil
		}
		dst = msgpack.AppendArrayHeader(dst, len(v))
		for _, s := range v {
			dst = msgpack.AppendString(dst, s)
		}
		return dst, nil
	case json.RawMessage:
		return AppendTranscoded(dst, v), nil
	}
	out := sliceWriter{dst}
	e := vmsgpack.GetEncoder()
	defer vmsgpack.PutEncoder(e)
	e.Reset(&out)
	e.SetCustomStructTag("json")
	e.UseCompactInts(true)
	e.SetOmitEmpty(false)
	err := e.Encode(v)
	return out.b, err
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// appendMessage appends a message and its length.
func appendMessage(dst []byte, body func(dst []byte) ([]byte, error)) ([]byte, error) {
	// Most messages are shorter than 128 bytes, and 16 KiB: leave room for a
	// prefix of two bytes and move the message if that is wrong.
	const guess = 2
	start := len(dst)
	dst, err := body(append(dst, 0, 0))
	if err != nil {
		return dst, err
	}
	length := len(dst) - start - guess
	var prefix [maxPrefix]byte
	n := 0
	for v := length; ; v >>= 7 {
		prefix[n] = byte(v & 0x7f)
		n++
		if v < 0x80 {
			break
		}
		prefix[n-1] |= 0x80
	}
	if n > guess {
		dst = append(dst, prefix[:n-guess]...)
	}
	copy(dst[start+n:], dst[start+guess:start+guess+length])
	copy(dst[start:], prefix[:n])
	return dst[:start+n+length], nil
}

// appendStart appends the beginning that messages 1 to 5 share: the array's
// header, the type, no headers, and the id.
func appendStart(dst []byte, fields int, t Type, id string) []byte {
	dst = msgpack.AppendArrayHeader(dst, fields)
	dst = append(dst, byte(t), 0x80)
	if id == "" {
		return msgpack.AppendNil(dst)
	}
	return msgpack.AppendString(dst, id)
}

// AppendInvocation implements [Codec].
func (p MessagePack) AppendInvocation(dst []byte, t Type, id, target string, args []any, streamIDs []string) ([]byte, error) {
	return appendMessage(dst, func(dst []byte) (_ []byte, err error) {
		dst = appendStart(dst, 6, t, id)
		dst = msgpack.AppendString(dst, target)
		dst = msgpack.AppendArrayHeader(dst, len(args))
		for _, arg := range args {
			if dst, err = p.AppendValue(dst, arg); err != nil {
				return dst, err
			}
		}
		dst = msgpack.AppendArrayHeader(dst, len(streamIDs))
		for _, s := range streamIDs {
			dst = msgpack.AppendString(dst, s)
		}
		return dst, nil
	})
}

// AppendWithID implements [Codec].
func (p MessagePack) AppendWithID(dst, invocation []byte, id string) []byte {
	message, _, _ := p.Next(invocation, len(invocation))
	dst, _ = appendMessage(dst, func(dst []byte) ([]byte, error) {
		const withoutID = 4 // array header, type, empty map, nil
		return append(appendStart(dst, 6, Invocation, id), message[withoutID:]...), nil
	})
	return dst
}

// AppendStreamItem implements [Codec].
func (p MessagePack) AppendStreamItem(dst []byte, id string, item any) ([]byte, error) {
	return appendMessage(dst, func(dst []byte) ([]byte, error) {
		return p.AppendValue(appendStart(dst, 4, StreamItem, id), item)
	})
}

// AppendCompletion implements [Codec].
func (p MessagePack) AppendCompletion(dst []byte, id string, outcome Outcome, value any) ([]byte, error) {
	return appendMessage(dst, func(dst []byte) ([]byte, error) {
		switch outcome {
		case Failed:
			return p.AppendValue(append(appendStart(dst, 5, Completion, id), 1), value)
		case Result:
			return p.AppendValue(append(appendStart(dst, 5, Completion, id), 3), value)
		}
		return append(appendStart(dst, 4, Completion, id), 2), nil
	})
}

// AppendCancel implements [Codec].
func (MessagePack) AppendCancel(dst []byte, id string) []byte {
	dst, _ = appendMessage(dst, func(dst []byte) ([]byte, error) {
		return appendStart(dst, 3, CancelInvocation, id), nil
	})
	return dst
}

// AppendPing implements [Codec].
func (MessagePack) AppendPing(dst []byte) []byte { return append(dst, 2, 0x91, byte(Ping)) }

// AppendClose implements [Codec].
func (MessagePack) AppendClose(dst []byte, text string, allowReconnect bool) []byte {
	dst, _ = appendMessage(dst, func(dst []byte) ([]byte, error) {
		dst = append(msgpack.AppendArrayHeader(dst, 3), byte(Close))
		if text == "" {
			dst = msgpack.AppendNil(dst)
		} else {
			dst = msgpack.AppendString(dst, text)
		}
		return msgpack.AppendBool(dst, allowReconnect), nil
	})
	return dst
}

// AppendAck implements [Codec].
func (MessagePack) AppendAck(dst []byte, sequenceID int64) []byte {
	return appendNumbered(dst, Ack, sequenceID)
}

// AppendSequence implements [Codec].
func (MessagePack) AppendSequence(dst []byte, sequenceID int64) []byte {
	return appendNumbered(dst, Sequence, sequenceID)
}

func appendNumbered(dst []byte, t Type, sequenceID int64) []byte {
	dst, _ = appendMessage(dst, func(dst []byte) ([]byte, error) {
		dst = append(msgpack.AppendArrayHeader(dst, 2), byte(t))
		return msgpack.AppendInt(dst, sequenceID), nil
	})
	return dst
}
