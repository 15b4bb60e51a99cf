package store

import (
	"hash/fnv"
	"time"
)

// ClientKey is what backends store to find a client's messages by: a short number instead of a name.
// Different names may share one, so a query compares the names too. It is part of the stored format.
func ClientKey(client string) int64 {
	h := fnv.New64a()
	h.Write([]byte(client))
	return int64(h.Sum64())
}

// RecipientKey is the same for a client's messages to one recipient.
func RecipientKey(client, recipient string) int64 {
	h := fnv.New64a()
	h.Write([]byte(client))
	h.Write([]byte{0})
	h.Write([]byte(recipient))
	return int64(h.Sum64())
}

// RecordKey is what backends store to find a raw dead letter by its record.
func RecordKey(record []byte) int64 {
	h := fnv.New64a()
	h.Write(record)
	return int64(h.Sum64())
}

// CeilMicros returns t in microseconds, rounded up: a stored time, which was cut to the microsecond,
// is at or after t exactly when it is at or after the result.
func CeilMicros(t time.Time) int64 {
	return t.Add(time.Microsecond - 1).UnixMicro()
}
