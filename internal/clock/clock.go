// Package clock is the time by which messages are stamped, expire and are retried: the wall clock of
// the start plus the time that has passed since, so that somebody who sets the machine's clock expires
// nothing and holds nothing up.
package clock

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tolerance is how far the wall clock may be off before that counts as a jump. Less is slewed.
	tolerance = 5 * time.Second
	// slew is how much of a small difference is made up for each second: too little for anybody to
	// notice, and never backwards.
	slew  = 50 * time.Millisecond
	every = time.Second
)

// Options configures a Clock. The zero value is what production on one machine uses.
type Options struct {
	// Reference, if set, asks another machine for its time, such as the database. After a jump the
	// clock follows whom the reference agrees with.
	Reference func(context.Context) (time.Time, error)
	// Wall is the machine's clock, time.Now if nil.
	Wall func() time.Time
	// Suspended is how long the machine has slept since it was started, which a monotonic clock does
	// not count. Nil means what the operating system says.
	Suspended func() time.Duration
	Logger    *slog.Logger // slog.Default() if nil
}

// Clock tells the time. It is safe for concurrent use.
type Clock struct {
	opts  Options
	start time.Time    // with a monotonic reading
	shift atomic.Int64 // nanoseconds to add to the start and what has passed

	mu     sync.Mutex
	asleep time.Duration // what of the machine's sleep is in shift
	jump   time.Duration // how far the wall clock is off, zero while it is not
}

// New returns a clock that shows the wall clock's time.
func New(o Options) *Clock {
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Suspended == nil {
		o.Suspended = suspended
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	c := &Clock{opts: o, start: time.Now(), asleep: o.Suspended()}
	c.shift.Store(int64(o.Wall().Round(0).Sub(c.start.Round(0))))
	return c
}

// Now returns the time. It never goes backwards but when a reference says that it was wrong.
func (c *Clock) Now() time.Time {
	return c.start.Add(time.Since(c.start) + time.Duration(c.shift.Load())).Round(0)
}

// Check reports a wall clock that has jumped and was not confirmed, for readiness.
func (c *Clock) Check(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jump != 0 {
		return fmt.Errorf("the machine's clock has jumped by %s; messages go by the time before that until it is set right or the server is started anew", c.jump.Round(time.Second))
	}
	return nil
}

// Run compares the clock with the wall clock until ctx ends.
func (c *Clock) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			c.compare(ctx)
		}
	}
}

// compare makes up for sleep and small differences, and looks into large ones.
func (c *Clock) compare(ctx context.Context) {
	c.mu.Lock()
	asleep := c.opts.Suspended()
	c.shift.Add(int64(asleep - c.asleep))
	c.asleep = asleep
	c.mu.Unlock()

	off := c.opts.Wall().Round(0).Sub(c.Now())
	if off.Abs() <= tolerance {
		c.shift.Add(int64(min(max(off, -slew), slew)))
		c.settle("the machine's clock is right again")
		return
	}
	c.mu.Lock()
	known := c.jump != 0
	c.jump = off
	c.mu.Unlock()
	if !known {
		c.opts.Logger.Warn("the machine's clock has jumped; messages go by the time before", "by", off.String())
	}
	if c.opts.Reference == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tolerance/2)
	defer cancel()
	ref, err := c.opts.Reference(ctx)
	if err != nil {
		return // asked again in a second
	}
	if wall := c.opts.Wall().Round(0); ref.Sub(wall).Abs() <= tolerance {
		c.shift.Add(int64(wall.Sub(c.Now())))
		c.settle("the database confirms the machine's clock; messages go by it from now on")
	}
	// Otherwise the reference agrees with us, or with nobody: the time from before stays.
}

// settle ends a jump.
func (c *Clock) settle(why string) {
	c.mu.Lock()
	known := c.jump != 0
	c.jump = 0
	c.mu.Unlock()
	if known {
		c.opts.Logger.Info(why)
	}
}
