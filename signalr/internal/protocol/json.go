package protocol

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// RecordSeparator ends every JSON message, the handshake included.
const RecordSeparator = 0x1e

// JSON is the JSON hub protocol.
type JSON struct{}

// Name implements [Codec].
func (JSON) Name() string { return "json" }

// Binary implements [Codec].
func (JSON) Binary() bool { return false }

// Next implements [Codec].
func (JSON) Next(data []byte, max int) (message, rest []byte, err error) {
	i := bytes.IndexByte(data, RecordSeparator)
	if i < 0 {
		if len(data) > max {
			return nil, nil, ErrTooLong
		}
		return nil, nil, nil
	}
	if i > max {
		return nil, nil, ErrTooLong
	}
	return data[:i:i], data[i+1:], nil
}

// Parse implements [Codec].
func (JSON) Parse(message []byte, m *Message) error {
	m.reset()
	if !utf8.Valid(message) {
		return malformed(0, "invalid UTF-8")
	}
	s := jsonScanner{data: message}
	var (
		messageType                  int64
		hasType, hasTarget, hasArgs  bool
		hasItem, hasResult, hasError bool
		hasSequence                  bool
		item                         []byte
	)
	err := s.object(func(key []byte) (err error) {
		switch string(key) {
		case "type":
			hasType = true
			messageType, err = s.integer()
		case "invocationId":
			m.ID, err = s.strOrNull()
		case "target":
			m.Target, err = s.strOrNull()
			hasTarget = m.Target != nil
		case "arguments":
			hasArgs = true
			m.Args = m.Args[:0]
			err = s.array(func() error {
				arg, err := s.value()
				m.Args = append(m.Args, arg)
				return err
			})
		case "streamIds":
			m.StreamIDs = m.StreamIDs[:0]
			if s.space() == 'n' {
				return s.word("null")
			}
			err = s.array(func() error {
				id, err := s.str()
				m.StreamIDs = append(m.StreamIDs, id)
				return err
			})
		case "item":
			hasItem = true
			item, err = s.value()
		case "result":
			hasResult = true
			m.Value, err = s.value()
		case "error":
			m.Error, err = s.strOrNull()
			hasError = m.Error != nil
		case "allowReconnect":
			m.AllowReconnect, err = s.boolean()
		case "sequenceId":
			hasSequence = true
			m.SequenceID, err = s.integer()
		default:
			_, err = s.value()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.end(); err != nil {
		return err
	}
	if !hasType {
		return malformed(0, "message without type")
	}
	if messageType < int64(Invocation) || messageType > int64(Sequence) {
		return UnknownTypeError(messageType)
	}
	m.Type = Type(messageType)
	switch m.Type {
	case Invocation, StreamInvocation:
		if !hasTarget || !hasArgs {
			return malformed(0, "invocation without target or arguments")
		}
		if m.Type == StreamInvocation && len(m.ID) == 0 {
			return malformed(0, "stream invocation without id")
		}
	case StreamItem:
		if len(m.ID) == 0 || !hasItem {
			return malformed(0, "stream item without id or item")
		}
		m.Value = item
	case Completion:
		if len(m.ID) == 0 {
			return malformed(0, "completion without id")
		}
		if hasResult && hasError {
			return malformed(0, "completion with both result and error")
		}
	case CancelInvocation:
		if len(m.ID) == 0 {
			return malformed(0, "cancellation without id")
		}
	case Ack, Sequence:
		if !hasSequence {
			return malformed(0, "acknowledgement without sequence id")
		}
	}
	return nil
}

// Decode implements [Codec].
func (JSON) Decode(raw []byte, v any) error {
	switch p := v.(type) {
	case *string:
		if len(raw) > 0 && raw[0] == '"' {
			s := jsonScanner{data: raw}
			b, err := s.str()
			*p = string(b)
			return err
		}
	case *[]string:
		if len(raw) > 0 && raw[0] == '[' {
			return decodeJSONStrings(raw, p)
		}
	}
	return json.Unmarshal(raw, v)
}

// decodeJSONStrings decodes an array of strings with two allocations, however
// many they are: the strings without escapes share one copy of the text.
func decodeJSONStrings(raw []byte, p *[]string) error {
	s := jsonScanner{data: raw}
	n := bytes.Count(raw, []byte{','}) + 1
	all := string(raw)
	list := make([]string, 0, n)
	err := s.array(func() error {
		s.space()
		start := s.pos
		text, escaped, err := s.stringText()
		if err != nil {
			return err
		}
		if !escaped {
			list = append(list, all[start+1:start+1+len(text)])
			return nil
		}
		var v string
		if err := json.Unmarshal(raw[start:s.pos], &v); err != nil {
			return s.fail("bad JSON string")
		}
		list = append(list, v)
		return nil
	})
	if err != nil {
		return err
	}
	*p = list
	return nil
}

// AppendValue implements [Codec].
func (JSON) AppendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case Appender:
		return v.AppendJSON(dst), nil
	case string:
		return AppendJSONString(dst, v), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case []string:
		if v == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '[')
		for i, s := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendJSONString(dst, s)
		}
		return append(dst, ']'), nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	return append(dst, b...), nil
}

// AppendInvocation implements [Codec].
func (p JSON) AppendInvocation(dst []byte, t Type, id, target string, args []any, streamIDs []string) ([]byte, error) {
	dst = append(dst, `{"type":`...)
	dst = append(dst, '0'+byte(t), ',')
	// An invocation id of null or "" is an error to some clients: leave it
	// out.
	if id != "" {
		dst = append(dst, `"invocationId":`...)
		dst = AppendJSONString(dst, id)
		dst = append(dst, ',')
	}
	dst = append(dst, `"target":`...)
	dst = AppendJSONString(dst, target)
	dst = append(dst, `,"arguments":[`...)
	for i, arg := range args {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = p.AppendValue(dst, arg); err != nil {
			return dst, err
		}
	}
	dst = append(dst, ']')
	if len(streamIDs) > 0 {
		dst = append(dst, `,"streamIds":`...)
		dst, _ = p.AppendValue(dst, streamIDs)
	}
	return append(dst, '}', RecordSeparator), nil
}

// AppendWithID implements [Codec].
func (JSON) AppendWithID(dst, invocation []byte, id string) []byte {
	const prefix = len(`{"type":1,`)
	dst = append(dst, invocation[:prefix]...)
	dst = append(dst, `"invocationId":`...)
	dst = AppendJSONString(dst, id)
	dst = append(dst, ',')
	return append(dst, invocation[prefix:]...)
}

// AppendStreamItem implements [Codec].
func (p JSON) AppendStreamItem(dst []byte, id string, item any) ([]byte, error) {
	dst = append(dst, `{"type":2,"invocationId":`...)
	dst = AppendJSONString(dst, id)
	dst = append(dst, `,"item":`...)
	dst, err := p.AppendValue(dst, item)
	return append(dst, '}', RecordSeparator), err
}

// AppendCompletion implements [Codec].
func (p JSON) AppendCompletion(dst []byte, id string, outcome Outcome, value any) (_ []byte, err error) {
	dst = append(dst, `{"type":3,"invocationId":`...)
	dst = AppendJSONString(dst, id)
	switch outcome {
	case Result:
		dst = append(dst, `,"result":`...)
		dst, err = p.AppendValue(dst, value)
	case Failed:
		dst = append(dst, `,"error":`...)
		dst, err = p.AppendValue(dst, value)
	}
	return append(dst, '}', RecordSeparator), err
}

// AppendCancel implements [Codec].
func (JSON) AppendCancel(dst []byte, id string) []byte {
	dst = append(dst, `{"type":5,"invocationId":`...)
	dst = AppendJSONString(dst, id)
	return append(dst, '}', RecordSeparator)
}

// AppendPing implements [Codec].
func (JSON) AppendPing(dst []byte) []byte { return append(dst, "{\"type\":6}\x1e"...) }

// AppendClose implements [Codec].
func (JSON) AppendClose(dst []byte, text string, allowReconnect bool) []byte {
	dst = append(dst, `{"type":7`...)
	if text != "" {
		dst = append(dst, `,"error":`...)
		dst = AppendJSONString(dst, text)
	}
	if allowReconnect {
		dst = append(dst, `,"allowReconnect":true`...)
	}
	return append(dst, '}', RecordSeparator)
}

// AppendAck implements [Codec].
func (JSON) AppendAck(dst []byte, sequenceID int64) []byte {
	dst = strconv.AppendInt(append(dst, `{"type":8,"sequenceId":`...), sequenceID, 10)
	return append(dst, '}', RecordSeparator)
}

// AppendSequence implements [Codec].
func (JSON) AppendSequence(dst []byte, sequenceID int64) []byte {
	dst = strconv.AppendInt(append(dst, `{"type":9,"sequenceId":`...), sequenceID, 10)
	return append(dst, '}', RecordSeparator)
}
