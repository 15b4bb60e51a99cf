package postgres

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// column is the binary form of a one-dimensional array, built value by value: one parameter of a
// statement that takes whole columns.
type column struct {
	buf   []byte
	n     int
	nulls bool
}

// arrayHeader is dimensions, null flag, type of the elements, length and lower bound, 4 bytes each.
const arrayHeader = 20

func (c *column) reset(elem uint32) {
	c.buf = append(c.buf[:0], make([]byte, arrayHeader)...)
	binary.BigEndian.PutUint32(c.buf[0:], 1)
	binary.BigEndian.PutUint32(c.buf[8:], elem)
	binary.BigEndian.PutUint32(c.buf[16:], 1)
	c.n, c.nulls = 0, false
}

// value returns the array.
func (c *column) value() []byte {
	binary.BigEndian.PutUint32(c.buf[12:], uint32(c.n))
	if c.nulls {
		c.buf[7] = 1
	}
	return c.buf
}

func (c *column) null() {
	c.buf = append(c.buf, 0xff, 0xff, 0xff, 0xff)
	c.n++
	c.nulls = true
}

func (c *column) int64(v int64) {
	c.buf = append(c.buf, 0, 0, 0, 8)
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(v))
	c.n++
}

// time appends a time in microseconds, NULL for the zero time.
func (c *column) time(t time.Time) {
	if t.IsZero() {
		c.null()
		return
	}
	c.int64(t.UnixMicro())
}

func (c *column) int32(v int32) {
	c.buf = append(c.buf, 0, 0, 0, 4)
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(v))
	c.n++
}

func (c *column) int16(v int16) {
	c.buf = append(c.buf, 0, 0, 0, 2)
	c.buf = binary.BigEndian.AppendUint16(c.buf, uint16(v))
	c.n++
}

func (c *column) bytes(v []byte) {
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(v)))
	c.buf = append(c.buf, v...)
	c.n++
}

func (c *column) string(v string) {
	c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(v)))
	c.buf = append(c.buf, v...)
	c.n++
}

// encode appends a value that write appends to the buffer that it is given.
func (c *column) encode(write func([]byte) []byte) {
	start := len(c.buf)
	c.buf = write(append(c.buf, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(c.buf[start:], uint32(len(c.buf)-start-4))
	c.n++
}

// int64Value is the binary form of a single bigint.
func int64Value(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// int32Value is the binary form of a single integer.
func int32Value(v int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }

// binaryFormat, for all parameters and results of a statement.
var binaryFormat = []int16{pgtype.BinaryFormatCode}
