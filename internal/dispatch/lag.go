package dispatch

import (
	"sync/atomic"
	"time"
)

// caughtUpAfter is how long an intake must wait in vain for another entry to count as having read all there is: a
// server that has more may take a moment to send it.
const caughtUpAfter = 100 * time.Millisecond

// lag is how far one intake's reading is behind what is accepted. The intake writes it, anybody reads it.
type lag struct {
	read    atomic.Int64 // time of the entry that was read last, in nanoseconds since 1970; 0 for none
	waiting atomic.Int64 // since when the next one is waited for; 0 while the intake is busy
}

// wait notes that the next entry is waited for.
func (l *lag) wait(now time.Time) { l.waiting.Store(now.UnixNano()) }

// took notes that an entry of that time was read.
func (l *lag) took(entry time.Time) {
	l.read.Store(entry.UnixNano())
	l.waiting.Store(0)
}

// age returns how long ago the entry was accepted that was read last, 0 if there is no other to read. Whatever is not
// read yet was accepted later, so it is the most that anything waits for being read.
func (l *lag) age(now time.Time) time.Duration {
	read, waiting := l.read.Load(), l.waiting.Load()
	end := now.UnixNano()
	switch {
	case read == 0, waiting != 0 && end-waiting >= int64(caughtUpAfter):
		return 0
	case waiting != 0:
		end = waiting
	}
	return time.Duration(max(end-read, 0))
}

// lag returns the greatest lag of what is owned here.
func (d *Dispatcher) lag() time.Duration {
	now, most := d.opts.Now(), time.Duration(0)
	for _, s := range d.all() {
		for i := range s.lags {
			most = max(most, s.lags[i].age(now))
		}
	}
	return most
}
