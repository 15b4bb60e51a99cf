package store

import (
	"crypto/sha256"
	"hash/fnv"
	"time"

	"github.com/esh3artech/esh3ar"
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

// KeyHash is what a backend may store to find a client's idempotency key by: 16 bytes of the SHA-256 of both.
// A key that is a UUID of version 7 in its usual form leads with its own time, so that keys made one after
// the other lie side by side in an index. It is part of the stored format.
func KeyHash(client, key string) (h [16]byte) {
	var buf [128]byte
	sum := sha256.Sum256(append(append(append(buf[:0], client...), 0), key...))
	copy(h[:], sum[:])
	if id, err := esh3ar.ParseID(key); err == nil && !id.Time().IsZero() && id[8]>>6 == 2 && string(id.Append(buf[:0])) == key {
		copy(h[:6], id[:6])
	}
	return h
}
