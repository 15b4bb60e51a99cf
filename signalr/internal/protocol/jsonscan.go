package protocol

import (
	"encoding/json"
	"unicode/utf8"
)

// A jsonScanner walks over JSON text without building anything. It accepts
// exactly what RFC 8259 does, nested at most MaxDepth deep, so that a slice of
// its input that it has passed can be handed on as a valid value.
type jsonScanner struct {
	data  []byte
	pos   int
	depth int
}

func (s *jsonScanner) fail(what string) error { return &FormatError{What: what, Offset: s.pos} }

// space skips white space and returns the next byte, or 0 at the end.
func (s *jsonScanner) space() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// value passes one value and returns its text.
func (s *jsonScanner) value() ([]byte, error) {
	c := s.space()
	start := s.pos
	var err error
	switch {
	case c == '{':
		err = s.object(func([]byte) error { _, err := s.value(); return err })
	case c == '[':
		err = s.array(func() error { _, err := s.value(); return err })
	case c == '"':
		_, _, err = s.stringText()
	case c == '-' || c >= '0' && c <= '9':
		err = s.number()
	case c == 't':
		err = s.word("true")
	case c == 'f':
		err = s.word("false")
	case c == 'n':
		err = s.word("null")
	default:
		err = s.fail("JSON value expected")
	}
	return s.data[start:s.pos], err
}

func (s *jsonScanner) word(w string) error {
	if len(s.data)-s.pos < len(w) || string(s.data[s.pos:s.pos+len(w)]) != w {
		return s.fail("JSON value expected")
	}
	s.pos += len(w)
	return nil
}

// object passes an object and calls member for each key, with the scanner
// standing before the value, which member must pass.
func (s *jsonScanner) object(member func(key []byte) error) error {
	if s.space() != '{' {
		return s.fail("JSON object expected")
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.pos++
	if s.space() == '}' {
		s.pos++
		s.depth--
		return nil
	}
	for {
		if s.space() != '"' {
			return s.fail("JSON object key expected")
		}
		key, err := s.str()
		if err != nil {
			return err
		}
		if s.space() != ':' {
			return s.fail("':' expected")
		}
		s.pos++
		if err := member(key); err != nil {
			return err
		}
		switch s.space() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			s.depth--
			return nil
		default:
			return s.fail("',' or '}' expected")
		}
	}
}

// array passes an array and calls element for each element, with the scanner
// standing before it.
func (s *jsonScanner) array(element func() error) error {
	if s.space() != '[' {
		return s.fail("JSON array expected")
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.pos++
	if s.space() == ']' {
		s.pos++
		s.depth--
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch s.space() {
		case ',':
			s.pos++
		case ']':
			s.pos++
			s.depth--
			return nil
		default:
			return s.fail("',' or ']' expected")
		}
	}
}

func (s *jsonScanner) enter() error {
	if s.depth == MaxDepth {
		return s.fail("JSON nested too deeply")
	}
	s.depth++
	return nil
}

// stringText passes a string and returns what is between its quotes and
// whether that contains escapes.
func (s *jsonScanner) stringText() (text []byte, escaped bool, err error) {
	if s.space() != '"' {
		return nil, false, s.fail("JSON string expected")
	}
	s.pos++
	start := s.pos
	data := s.data
	for i := start; i < len(data); {
		c := data[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		s.pos = i
		switch c {
		case '"':
			s.pos++
			return data[start:i], escaped, nil
		case '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
			i = s.pos
		default:
			return nil, false, s.fail("control character in JSON string")
		}
	}
	s.pos = len(data)
	return nil, false, s.fail("JSON string not ended")
}

func (s *jsonScanner) escape() error {
	s.pos++
	if s.pos == len(s.data) {
		return s.fail("JSON string not ended")
	}
	switch s.data[s.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		if len(s.data)-s.pos < 5 {
			return s.fail("JSON string not ended")
		}
		for _, c := range s.data[s.pos+1 : s.pos+5] {
			if !isHex(c) {
				return s.fail("bad \\u escape")
			}
		}
		s.pos += 5
		return nil
	}
	return s.fail("bad escape in JSON string")
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// str passes a string and returns its value. The result aliases the input
// unless the string contains escapes.
func (s *jsonScanner) str() ([]byte, error) {
	s.space()
	start := s.pos
	text, escaped, err := s.stringText()
	if err != nil || !escaped {
		return text, err
	}
	var v string
	if err := json.Unmarshal(s.data[start:s.pos], &v); err != nil {
		return nil, s.fail("bad JSON string")
	}
	return []byte(v), nil
}

// strOrNull is str, with nil for null. An empty string is not nil.
func (s *jsonScanner) strOrNull() ([]byte, error) {
	if s.space() == 'n' {
		return nil, s.word("null")
	}
	return s.str()
}

func (s *jsonScanner) number() error {
	at := func() byte {
		if s.pos < len(s.data) {
			return s.data[s.pos]
		}
		return 0
	}
	digits := func() bool {
		start := s.pos
		for c := at(); c >= '0' && c <= '9'; c = at() {
			s.pos++
		}
		return s.pos > start
	}
	if at() == '-' {
		s.pos++
	}
	if at() == '0' {
		s.pos++
	} else if !digits() {
		return s.fail("bad JSON number")
	}
	if at() == '.' {
		s.pos++
		if !digits() {
			return s.fail("bad JSON number")
		}
	}
	if c := at(); c == 'e' || c == 'E' {
		s.pos++
		if c := at(); c == '+' || c == '-' {
			s.pos++
		}
		if !digits() {
			return s.fail("bad JSON number")
		}
	}
	return nil
}

// integer passes an integer that fits into 53 bits.
func (s *jsonScanner) integer() (int64, error) {
	s.space()
	start := s.pos
	if err := s.number(); err != nil {
		return 0, err
	}
	const limit = 1 << 53
	var n int64
	text, negative := s.data[start:s.pos], false
	if text[0] == '-' {
		text, negative = text[1:], true
	}
	for _, c := range text {
		if c < '0' || c > '9' || n > limit/10 {
			return 0, s.fail("integer expected")
		}
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, nil
}

func (s *jsonScanner) boolean() (bool, error) {
	if s.space() == 't' {
		return true, s.word("true")
	}
	return false, s.word("false")
}

// end checks that nothing but white space is left.
func (s *jsonScanner) end() error {
	s.space()
	if s.pos < len(s.data) {
		return s.fail("unexpected data after JSON value")
	}
	return nil
}

const hexDigits = "0123456789abcdef"

// AppendJSONString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD.
func AppendJSONString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			case '\t':
				dst = append(dst, '\\', 't')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\uFFFD"...)
			i++
			start = i
			continue
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
