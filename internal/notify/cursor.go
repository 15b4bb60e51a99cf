package notify

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Cursor is a place in the events of a deployment: one in the event sequence of each shard. Whoever reads
// on from it skips nothing, because a shard's events are numbered by its only committer, in the order in
// which they become visible.
type Cursor []Place

// Place is a place in the event sequence of one shard: behind the write of that number and behind the
// first Offset events of the next write.
type Place struct {
	Number int64
	Offset int
}

// cursorVersion begins the encoding, so that a later one can tell the two apart.
const cursorVersion = 1

// maxCursor bounds what is looked at of a cursor: that of the largest deployment is shorter.
const maxCursor = 64 << 10

// String returns the opaque form: a version, the number of shards, for each its place, and a checksum, in
// base64url without padding.
func (c Cursor) String() string {
	b := make([]byte, 0, 8+5*len(c))
	b = append(b, cursorVersion)
	b = binary.AppendUvarint(b, uint64(len(c)))
	for _, p := range c {
		// The lowest bit says whether an offset follows: mostly there is none.
		if p.Offset == 0 {
			b = binary.AppendUvarint(b, uint64(p.Number)<<1)
			continue
		}
		b = binary.AppendUvarint(b, uint64(p.Number)<<1|1)
		b = binary.AppendUvarint(b, uint64(p.Offset))
	}
	b = binary.BigEndian.AppendUint16(b, checksum(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// checksum tells a cursor that was mistyped or cut from one that was given out. It keeps nobody from
// making one up, which gains nothing: a cursor opens only the events of its bearer.
func checksum(b []byte) uint16 {
	sum := crc32.ChecksumIEEE(b)
	return uint16(sum>>16) ^ uint16(sum)
}

// ParseCursor reads the opaque form of a cursor of a deployment with that many shards. Its errors are
// *esh3ar.Error of KindInvalid with the code bad_cursor.
func ParseCursor(s string, shards int) (Cursor, error) {
	malformed := esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is not one that was given out here; use one as it came, whole and unchanged")
	if len(s) > maxCursor {
		return nil, malformed
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 4 {
		return nil, malformed
	}
	body, sum := b[:len(b)-2], binary.BigEndian.Uint16(b[len(b)-2:])
	if checksum(body) != sum {
		return nil, malformed
	}
	if body[0] != cursorVersion {
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is of another version of the server")
	}
	body = body[1:]
	ok := true
	next := func(most uint64) uint64 {
		v, n := binary.Uvarint(body)
		if n <= 0 || v > most {
			ok = false
			return 0
		}
		body = body[n:]
		return v
	}
	n := next(math.MaxUint16 + 1)
	if ok && n != uint64(shards) {
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is of another deployment: it has %d shards, this one has %d", n, shards)
	}
	c := make(Cursor, n)
	for i := range c {
		v := next(math.MaxUint64)
		c[i].Number = int64(v >> 1)
		if v&1 != 0 {
			if c[i].Offset = int(next(store.MaxEventsPerWrite - 1)); c[i].Offset == 0 {
				ok = false
			}
		}
	}
	if !ok || len(body) > 0 {
		return nil, malformed
	}
	return c, nil
}

// startOf returns the cursor before the oldest events that are kept, endOf the one behind the newest.
func startOf(ranges map[uint16]store.EventRange, shards int) Cursor {
	c := make(Cursor, shards)
	for i := range c {
		c[i].Number = ranges[uint16(i)].Forgotten
	}
	return c
}

func endOf(ranges map[uint16]store.EventRange, shards int) Cursor {
	c := make(Cursor, shards)
	for i := range c {
		c[i].Number = ranges[uint16(i)].Last
	}
	return c
}

// check reports, as a *goneError, that one cannot read on from the cursor without a gap.
func (c Cursor) check(ranges map[uint16]store.EventRange) error {
	oldest := slices.Clone(c)
	var expired, ahead bool
	for i, p := range c {
		kept := ranges[uint16(i)]
		switch {
		case p.Number < kept.Forgotten:
			expired = true
			oldest[i] = Place{Number: kept.Forgotten}
		case p.Number > kept.Last || p.Number == kept.Last && p.Offset > 0:
			ahead = true
			oldest[i] = Place{Number: kept.Last}
		}
	}
	switch {
	case expired:
		return &goneError{oldest: oldest, err: esh3ar.Errorf(esh3ar.KindGone, "cursor_expired",
			"events that follow the cursor are not kept any more; go on from oldest_cursor, and ask for the messages whose news you may have missed")}
	case ahead:
		return &goneError{oldest: oldest, err: esh3ar.Errorf(esh3ar.KindGone, "cursor_ahead",
			"the cursor is ahead of all events: it is of another deployment, or the store was restored; go on from oldest_cursor, and ask for the messages whose news you may have missed")}
	}
	return nil
}

// goneError says that a cursor's events are gone, and from where on there are some.
type goneError struct {
	err    *esh3ar.Error
	oldest Cursor
}

func (e *goneError) Error() string { return e.err.Error() }
func (e *goneError) Unwrap() error { return e.err }

// ProblemMember is the member that the problem document has beside the usual ones.
func (e *goneError) ProblemMember() (name, value string) { return "oldest_cursor", e.oldest.String() }
