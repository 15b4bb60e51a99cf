package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
)

// recordTag begins each record of a batch: field 1 of the protobuf message
// RecordBatch { repeated bytes records = 1; }, wire type 2.
const recordTag = 1<<3 | 2

// errMalformedBatch is the reason for every error of Records.
var errMalformedBatch = errors.New("malformed record batch")

// AppendRecord appends a record to a batch and returns the extended batch. The
// empty batch is empty bytes, and batches joined end to end are a batch.
func AppendRecord(batch, record []byte) []byte {
	batch = append(batch, recordTag)
	batch = binary.AppendUvarint(batch, uint64(len(record)))
	return append(batch, record...)
}

// recordSize is by how many bytes AppendRecord extends a batch for a record of
// n bytes.
func recordSize(n int) int {
	return 1 + (bits.Len64(uint64(n)|1)+6)/7 + n
}

// Records yields the records of a batch in order, as slices of it. Where the
// bytes are not a batch it yields the error, once, and ends; the records
// before that place are yielded all the same.
func Records(batch []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for at := 0; at < len(batch); {
			if tag := batch[at]; tag != recordTag {
				yield(nil, fmt.Errorf("%w: tag %#x at byte %d of %d", errMalformedBatch, tag, at, len(batch)))
				return
			}
			size, n := binary.Uvarint(batch[at+1:])
			start := at + 1 + n
			if n <= 0 || size > uint64(len(batch)-start) {
				yield(nil, fmt.Errorf("%w: length of the record at byte %d of %d", errMalformedBatch, at, len(batch)))
				return
			}
			at = start + int(size)
			if !yield(batch[start:at:at], nil) {
				return
			}
		}
	}
}
