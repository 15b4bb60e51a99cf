package store

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Cursor is a place in a listing, for backends: the last row that was shown. The listing goes on with
// the rows that come before it in the order of (accepted_at, id).
type Cursor struct {
	AcceptedAt time.Time // to the microsecond
	ID         esh3ar.ID
}

// cursorVersion begins the encoding, so that a later one can tell the two apart.
const cursorVersion = 1

// String returns the opaque form.
func (c Cursor) String() string {
	b := make([]byte, 0, 1+8+len(c.ID))
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.AcceptedAt.UnixMicro()))
	b = append(b, c.ID[:]...)
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads the opaque form. Its error is an *esh3ar.Error of KindInvalid.
func ParseCursor(s string) (Cursor, error) {
	var c Cursor
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 1+8+len(c.ID) || b[0] != cursorVersion {
		return c, esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is not one that this listing gave out")
	}
	c.AcceptedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(b[1:]))).UTC()
	copy(c.ID[:], b[9:])
	return c, nil
}
