package ingest

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/esh3artech/esh3ar"
)

// maxDepth bounds how deep arrays and objects may nest in a request.
const maxDepth = 64

// scanner reads one JSON text (RFC 8259) from left to right, strictly: what it passes over is known to
// be well-formed. It takes for granted that the text is valid UTF-8. Escapes of lone surrogates are
// refused, because no device could be given such a string unchanged.
//
// The first fault of syntax sticks in err; every method then reports false. Methods that read a value
// expect pos at its first byte, where peek has left it.
type scanner struct {
	src     string
	pos     int
	err     *esh3ar.Error
	name    string // of the member that the last call of member found
	scratch []byte // the string that is being unescaped
}

// reset makes s ready to read src.
func (s *scanner) reset(src string) {
	s.src, s.pos, s.err, s.name = src, 0, nil, ""
}

// fail records a fault at the current position, unless there is one already. It reports false.
func (s *scanner) fail(what string) bool {
	return s.failAt(s.pos, what)
}

func (s *scanner) failAt(pos int, what string) bool {
	if s.err == nil {
		s.err = malformed(pos, what)
	}
	return false
}

// malformedCode is the code of a text that is not JSON.
const malformedCode = "malformed_json"

// malformed is the error of a text that is not JSON.
func malformed(pos int, what string) *esh3ar.Error {
	return esh3ar.Errorf(esh3ar.KindInvalid, malformedCode, "the body is not valid JSON: %s at byte %d", what, pos)
}

// peek skips white space and returns the byte after it, 0 at the end of the text.
func (s *scanner) peek() byte {
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// end reports whether nothing but white space is left.
func (s *scanner) end() bool {
	if s.err != nil {
		return false
	}
	if s.peek(); s.pos < len(s.src) {
		return s.fail("there is more after the end of the value")
	}
	return true
}

// member moves to the next member of an object and leaves its name in name and pos at its value. The
// first call, with n 0, is made at the opening brace; n counts the members found. It reports false
// behind the closing brace, and on a fault.
func (s *scanner) member(n int) bool {
	if s.err != nil {
		return false
	}
	c := s.peek()
	if n == 0 {
		s.pos++ // {
		if c = s.peek(); c == '}' {
			s.pos++
			return false
		}
	} else {
		switch c {
		case '}':
			s.pos++
			return false
		case ',':
			s.pos++
			c = s.peek()
		default:
			return s.fail("a comma or a closing brace is missing")
		}
	}
	if c != '"' {
		return s.fail("the name of a member is missing")
	}
	var ok bool
	if s.name, ok = s.str(); !ok {
		return false
	}
	if s.peek() != ':' {
		return s.fail("a colon is missing")
	}
	s.pos++
	s.peek()
	return true
}

// element is member for arrays: it leaves pos at the next element.
func (s *scanner) element(n int) bool {
	if s.err != nil {
		return false
	}
	c := s.peek()
	if n == 0 {
		s.pos++ // [
		if s.peek() == ']' {
			s.pos++
			return false
		}
		return true
	}
	switch c {
	case ']':
		s.pos++
		return false
	case ',':
		s.pos++
		s.peek()
		return true
	}
	return s.fail("a comma or a closing bracket is missing")
}

// str reads a string. The result is part of src where nothing is escaped.
func (s *scanner) str() (string, bool) {
	src, start := s.src, s.pos+1
	for i := start; i < len(src); i++ {
		switch c := src[i]; {
		case c == '"':
			s.pos = i + 1
			return src[start:i], true
		case c == '\\':
			s.scratch = append(s.scratch[:0], src[start:i]...)
			s.pos = i
			if !s.unescape(true) {
				return "", false
			}
			return string(s.scratch), true
		case c < ' ':
			return "", s.failAt(i, "a control character in a string is not escaped")
		}
	}
	s.pos = len(src)
	return "", s.fail("a string does not end")
}

// unescape reads the rest of a string from its first backslash on, and appends what it stands for to
// scratch if keep is set.
func (s *scanner) unescape(keep bool) bool {
	src := s.src
	for i := s.pos; i < len(src); {
		c := src[i]
		switch {
		case c == '"':
			s.pos = i + 1
			return true
		case c < ' ':
			return s.failAt(i, "a control character in a string is not escaped")
		case c != '\\':
			if keep {
				s.scratch = append(s.scratch, c)
			}
			i++
			continue
		}
		if i+1 == len(src) {
			break
		}
		var r rune
		n := 2
		switch src[i+1] {
		case '"', '\\', '/':
			r = rune(src[i+1])
		case 'b':
			r = '\b'
		case 'f':
			r = '\f'
		case 'n':
			r = '\n'
		case 'r':
			r = '\r'
		case 't':
			r = '\t'
		case 'u':
			var ok bool
			if r, n, ok = escapedRune(src[i:]); !ok {
				if n > 0 {
					return s.failAt(i, "half of a surrogate pair stands alone")
				}
				return s.failAt(i, "four hexadecimal digits are missing after \\u")
			}
		default:
			return s.failAt(i, "an unknown escape")
		}
		if keep {
			s.scratch = utf8.AppendRune(s.scratch, r)
		}
		i += n
	}
	s.pos = len(src)
	return s.fail("a string does not end")
}

// escapedRune reads the \u escape that src begins with, or the two that make up a surrogate pair. On
// a fault n is 0 if digits are missing and 6 if a surrogate stands alone.
func escapedRune(src string) (r rune, n int, ok bool) {
	if r, ok = hex4(src); !ok {
		return 0, 0, false
	}
	if !utf16.IsSurrogate(r) {
		return r, 6, true
	}
	if len(src) >= 8 && src[6] == '\\' && src[7] == 'u' {
		if low, ok := hex4(src[6:]); ok {
			if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
				return r, 12, true
			}
		}
	}
	return 0, 6, false
}

// hex4 reads the four digits of the \u escape that src begins with.
func hex4(src string) (rune, bool) {
	if len(src) < 6 {
		return 0, false
	}
	var r rune
	for i := 2; i < 6; i++ {
		switch c := src[i]; {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case 'A' <= c && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// number reads a number and returns it as written.
func (s *scanner) number() (string, bool) {
	src, start := s.src, s.pos
	i := start
	if i < len(src) && src[i] == '-' {
		i++
	}
	digits := func() bool {
		from := i
		for i < len(src) && '0' <= src[i] && src[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(src) && src[i] == '0' {
		i++
	} else if !digits() {
		return "", s.failAt(i, "a number has no digits")
	}
	if i < len(src) && src[i] == '.' {
		if i++; !digits() {
			return "", s.failAt(i, "a number has no digits after the point")
		}
	}
	if i < len(src) && (src[i] == 'e' || src[i] == 'E') {
		if i++; i < len(src) && (src[i] == '+' || src[i] == '-') {
			i++
		}
		if !digits() {
			return "", s.failAt(i, "a number has no digits in its exponent")
		}
	}
	s.pos = i
	return src[start:i], true
}

// word reads one of the literals true, false and null.
func (s *scanner) word(w string) bool {
	if len(s.src)-s.pos < len(w) || s.src[s.pos:s.pos+len(w)] != w {
		return s.fail("an unknown word")
	}
	s.pos += len(w)
	return true
}

// skip passes over one value of any type. Depth is how many arrays and objects enclose it.
func (s *scanner) skip(depth int) bool {
	if s.err != nil {
		return false
	}
	if depth >= maxDepth {
		s.err = esh3ar.Errorf(esh3ar.KindInvalid, "too_deep", "arrays and objects nest more than %d deep at byte %d", maxDepth, s.pos)
		return false
	}
	switch c := s.peek(); c {
	case '"':
		return s.skipText()
	case '{':
		// The names are checked and forgotten; they need no unescaping.
		s.pos++
		for n := 0; ; n++ {
			c := s.peek()
			switch {
			case c == '}' && n == 0:
				s.pos++
				return true
			case c != '"':
				return s.fail("the name of a member is missing")
			case !s.skipText():
				return false
			case s.peek() != ':':
				return s.fail("a colon is missing")
			}
			s.pos++
			if !s.skip(depth + 1) {
				return false
			}
			switch s.peek() {
			case '}':
				s.pos++
				return true
			case ',':
				s.pos++
			default:
				return s.fail("a comma or a closing brace is missing")
			}
		}
	case '[':
		for n := 0; s.element(n); n++ {
			if !s.skip(depth + 1) {
				return false
			}
		}
		return s.err == nil
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	case 0:
		if s.pos == len(s.src) {
			return s.fail("the text ends too early")
		}
		return s.fail("a value is missing")
	default:
		if c == '-' || '0' <= c && c <= '9' {
			_, ok := s.number()
			return ok
		}
		return s.fail("a value is missing")
	}
}

// skipText passes over a string.
func (s *scanner) skipText() bool {
	src := s.src
	for i := s.pos + 1; i < len(src); i++ {
		switch c := src[i]; {
		case c == '"':
			s.pos = i + 1
			return true
		case c == '\\':
			s.pos = i
			return s.unescape(false)
		case c < ' ':
			return s.failAt(i, "a control character in a string is not escaped")
		}
	}
	s.pos = len(src)
	return s.fail("a string does not end")
}

// typeName names the type of the value that begins with c, for messages to people.
func typeName(c byte) string {
	switch c {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// wrongType is the fault of a value of another type than the one wanted.
func wrongType(want string, got byte) *esh3ar.Error {
	return esh3ar.Errorf(esh3ar.KindInvalid, "wrong_type", "%s is wanted here, not %s", want, typeName(got))
}

// notAnObject is the error of a body, or of a message of a batch, that is another value than an object.
func notAnObject(got byte) *esh3ar.Error {
	return esh3ar.Errorf(esh3ar.KindInvalid, "not_an_object", "a JSON object is wanted, not %s", typeName(got))
}

// utf8Fault returns nil if text is valid UTF-8.
func utf8Fault(text []byte) *esh3ar.Error {
	if utf8.Valid(text) {
		return nil
	}
	at := 0
	for at < len(text) {
		r, n := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		at += n
	}
	return esh3ar.Errorf(esh3ar.KindInvalid, "invalid_utf8", "the body is not valid UTF-8 at byte %d", at)
}

// pointer returns the JSON pointer (RFC 6901) of a member below a parent's pointer.
func pointer(parent, name string) string {
	name = strings.ReplaceAll(name, "~", "~0")
	return parent + "/" + strings.ReplaceAll(name, "/", "~1")
}
