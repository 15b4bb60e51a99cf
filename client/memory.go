package client

// memory remembers the last ids added to it, a bounded number of them. It is for one goroutine.
type memory struct {
	known map[string]struct{}
	ring  []string // in the order of adding; next is the oldest once it is full
	next  int
}

func newMemory(size int) *memory {
	return &memory{known: make(map[string]struct{}), ring: make([]string, 0, size)}
}

func (m *memory) has(id string) bool {
	_, ok := m.known[id]
	return ok
}

// add remembers an id that it does not know yet, and forgets the oldest when it is full.
func (m *memory) add(id string) {
	m.known[id] = struct{}{}
	if len(m.ring) < cap(m.ring) {
		m.ring = append(m.ring, id)
		return
	}
	delete(m.known, m.ring[m.next])
	m.ring[m.next] = id
	m.next = (m.next + 1) % len(m.ring)
}
