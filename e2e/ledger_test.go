package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is kept outside of the server and outlives its crashes: every message that was sent, every
// 202 and every receipt. It is safe for concurrent use.
type ledger struct {
	mu    sync.Mutex
	epoch time.Time
	sends map[string]*sending  // by content, which names the message
	got   map[string][]arrival // by recipient, in the order of arrival
}

// sending is one message from the sender's side. Times are since the ledger's epoch, on the
// monotonic clock.
type sending struct {
	to       string
	began    time.Duration // when the first attempt began
	answered time.Duration // when its 202 was read
	id       string        // from the 202, "" without one
}

// arrival is one receipt by a device.
type arrival struct {
	id, content string
	connection  int
}

func newLedger() *ledger {
	return &ledger{epoch: time.Now(), sends: make(map[string]*sending), got: make(map[string][]arrival)}
}

// begin notes that a message is about to be sent for the first time.
func (l *ledger) begin(to, content string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sends[content] = &sending{to: to, began: time.Since(l.epoch)}
}

// accepted notes a 202.
func (l *ledger) accepted(content, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sends[content]
	s.id, s.answered = id, time.Since(l.epoch)
}

// received notes a receipt. It must be called before the device acknowledges, and for each connection
// in the order of its receipts.
func (l *ledger) received(to string, connection int, id, content string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got[to] = append(l.got[to], arrival{id: id, content: content, connection: connection})
}

// account is what a ledger amounts to.
type account struct {
	sent, accepted, received, repeated, waiting, landed int
	// ids are the accepted messages: whether a device has received each.
	ids    map[string]bool
	faults []string
}

func (a *account) String() string {
	return fmt.Sprintf("%d sent, %d accepted, %d of them received and %d waiting; %d repeats; %d received without a 202",
		a.sent, a.accepted, a.received, a.waiting, a.repeated, a.landed)
}

// settled reports whether every accepted message for a recipient who is not away has arrived.
func (l *ledger) settled(away func(to string) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	arrived := make(map[string]bool)
	for _, list := range l.got {
		for _, a := range list {
			arrived[a.id] = true
		}
	}
	for _, s := range l.sends {
		if s.id != "" && !away(s.to) && !arrived[s.id] {
			return false
		}
	}
	return true
}

// close accounts for everything. Away says which recipients had no device at any time.
func (l *ledger) close(away func(to string) bool) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &account{sent: len(l.sends), ids: make(map[string]bool)}
	fault := func(format string, args ...any) { a.faults = append(a.faults, fmt.Sprintf(format, args...)) }

	arrived := make(map[string]string) // content to id
	for to, list := range l.got {
		firsts, byConnection := []arrival(nil), make(map[int][]arrival)
		for _, r := range list {
			s, ok := l.sends[r.content]
			switch {
			case !ok:
				fault("%s received %q (%s), which nobody sent", to, r.content, r.id)
				continue
			case s.to != to:
				fault("%s received %q (%s), which was for %s", to, r.content, r.id, s.to)
			case s.id != "" && s.id != r.id:
				fault("%q was accepted as %s and received as %s", r.content, s.id, r.id)
			}
			if id, again := arrived[r.content]; !again {
				arrived[r.content] = r.id
				firsts = append(firsts, r)
			} else if a.repeated++; id != r.id {
				fault("%q was received as %s and as %s", r.content, id, r.id)
			}
			own := byConnection[r.connection]
			if !slices.ContainsFunc(own, func(o arrival) bool { return o.id == r.id }) {
				byConnection[r.connection] = append(own, r)
			}
		}
		for _, early := range l.disorder(firsts) {
			fault("%s received %s", to, early)
		}
		for connection, own := range byConnection {
			for _, early := range l.disorder(own) {
				fault("%s received on connection %d %s", to, connection, early)
			}
		}
	}
	for content, s := range l.sends {
		_, here := arrived[content]
		switch {
		case s.id == "" && here:
			a.landed++
		case s.id == "":
		default:
			a.accepted++
			a.ids[s.id] = here
			switch {
			case here:
				a.received++
			case away(s.to):
				a.waiting++
			default:
				fault("LOST: %q to %s, accepted as %s %s after the start", content, s.to, s.id, s.answered)
			}
		}
	}
	return a
}

// disorder checks arrivals at one place, first ones only, against the promise: what was sent after
// another message's 202 arrives after it.
func (l *ledger) disorder(list []arrival) []string {
	var early []string
	// Walking backwards, the earliest 202 among the later arrivals is all that has to be compared.
	var first *sending
	var firstContent string
	for _, r := range slices.Backward(list) {
		s := l.sends[r.content]
		if first != nil && first.answered < s.began {
			early = append(early, fmt.Sprintf("%q, sent at %s, before %q, answered at %s", r.content, s.began, firstContent, first.answered))
		}
		if s.id != "" && (first == nil || s.answered < first.answered) {
			first, firstContent = s, r.content
		}
	}
	return early
}

// TestLedgerFindsFaults shows that the ledger would notice what the crash test looks for.
func TestLedgerFindsFaults(t *testing.T) {
	nobody := func(string) bool { return false }
	tests := []struct {
		name string
		fill func(*ledger)
		want string // in the only fault; "" for none
	}{
		{"kept promises", func(l *ledger) {
			l.received("bob", 1, "id-a", "a")
			l.received("bob", 1, "id-b", "b")
			l.received("bob", 2, "id-b", "b")
		}, ""},
		{"loss", func(l *ledger) { l.received("bob", 1, "id-a", "a") }, `LOST: "b"`},
		{"disorder", func(l *ledger) {
			l.received("bob", 1, "id-b", "b")
			l.received("bob", 2, "id-a", "a")
		}, `"b", sent at`},
		{"disorder on one connection", func(l *ledger) {
			l.received("bob", 1, "id-a", "a")
			l.received("bob", 2, "id-b", "b")
			l.received("bob", 2, "id-a", "a")
		}, `on connection 2 "b", sent at`},
		{"wrong recipient", func(l *ledger) {
			l.received("bob", 1, "id-a", "a")
			l.received("eve", 2, "id-b", "b")
		}, `which was for bob`},
		{"invention", func(l *ledger) {
			l.received("bob", 1, "id-a", "a")
			l.received("bob", 1, "id-b", "b")
			l.received("bob", 1, "id-c", "c")
		}, `which nobody sent`},
		{"two ids", func(l *ledger) {
			l.received("bob", 1, "id-a", "a")
			l.received("bob", 1, "id-x", "b")
		}, `accepted as id-b and received as id-x`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger()
			for i, content := range []string{"a", "b"} {
				l.begin("bob", content)
				l.accepted(content, "id-"+content)
				// Far apart, whatever the clock's resolution.
				l.sends[content].began = time.Duration(2*i) * time.Second
				l.sends[content].answered = time.Duration(2*i+1) * time.Second
			}
			test.fill(l)
			faults := l.close(nobody).faults
			if test.want == "" {
				if len(faults) > 0 {
					t.Errorf("faults: %q", faults)
				}
				return
			}
			if !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, test.want) }) {
				t.Errorf("faults: %q, want one with %q", faults, test.want)
			}
		})
	}
}
