package ingest

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"

	"github.com/esh3artech/esh3ar/internal/store"
)

// recentKeys remembers what the idempotency keys of durable messages were used for. It is bounded: a
// new key pushes out the oldest of its part. Safe for concurrent use.
type recentKeys struct {
	parts [16]recentPart
}

// recentPart is a map and the order in which its keys came, a ring.
type recentPart struct {
	mu   sync.Mutex
	used map[keyHash]store.Remembered
	ring []keyHash
	next int // in the ring, once that is full
}

// keyHash stands for a client and its key.
type keyHash [16]byte

func hashKey(client, key string) keyHash {
	var buf [320]byte
	b := binary.AppendUvarint(buf[:0], uint64(len(client)))
	b = append(append(b, client...), key...)
	sum := sha256.Sum256(b)
	return keyHash(sum[:16])
}

func newRecentKeys(size int) *recentKeys {
	r := new(recentKeys)
	for i := range r.parts {
		p := &r.parts[i]
		p.used = make(map[keyHash]store.Remembered)
		// The ring grows by append up to its capacity, which is then its size.
		p.ring = make([]keyHash, 0, max(1, size/len(r.parts)))
	}
	return r
}

func (r *recentKeys) part(h keyHash) *recentPart { return &r.parts[h[0]%16] }

func (r *recentKeys) get(h keyHash) (store.Remembered, bool) {
	p := r.part(h)
	p.mu.Lock()
	defer p.mu.Unlock()
	u, ok := p.used[h]
	return u, ok
}

// put remembers the first use of a key; a later one does not replace it.
func (r *recentKeys) put(h keyHash, u store.Remembered) {
	u.To = strings.Clone(u.To) // it may be part of a request's whole text
	p := r.part(h)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.used[h]; ok {
		return
	}
	p.used[h] = u
	if len(p.ring) < cap(p.ring) {
		p.ring = append(p.ring, h)
		return
	}
	delete(p.used, p.ring[p.next])
	p.ring[p.next] = h
	p.next = (p.next + 1) % len(p.ring)
}
