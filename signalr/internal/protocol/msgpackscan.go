package protocol

import (
	"encoding/binary"
	"math"
)

// A msgpackScanner walks over MessagePack without building anything, nested at
// most MaxDepth deep. It never trusts a count further than the data reaches.
type msgpackScanner struct {
	data  []byte
	pos   int
	depth int
}

func (s *msgpackScanner) fail(what string) error { return &FormatError{What: what, Offset: s.pos} }

const errMsgpackShort = "MessagePack data ends too early"

// take passes n bytes.
func (s *msgpackScanner) take(n int) ([]byte, error) {
	if n < 0 || n > len(s.data)-s.pos {
		return nil, s.fail(errMsgpackShort)
	}
	b := s.data[s.pos : s.pos+n : s.pos+n]
	s.pos += n
	return b, nil
}

func (s *msgpackScanner) code() (byte, error) {
	b, err := s.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// length passes a big-endian unsigned integer of n bytes.
func (s *msgpackScanner) length(n int) (int, error) {
	b, err := s.take(n)
	if err != nil {
		return 0, err
	}
	switch n {
	case 1:
		return int(b[0]), nil
	case 2:
		return int(binary.BigEndian.Uint16(b)), nil
	}
	v := binary.BigEndian.Uint32(b)
	if v > math.MaxInt32 {
		return 0, s.fail(errMsgpackShort)
	}
	return int(v), nil
}

// skip passes one value.
func (s *msgpackScanner) skip() error {
	start := s.pos
	c, err := s.code()
	if err != nil {
		return err
	}
	switch {
	case c <= 0x7f, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3:
		return nil
	case c <= 0x8f:
		return s.skipValues(2 * int(c&0x0f))
	case c <= 0x9f:
		return s.skipValues(int(c & 0x0f))
	case c <= 0xbf:
		_, err = s.take(int(c & 0x1f))
		return err
	}
	var n int
	switch c {
	case 0xc4, 0xc5, 0xc6: // binary
		if n, err = s.length(1 << (c - 0xc4)); err == nil {
			_, err = s.take(n)
		}
	case 0xd9, 0xda, 0xdb: // string
		if n, err = s.length(1 << (c - 0xd9)); err == nil {
			_, err = s.take(n)
		}
	case 0xc7, 0xc8, 0xc9: // extension
		if n, err = s.length(1 << (c - 0xc7)); err == nil {
			_, err = s.take(n + 1)
		}
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // extension of fixed size
		_, err = s.take(1<<(c-0xd4) + 1)
	case 0xca, 0xce, 0xd2:
		_, err = s.take(4)
	case 0xcb, 0xcf, 0xd3:
		_, err = s.take(8)
	case 0xcc, 0xd0:
		_, err = s.take(1)
	case 0xcd, 0xd1:
		_, err = s.take(2)
	case 0xdc, 0xdd: // array
		if n, err = s.length(2 << (c - 0xdc)); err == nil {
			err = s.skipValues(n)
		}
	case 0xde, 0xdf: // map
		if n, err = s.length(2 << (c - 0xde)); err == nil {
			err = s.skipValues(2 * n)
		}
	default:
		s.pos = start
		return s.fail("reserved MessagePack code")
	}
	return err
}

// skipValues passes the n values of an array or map.
func (s *msgpackScanner) skipValues(n int) error {
	if n > len(s.data)-s.pos { // each takes a byte at least
		return s.fail(errMsgpackShort)
	}
	if s.depth == MaxDepth {
		return s.fail("MessagePack nested too deeply")
	}
	s.depth++
	for range n {
		if err := s.skip(); err != nil {
			return err
		}
	}
	s.depth--
	return nil
}

// value passes one value and returns its encoding.
func (s *msgpackScanner) value() ([]byte, error) {
	start := s.pos
	err := s.skip()
	return s.data[start:s.pos:s.pos], err
}

// array passes the header of an array.
func (s *msgpackScanner) array() (int, error) {
	c, err := s.code()
	if err != nil {
		return 0, err
	}
	n := 0
	switch {
	case c >= 0x90 && c <= 0x9f:
		n = int(c & 0x0f)
	case c == 0xdc, c == 0xdd:
		n, err = s.length(2 << (c - 0xdc))
	default:
		s.pos--
		return 0, s.fail("MessagePack array expected")
	}
	if err == nil && n > len(s.data)-s.pos {
		err = s.fail(errMsgpackShort)
	}
	return n, err
}

// str passes a string.
func (s *msgpackScanner) str() ([]byte, error) {
	c, err := s.code()
	if err != nil {
		return nil, err
	}
	n := 0
	switch {
	case c >= 0xa0 && c <= 0xbf:
		n = int(c & 0x1f)
	case c == 0xd9, c == 0xda, c == 0xdb:
		n, err = s.length(1 << (c - 0xd9))
	default:
		s.pos--
		return nil, s.fail("MessagePack string expected")
	}
	if err != nil {
		return nil, err
	}
	return s.take(n)
}

// strOrNil is str, with nil for nil. An empty string is not nil.
func (s *msgpackScanner) strOrNil() ([]byte, error) {
	if s.pos < len(s.data) && s.data[s.pos] == 0xc0 {
		s.pos++
		return nil, nil
	}
	return s.str()
}

func (s *msgpackScanner) boolean() (bool, error) {
	c, err := s.code()
	if err == nil && c != 0xc2 && c != 0xc3 {
		s.pos--
		err = s.fail("MessagePack boolean expected")
	}
	return c == 0xc3, err
}

// integer passes an integer that fits into 64 bits with a sign.
func (s *msgpackScanner) integer() (int64, error) {
	c, err := s.code()
	if err != nil {
		return 0, err
	}
	if c <= 0x7f || c >= 0xe0 {
		return int64(int8(c)), nil
	}
	if c < 0xcc || c > 0xd3 {
		s.pos--
		return 0, s.fail("MessagePack integer expected")
	}
	b, err := s.take(1 << ((c - 0xcc) & 3))
	if err != nil {
		return 0, err
	}
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	if c >= 0xd0 { // signed
		shift := 64 - 8*len(b)
		return int64(v<<shift) >> shift, nil
	}
	if v > math.MaxInt64 {
		return 0, s.fail("MessagePack integer too large")
	}
	return int64(v), nil
}
