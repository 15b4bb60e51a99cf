package presence

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/esh3artech/esh3ar"
)

// The subjects under which nodes talk: up from hubs to owners, down from owners to hubs.
const (
	subjectUp   = "up"
	subjectDown = "down"
)

// A batch is a header and operations: the session's number, the batch's number in it from 1 on, and then each
// operation with its length before it. All numbers but the session's are varints.
type header struct {
	session uint64
	number  uint64
}

// The answers to a batch.
const (
	answerTaken   = 1 // also if it was taken before
	answerUnknown = 2 // there is no such session, or a batch before this one is missing
)

// The kinds of operations.
const (
	opAttach  = 1 // up: connection, recipient
	opDetach  = 2 // up: connection, free
	opReceipt = 3 // up: connection, read, ids
	opLeave   = 4 // up: shard; all its connections are somebody else's now
	opDeliver = 5 // down: connection, attempt, message record; none if it is that of the operation before
)

func (h header) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, h.session)
	return binary.AppendUvarint(dst, h.number)
}

var errMalformed = errors.New("presence: malformed batch")

// readHeader returns the header and the operations behind it.
func readHeader(b []byte) (h header, ops []byte, err error) {
	if len(b) < 8 {
		return h, nil, errMalformed
	}
	h.session = binary.BigEndian.Uint64(b)
	n, size := binary.Uvarint(b[8:])
	if size <= 0 {
		return h, nil, errMalformed
	}
	h.number = n
	return h, b[8+size:], nil
}

// reader reads an operation's fields. After an error all that it returns is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) flag() bool { return r.number() != 0 }

// bytes returns n of the bytes that are left.
func (r *reader) bytes(n uint64) []byte {
	if uint64(len(r.b)) < n {
		r.fail()
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

// rest returns what is left.
func (r *reader) rest() []byte { return r.bytes(uint64(len(r.b))) }

func (r *reader) fail() {
	r.err, r.b = errMalformed, nil
}

// operations calls f with each operation of a batch, until it fails.
func operations(ops []byte, f func(kind uint64, r *reader) error) error {
	r := reader{b: ops}
	for len(r.b) > 0 {
		op := reader{b: r.bytes(r.number())}
		if r.err != nil {
			return r.err
		}
		kind := op.number()
		if op.err != nil {
			return op.err
		}
		if err := f(kind, &op); err != nil {
			return fmt.Errorf("presence: operation %d: %w", kind, err)
		}
		if op.err != nil {
			return op.err
		}
	}
	return nil
}

func appendIDs(dst []byte, ids []esh3ar.ID) []byte {
	for i := range ids {
		dst = append(dst, ids[i][:]...)
	}
	return dst
}

func (r *reader) ids() []esh3ar.ID {
	const size = len(esh3ar.ID{})
	b := r.rest()
	if len(b)%size != 0 {
		r.fail()
		return nil
	}
	ids := make([]esh3ar.ID, len(b)/size)
	for i := range ids {
		copy(ids[i][:], b[i*size:])
	}
	return ids
}

// maxBatch is the size at which a batch takes no more operations. The bus takes twice as much, and an
// operation is shorter than that.
const maxBatch = 256 << 10

// outbox holds operations on their way to one node, as batches.
type outbox struct {
	chunks [][]byte
	size   int
}

// add appends an operation to the last batch, or to a new one if that is full.
func (o *outbox) add(op []byte) {
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(op)))
	if last := len(o.chunks) - 1; last < 0 || len(o.chunks[last])+n+len(op) > maxBatch {
		o.chunks = append(o.chunks, nil)
	}
	last := &o.chunks[len(o.chunks)-1]
	*last = append(append(*last, length[:n]...), op...)
	o.size += n + len(op)
}

// take returns the first batch, nil without one.
func (o *outbox) take() []byte {
	if len(o.chunks) == 0 {
		return nil
	}
	c := o.chunks[0]
	o.chunks[0] = nil
	o.chunks = o.chunks[1:]
	o.size -= len(c)
	return c
}

func (o *outbox) clear() { *o = outbox{} }
