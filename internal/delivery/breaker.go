package delivery

import "time"

// breaker keeps a recipient from being sent to over and over while its devices are connected and do not
// acknowledge anything. It opens after a number of failed attempts in a row; when the pause is over it is
// half-open: one message may try. An acknowledgement or a new connection closes it. While it is open,
// messages wait, uncharged.
type breaker struct {
	strikes int       // failed attempts in a row
	until   time.Time // end of the pause, zero while closed
}

// open reports whether nothing may be sent now.
func (b *breaker) open(now time.Time) bool { return now.Before(b.until) }

// probing reports whether only one message may be in flight.
func (b *breaker) probing() bool { return !b.until.IsZero() }

// strike counts a failed attempt. It reports whether that opened the breaker, or opened it again.
func (b *breaker) strike(p *Params, now time.Time) bool {
	b.strikes++
	if p.Strikes == 0 || b.strikes < p.Strikes {
		return false
	}
	pause := p.Pause
	for range min(b.strikes-p.Strikes, 6) {
		pause *= 2
	}
	b.until = now.Add(pause)
	return true
}

// reset closes the breaker. It reports whether it was open.
func (b *breaker) reset() bool {
	was := b.probing()
	*b = breaker{}
	return was
}
