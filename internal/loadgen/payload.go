package loadgen

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// mark is what a message of the generator carries at the beginning of its content, so that its
// receiver knows which one it is and when it was meant to be sent. All fields have a fixed width:
// they can be patched into a request that was built before.
//
//	load RRRRRRRR CCCCCCCC UUUUUUUU SSSSSSSS TTTTTTTTTTTTTTTT
//	     run      client   recipient seq     time in nanoseconds, all hexadecimal
type mark struct {
	run, client, recipient, seq uint32
	sent                        int64
}

const (
	markPrefix = "load "
	markBytes  = len(markPrefix) + 4*9 + 16
)

// put writes the mark over b, which has at least markBytes.
func (m *mark) put(b []byte) {
	copy(b, markPrefix)
	n := len(markPrefix)
	for _, f := range [...]uint32{m.run, m.client, m.recipient, m.seq} {
		putHex(b[n:n+8], uint64(f))
		b[n+8] = ' '
		n += 9
	}
	putHex(b[n:n+16], uint64(m.sent))
}

// parseMark reads a mark from the beginning of b.
func parseMark(b []byte) (m mark, ok bool) {
	if len(b) < markBytes || !bytes.HasPrefix(b, []byte(markPrefix)) {
		return m, false
	}
	n := len(markPrefix)
	for _, f := range [...]*uint32{&m.run, &m.client, &m.recipient, &m.seq} {
		v, ok := parseHex(b[n : n+8])
		if !ok {
			return m, false
		}
		*f = uint32(v)
		n += 9
	}
	v, ok := parseHex(b[n : n+16])
	m.sent = int64(v)
	return m, ok
}

func putHex(b []byte, v uint64) {
	const digits = "0123456789abcdef"
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = digits[v&15]
		v >>= 4
	}
}

// parseHex reads at most 16 digits.
func parseHex(b []byte) (v uint64, ok bool) {
	var raw [8]byte
	if _, err := hex.Decode(raw[8-len(b)/2:], b); err != nil {
		return 0, false
	}
	for _, c := range raw {
		v = v<<8 | uint64(c)
	}
	return v, true
}

// content returns text of that size whose beginning has room for a mark.
func content(size int) []byte {
	b := bytes.Repeat([]byte("x"), max(size, markBytes))
	(&mark{}).put(b)
	if len(b) > markBytes {
		b[markBytes] = ' '
	}
	return b
}

// RecipientName is the name of a run's n-th recipient. Runs do not share recipients, so that what an
// earlier run left waiting does not disturb.
func RecipientName(run, n uint32) string { return fmt.Sprintf("load-%08x-%08x", run, n) }
