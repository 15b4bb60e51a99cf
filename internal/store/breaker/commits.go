package breaker

import (
	"sync"
	"time"
)

// vainLapse is how long after the last commit that was tried commits count as not tried any more. It is longer than the pauses
// between the tries of whoever repeats one until it is stored.
const vainLapse = 5 * time.Second

// commits is how the store takes commits.
type commits struct {
	mu       sync.Mutex
	answers  uint64
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

// end notes that the commit that was begun then is over, and whether it was answered.
func (c *commits) end(began, now time.Time, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underway--
	c.tried = now
	if !answered {
		return
	}
	c.answers++
	if began.After(c.taken) {
		c.taken = began
	}
	c.vain = time.Time{}
	if c.underway > 0 {
		c.vain = now // of those it is not known longer
	}
}

// answered is how many were answered so far.
func (c *commits) answered() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers
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
