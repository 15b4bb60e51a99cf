package store

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/esh3artech/esh3ar"
)

// EncodeStatuses returns statuses as backends store them: their names, separated by commas.
func EncodeStatuses(list []esh3ar.Status) string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.String()
	}
	return strings.Join(names, ",")
}

// DecodeStatuses reads what EncodeStatuses wrote.
func DecodeStatuses(s string) ([]esh3ar.Status, error) {
	if s == "" {
		return nil, nil
	}
	var list []esh3ar.Status
	for name := range strings.SplitSeq(s, ",") {
		status, err := esh3ar.ParseStatus(name)
		if err != nil {
			return nil, fmt.Errorf("store: statuses: %w", err)
		}
		list = append(list, status)
	}
	return list, nil
}

// eventKeySize is the size of an encoded EventKey: the message's id and the status_seq, big-endian.
const eventKeySize = len(esh3ar.ID{}) + 4

// EncodeEventKeys returns keys as backends store them, one behind the other.
func EncodeEventKeys(keys []EventKey) []byte {
	b := make([]byte, 0, len(keys)*eventKeySize)
	for i := range keys {
		b = append(b, keys[i].Message[:]...)
		b = binary.BigEndian.AppendUint32(b, keys[i].Seq)
	}
	return b
}

// DecodeEventKeys reads what EncodeEventKeys wrote.
func DecodeEventKeys(b []byte) ([]EventKey, error) {
	if len(b)%eventKeySize != 0 {
		return nil, fmt.Errorf("store: event keys of %d bytes", len(b))
	}
	var keys []EventKey
	for ; len(b) > 0; b = b[eventKeySize:] {
		var k EventKey
		copy(k.Message[:], b)
		k.Seq = binary.BigEndian.Uint32(b[len(k.Message):])
		keys = append(keys, k)
	}
	return keys, nil
}
