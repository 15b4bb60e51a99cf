package protocol

import (
	"strconv"

	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

// AppendTranscoded appends a JSON value as MessagePack. Numbers become the
// shortest integer that holds them, or a 64-bit float. What is not valid JSON
// becomes nil.
func AppendTranscoded(dst, value []byte) []byte {
	s := jsonScanner{data: value}
	out, err := transcode(&s, dst)
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return msgpack.AppendNil(dst)
	}
	return out
}

func transcode(s *jsonScanner, dst []byte) ([]byte, error) {
	var err error
	switch s.space() {
	case '{':
		// The number of pairs is known only at their end: count first.
		n := 0
		ahead := *s
		if err := ahead.object(func([]byte) error { n++; _, err := ahead.value(); return err }); err != nil {
			return dst, err
		}
		dst = msgpack.AppendMapHeader(dst, n)
		err = s.object(func(key []byte) (err error) {
			dst = append(msgpack.AppendStringHeader(dst, len(key)), key...)
			dst, err = transcode(s, dst)
			return err
		})
	case '[':
		n := 0
		ahead := *s
		if err := ahead.array(func() error { n++; _, err := ahead.value(); return err }); err != nil {
			return dst, err
		}
		dst = msgpack.AppendArrayHeader(dst, n)
		err = s.array(func() (err error) {
			dst, err = transcode(s, dst)
			return err
		})
	case '"':
		var text []byte
		if text, err = s.str(); err == nil {
			dst = append(msgpack.AppendStringHeader(dst, len(text)), text...)
		}
	case 't', 'f':
		var v bool
		if v, err = s.boolean(); err == nil {
			dst = msgpack.AppendBool(dst, v)
		}
	case 'n':
		if err = s.word("null"); err == nil {
			dst = msgpack.AppendNil(dst)
		}
	default:
		start := s.pos
		if err = s.number(); err == nil {
			dst = appendNumber(dst, string(s.data[start:s.pos]))
		}
	}
	return dst, err
}

func appendNumber(dst []byte, text string) []byte {
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return msgpack.AppendInt(dst, i)
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return msgpack.AppendUint(dst, u)
	}
	f, _ := strconv.ParseFloat(text, 64) // infinite when out of range
	return msgpack.AppendFloat(dst, f)
}
