package breaker

import (
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// vainLapse is how long after the last commit that was tried commits count as not tried any more. It is longer than the pauses
// between the tries of whoever repeats one until it is stored.
const vainLapse = 5 * time.Second

// longCommit is from how many bytes of messages on a commit is long: as much as a ping sends, and so more than fits into any packet.
const longCommit = 16 << 10

// isLong reports whether a commit is long. What its messages carry goes to the store unless they lie there already.
func isLong(b *store.Batch) bool {
	size := 0
	for i := range b.Changes {
		c := &b.Changes[i]
		if c.From != store.Nowhere {
			continue
		}
		size += len(c.Message.Content) + len(c.Message.Data)
		for k, v := range c.Message.Metadata {
			size += len(k) + len(v)
		}
		if size >= longCommit {
			return true
		}
	}
	return false
}

// commits is how the store takes commits.
type commits struct {
	mu       sync.Mutex
	long     uint64 // long ones that were taken
	underway int
	tried    time.Time // when one was last begun, held back or ended
	taken    time.Time // when the one was begun that was answered last
	vain     time.Time // since when some are tried and none is answered, zero if all that are over were
}

// begin notes that a commit is tried.
func (c *commits) begin(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(now)
	c.underway++
	c.tried = now
	if c.vain.IsZero() {
		c.vain = now
	}
}

// end notes that the commit that was begun then is over, whether it was answered, and whether it was a long one that was taken.
func (c *commits) end(began, now time.Time, answered, long bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underway--
	c.tried = now
	if !answered {
		return
	}
	if long {
		c.long++
	}
	if began.After(c.taken) {
		c.taken = began
	}
	c.vain = time.Time{}
	if c.underway > 0 {
		c.vain = now // of those it is not known longer
	}
}

// takenLong is how many long ones were taken so far.
func (c *commits) takenLong() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.long
}

// expire forgets that commits are in vain when none is tried any more.
func (c *commits) expire(now time.Time) {
	if c.underway == 0 && now.Sub(c.tried) > vainLapse {
		c.vain = time.Time{}
	}
}

// Commits says how the store takes commits: when the one was asked for that it answered last, zero if none was; and since when
// commits have been asked for without an answer to any, zero if none are. An answer counts whatever it says, as for the breaker.
func (b *Store) Commits() (taken, vain time.Time) {
	c := &b.commits
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire(time.Now())
	return c.taken, c.vain
}
