//go:build unix

package chaos

import (
	"fmt"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/loadgen"
)

// book is what the laboratory itself knows: every message that was sent, every 202 and every receipt.
// It is kept outside of the server, and written to a ledger file as it grows. It is safe for concurrent
// use. All times are by one clock that nobody sets.
type book struct {
	start  time.Time
	ledger *loadgen.Ledger

	mu      sync.Mutex
	began   int64               // when the load began
	seqs    map[uint32]uint32   // the next number, by recipient
	byName  map[string]*message // by content
	byID    map[string]*message // accepted ones
	ids     []string            // accepted ones, in that order
	open    int                 // accepted, and neither received nor allowed to end otherwise
	repeats int                 // receipts of a message beyond a device's first
	faults  []string            // what must never be
	last    int64               // of the last receipt; receipts have distinct times
	accept  stall
	receive stall
	shards  []stall          // the same as accept, by shard
	felt    feelings         // what of all that belongs to which fault
	since   map[uint32]int64 // when a probe's device was connected last
}

// devicesEach is how many devices a recipient may have: message.devices has a bit for each.
const devicesEach = 8

// message is one message as its sender and its recipient's devices saw it.
type message struct {
	recipient, seq uint32
	name           string // its content, unlike any other's
	key            string // "" for none
	ttl            time.Duration
	present        bool // its recipient has devices
	probe          bool // it is a probe's
	sent           int64
	accepted       int64  // when its 202 was read
	id             string // from the 202, "" without one
	status         int    // of the last answer
	cancel         bool   // somebody tried to cancel it
	devices        uint8  // those that have received it, a bit each
}

// messageName is the content of a message.
func messageName(recipient, seq uint32) string { return fmt.Sprintf("chaos %d/%d", recipient, seq) }

// mayEnd reports whether the message may come to its end without a receipt.
func (m *message) mayEnd() bool { return m.ttl > 0 && m.ttl < longTTL || m.cancel }

// stall is the longest time without something.
type stall struct {
	last    int64
	Longest time.Duration `json:"longest"`
	// Before is when it ended, since the beginning of the load.
	Before time.Duration `json:"before"`
}

func (s *stall) happened(b *book, now int64) {
	if took := time.Duration(now - s.last); s.last > 0 && took > s.Longest {
		s.Longest, s.Before = took, time.Duration(now-b.began)
	}
	s.last = now
}

func newBook(ledger *loadgen.Ledger, shards int) *book {
	return &book{
		start: time.Now(), ledger: ledger, seqs: make(map[uint32]uint32), shards: make([]stall, shards),
		byName: make(map[string]*message), byID: make(map[string]*message), since: make(map[uint32]int64),
	}
}

// now is the time in nanoseconds since 1970 by the clock of the start.
func (b *book) now() int64 { return b.start.UnixNano() + int64(time.Since(b.start)) }

// fault notes something that must never be.
func (b *book) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faultLocked(format, args...)
}

func (b *book) faultLocked(format string, args ...any) {
	since := time.Duration(0)
	if b.began > 0 {
		since = time.Duration(b.now() - b.began)
	}
	b.faults = append(b.faults, fmt.Sprintf("%.2f s: ", since.Seconds())+fmt.Sprintf(format, args...))
}

// begin notes that a message is about to be sent for the first time, and names it.
func (b *book) begin(m *message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.seq = b.seqs[m.recipient]
	b.seqs[m.recipient]++
	m.name = messageName(m.recipient, m.seq)
	m.sent = b.now()
	b.byName[m.name] = m
}

// accepted notes a 202.
func (b *book) accepted(m *message, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.accept.happened(b, now)
	m.id, m.accepted, m.status = id, now, 202
	b.byID[id] = m
	b.ids = append(b.ids, id)
	if parsed, err := esh3ar.ParseID(id); err == nil && int(parsed.Shard()) < len(b.shards) {
		s := &b.shards[parsed.Shard()]
		b.felt.stalled(s.last, now)
		s.happened(b, now)
	}
	if m.present && !m.mayEnd() && m.devices == 0 {
		b.open++
	}
	b.write(m, loadgen.Accepted)
}

// failed notes that a message was given up. Sure says that it is not accepted.
func (b *book) failed(m *message, sure bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sure {
		b.write(m, loadgen.Refused)
	} else {
		b.write(m, loadgen.Unknown)
	}
}

// write puts what became of the sending into the ledger.
func (b *book) write(m *message, kind loadgen.Kind) {
	r := loadgen.Record{Kind: kind, Status: uint16(m.status), Recipient: m.recipient, Seq: m.seq, At: b.now(), Sent: m.sent}
	if m.id != "" {
		id, err := esh3ar.ParseID(m.id)
		if err != nil {
			b.faultLocked("%s was accepted with %q, which is no identifier", m.name, m.id)
		}
		r.ID = id
	}
	b.ledger.Append(&r)
}

// received notes a receipt of one of the recipient's devices. It must be called before the device
// acknowledges, and for each device in the order of its receipts.
//
// In the ledger all devices of a recipient are one, because the order is promised of first receipts:
// a device that was away may well see a repeat of what another one has long shown.
func (b *book) received(recipient uint32, device int, id, content string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.receive.happened(b, now)
	m := b.byName[content]
	switch {
	case m == nil:
		b.faultLocked("recipient %d received %q (%s), which nobody sent", recipient, content, id)
		return
	case m.recipient != recipient:
		b.faultLocked("recipient %d received %q (%s), which was for %d", recipient, content, id, m.recipient)
		return
	}
	parsed, err := esh3ar.ParseID(id)
	if err != nil {
		b.faultLocked("recipient %d received %q with %q, which is no identifier", recipient, content, id)
		return
	}
	if m.devices == 0 && m.id != "" && m.present && !m.mayEnd() {
		b.open--
	}
	if m.probe && m.devices == 0 && m.accepted > 0 {
		b.felt.waited(m.accepted, now, b.since[recipient])
	}
	if m.devices&(1<<device) != 0 {
		b.repeats++
	}
	m.devices |= 1 << device
	b.last = max(now, b.last+1)
	b.ledger.Append(&loadgen.Record{
		Kind: loadgen.Received, Recipient: recipient, Seq: m.seq, Device: recipient*devicesEach + uint32(device), ID: parsed, At: b.last, Sent: m.sent,
	})
}

// canceling notes that somebody tries to cancel the message.
func (b *book) canceling(m *message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.present && !m.mayEnd() && m.devices == 0 && m.id != "" {
		b.open--
	}
	m.cancel = true
}

// unreceived is how many messages have yet to reach a device.
func (b *book) unreceived() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// pick returns the identifier of an accepted message: that with the number n modulo their number, the
// newest if n is negative, "" while there is none.
func (b *book) pick(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ids) == 0 {
		return ""
	}
	if n < 0 {
		return b.ids[len(b.ids)-1]
	}
	return b.ids[n%len(b.ids)]
}

// sample returns the identifiers of up to so many accepted messages, spread over the time of the load.
func (b *book) sample(most int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(most, len(b.ids))
	some := make([]string, n)
	for i := range some {
		some[i] = b.ids[i*len(b.ids)/n]
	}
	return some
}
