package esh3ar

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"
)

// ID identifies a message: a UUID (RFC 9562) whose last 16 bits carry the recipient's shard, so that
// any node knows whom to ask. Version 7 sorts by time; version 8 is derived from an idempotency key
// that carries no time of its own.
type ID [16]byte

// IDs draws time-ordered random identifiers. It is safe for concurrent use.
//
// Randomness is drawn in blocks: one system call serves some hundreds of identifiers.
type IDs struct {
	pool sync.Pool
}

type idBlock struct {
	b    [4096]byte
	left []byte
}

// New returns a UUIDv7 for that time and shard.
func (g *IDs) New(now time.Time, shard uint16) ID {
	blk, _ := g.pool.Get().(*idBlock)
	if blk == nil {
		blk = new(idBlock)
	}
	if len(blk.left) < 8 {
		rand.Read(blk.b[:])
		blk.left = blk.b[:]
	}
	var id ID
	copy(id[6:14], blk.left)
	blk.left = blk.left[8:]
	g.pool.Put(blk)
	id.stamp(now.UnixMilli(), 7, shard)
	return id
}

// DeriveID returns the identifier of a message sent with an idempotency key: the same client, key and
// body digest always give the same one, without asking anyone. When the key is itself a UUIDv7 whose
// time lies within [now − window, now + 5 min], the identifier is led by that time and sorts by it
// (version 7); otherwise it is a pure hash (version 8).
func DeriveID(client, key string, digest [sha256.Size]byte, now time.Time, window time.Duration, shard uint16) ID {
	// Lengths are hashed with the strings, so that no two pairs run together.
	buf := make([]byte, 0, 256)
	buf = binary.AppendUvarint(buf, uint64(len(client)))
	buf = append(buf, client...)
	buf = binary.AppendUvarint(buf, uint64(len(key)))
	buf = append(buf, key...)
	buf = append(buf, digest[:]...)
	sum := sha256.Sum256(buf)
	var id ID
	copy(id[:], sum[:])
	if k, err := ParseID(key); err == nil && k.Version() == 7 {
		const ahead = 5 * time.Minute
		at := k.Time()
		if !at.Before(now.Add(-window)) && !at.After(now.Add(ahead)) {
			id.stamp(at.UnixMilli(), 7, shard)
			return id
		}
	}
	id.mark(8, shard)
	return id
}

func (id *ID) stamp(ms int64, version byte, shard uint16) {
	id[0], id[1], id[2] = byte(ms>>40), byte(ms>>32), byte(ms>>24)
	id[3], id[4], id[5] = byte(ms>>16), byte(ms>>8), byte(ms)
	id.mark(version, shard)
}

func (id *ID) mark(version byte, shard uint16) {
	id[6] = id[6]&0x0f | version<<4
	id[8] = id[8]&0x3f | 0x80
	binary.BigEndian.PutUint16(id[14:], shard)
}

// ParseID reads the canonical form of a UUID, in either case. Its error is of KindInvalid.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		var h [32]byte
		n := copy(h[:], s[:8])
		n += copy(h[n:], s[9:13])
		n += copy(h[n:], s[14:18])
		n += copy(h[n:], s[19:23])
		copy(h[n:], s[24:])
		if _, err := hex.Decode(id[:], h[:]); err == nil {
			return id, nil
		}
	}
	return ID{}, Errorf(KindInvalid, "bad_id", "a message id is a UUID such as 0198c0de-7a1b-7c3d-8e4f-0123456789ab")
}

// Append appends the canonical form of id to dst.
func (id ID) Append(dst []byte) []byte {
	dst = hex.AppendEncode(dst, id[:4])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, id[4:6])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, id[6:8])
	dst = append(dst, '-')
	dst = hex.AppendEncode(dst, id[8:10])
	dst = append(dst, '-')
	return hex.AppendEncode(dst, id[10:])
}

// String returns the canonical form: lower-case hexadecimal with dashes.
func (id ID) String() string {
	var b [36]byte
	return string(id.Append(b[:0]))
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return id.Append(nil), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	p, err := ParseID(string(text))
	if err == nil {
		*id = p
	}
	return err
}

// Version returns the UUID version field.
func (id ID) Version() int { return int(id[6] >> 4) }

// Time returns the time that leads a version 7 identifier, to the millisecond; the zero time for
// other versions.
func (id ID) Time() time.Time {
	if id.Version() != 7 {
		return time.Time{}
	}
	ms := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
	return time.UnixMilli(ms).UTC()
}

// Shard returns the shard that the identifier carries. For an identifier that a caller made up it
// may lie beyond the deployment's number of shards.
func (id ID) Shard() uint16 { return binary.BigEndian.Uint16(id[14:]) }

// ShardOf returns the shard of a normalised recipient among that many shards (FNV-1a, 64 bits).
// Changing it would orphan every waiting message: it is part of the stored format.
func ShardOf(recipient string, shards int) uint16 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(recipient); i++ {
		h ^= uint64(recipient[i])
		h *= 1099511628211
	}
	// The low bits of FNV mix poorly for short strings; fold the high half in.
	h ^= h >> 32
	return uint16(h % uint64(shards))
}
