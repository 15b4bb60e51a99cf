package ingest

import (
	"io"
	"strings"

	"github.com/esh3artech/esh3ar"
)

// windowSize holds any message that is not too large, and what follows it.
const windowSize = esh3ar.MaxMessageBytes + 4<<10

// window reads the body of a batch as a stream and cuts the messages out of it. Only as much of the
// body is in memory as its buffer holds.
type window struct {
	body     io.Reader
	buf      []byte
	pos, end int // what is unread of buf
	total    int // bytes read from body
	// oversize says that the last element was too large and was skipped.
	oversize bool
}

func (w *window) reset(body io.Reader) {
	*w = window{body: body, buf: w.buf}
}

// offset returns where in the body pos is.
func (w *window) offset() int { return w.total - (w.end - w.pos) }

// more reads on behind end, keeping what lies from keep on, which moves to the front; it returns
// false at the end of the body. There must be room.
func (w *window) more(keep int) (bool, error) {
	if keep > 0 {
		copy(w.buf, w.buf[keep:w.end])
		w.pos -= keep
		w.end -= keep
	}
	for range 100 { // empty reads
		n, err := w.body.Read(w.buf[w.end:])
		w.end += n
		w.total += n
		switch {
		case w.total > esh3ar.MaxBatchBytes:
			return false, tooLarge(esh3ar.MaxBatchBytes)
		case n > 0:
			return true, nil
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, bodyError(err)
		}
	}
	return false, bodyError(io.ErrNoProgress)
}

// peek skips white space and returns the byte after it, 0 at the end of the body.
func (w *window) peek() (byte, error) {
	for {
		for w.pos < w.end {
			switch c := w.buf[w.pos]; c {
			case ' ', '\t', '\n', '\r':
				w.pos++
			default:
				return c, nil
			}
		}
		if more, err := w.more(w.pos); !more {
			return 0, err
		}
	}
}

// expect passes over the given byte.
func (w *window) expect(c byte, what string) error {
	got, err := w.peek()
	switch {
	case err != nil:
		return err
	case got != c || w.pos == w.end:
		return malformed(w.offset(), what)
	}
	w.pos++
	return nil
}

// openMessages reads up to the first element of the array of messages.
func (w *window) openMessages() error {
	c, err := w.peek()
	switch {
	case err != nil:
		return err
	case w.pos == w.end:
		return esh3ar.Errorf(esh3ar.KindInvalid, "body_empty", "the body is empty; send a JSON object with the field messages")
	case strings.IndexByte(`["-0123456789tfn`, c) >= 0:
		return notAnObject(c) // or no JSON; what follows is not looked at
	}
	if err := w.expect('{', "an object with the field messages is missing"); err != nil {
		return err
	}
	c, err = w.peek()
	if err != nil {
		return err
	}
	if c == '}' {
		return messagesMissing()
	}
	if err := w.field(); err != nil {
		return err
	}
	c, err = w.peek()
	switch {
	case err != nil:
		return err
	case c != '[' && c != 0:
		return faults{wrongType("an array of messages", c).At("/messages")}
	}
	return w.expect('[', "an array of messages is missing")
}

func messagesMissing() error {
	return faults{esh3ar.Errorf(esh3ar.KindInvalid, "messages_missing", "give the messages in the field messages, an array").At("/messages")}
}

// field reads the name of a field, which must be messages, and the colon.
func (w *window) field() error {
	if c, err := w.peek(); err != nil {
		return err
	} else if c != '"' {
		return malformed(w.offset(), "the name of a member is missing")
	}
	start := w.offset()
	text, err := w.value()
	if err != nil {
		return err
	}
	if text == nil {
		return malformed(start, "a name is too long")
	}
	var s scanner
	s.reset(string(text))
	name, ok := s.str()
	switch {
	case !ok:
		return s.err
	case name != "messages":
		return faults{esh3ar.Errorf(esh3ar.KindInvalid, "unknown_field", "a batch has the field messages alone").At(pointer("", clip(strings.ToValidUTF8(name, "\ufffd"))))}
	}
	return w.expect(':', "a colon is missing")
}

// element returns the text of the next message, which is valid until the next call. N is how many
// there were before. It returns nil behind the last one, and for one that is too large.
func (w *window) element(n int) ([]byte, error) {
	w.oversize = false
	c, err := w.peek()
	if err != nil {
		return nil, err
	}
	switch {
	case c == ']':
		w.pos++
		return nil, nil
	case n > 0:
		if err := w.expect(',', "a comma or a closing bracket is missing"); err != nil {
			return nil, err
		}
		if _, err = w.peek(); err != nil {
			return nil, err
		}
	}
	text, err := w.value()
	w.oversize = err == nil && text == nil
	return text, err
}

// value returns the text of the value that begins at pos, or nil if it is larger than a message may
// be; it is skipped then. It looks at brackets and strings alone: who decodes the text finds what is
// wrong in it.
func (w *window) value() ([]byte, error) {
	start, tooLarge := w.pos, false
	depth, quoted, escaped := 0, false, false
	for {
		for ; w.pos < w.end; w.pos++ {
			c := w.buf[w.pos]
			last := false // c is the value's last byte
			switch {
			case escaped:
				escaped = false
			case quoted:
				escaped = c == '\\'
				quoted = c != '"'
				last = c == '"' && depth == 0
			case c == '"':
				quoted = true
			case c == '{' || c == '[':
				depth++
			case c == '}' || c == ']':
				if depth == 0 { // of what encloses the value
					return w.cut(start, tooLarge)
				}
				depth--
				last = depth == 0
			case depth == 0 && (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\n' || c == '\r'):
				return w.cut(start, tooLarge)
			}
			if last {
				w.pos++
				return w.cut(start, tooLarge)
			}
		}
		if w.pos-start > esh3ar.MaxMessageBytes {
			tooLarge = true
		}
		if tooLarge {
			start = w.pos
		}
		more, err := w.more(start)
		start = 0
		switch {
		case err != nil:
			return nil, err
		case !more:
			return nil, malformed(w.offset(), "the text ends too early")
		}
	}
}

// cut returns what lies between start and pos, and nil if it is too large.
func (w *window) cut(start int, large bool) ([]byte, error) {
	text := w.buf[start:w.pos]
	switch {
	case large || len(text) > esh3ar.MaxMessageBytes:
		return nil, nil
	case len(text) == 0:
		return nil, malformed(w.offset(), "a value is missing")
	}
	return text, nil
}

// closeMessages reads what follows the array, which must be the end of the object and of the body. N
// is how many messages there were.
func (w *window) closeMessages(n int) error {
	c, err := w.peek()
	switch {
	case err != nil:
		return err
	case c == ',':
		w.pos++
		if err := w.field(); err != nil {
			return err
		}
		return faults{esh3ar.Errorf(esh3ar.KindInvalid, "duplicate_field", "the field is given twice").At("/messages")}
	}
	if err := w.expect('}', "a closing brace is missing"); err != nil {
		return err
	}
	if _, err := w.peek(); err != nil {
		return err
	}
	if w.pos < w.end {
		return malformed(w.offset(), "there is more after the end of the value")
	}
	if n == 0 {
		return faults{esh3ar.Errorf(esh3ar.KindInvalid, "batch_empty", "a batch has at least one message").At("/messages")}
	}
	return nil
}
