package clock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// world is a machine's clock, its sleep and a reference.
type world struct {
	jump      time.Duration
	slept     time.Duration
	reference time.Duration // how far the reference is off the true time
	down      bool
}

func (w *world) clock(withReference bool) *Clock {
	o := Options{
		Wall:      func() time.Time { return time.Now().Add(w.jump + w.slept) },
		Suspended: func() time.Duration { return w.slept },
	}
	if withReference {
		o.Reference = func(context.Context) (time.Time, error) {
			if w.down {
				return time.Time{}, errors.New("down")
			}
			return time.Now().Add(w.reference), nil
		}
	}
	return New(o)
}

// off is how far the clock is from the true time of the bubble.
func off(c *Clock) time.Duration { return c.Now().Sub(time.Now().Round(0)) }

func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if (got - want).Abs() > 10*time.Millisecond {
		t.Errorf("%s: off by %s, want %s", what, got, want)
	}
}

func run(t *testing.T, f func(t *testing.T, w *world, step func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, new(world), func() { <-time.After(every); synctest.Wait() }) })
}

func TestJumpWithoutAReference(t *testing.T) {
	for _, jump := range []time.Duration{5 * time.Hour, -5 * time.Hour} {
		run(t, func(t *testing.T, w *world, step func()) {
			c := w.clock(false)
			w.jump = jump
			for range 100 {
				step()
				c.compare(t.Context())
			}
			within(t, "after the jump", off(c), 0)
			if c.Check(t.Context()) == nil {
				t.Error("the jump is not told")
			}
			w.jump = 0
			c.compare(t.Context())
			if err := c.Check(t.Context()); err != nil {
				t.Errorf("set right: %v", err)
			}
		})
	}
}

func TestSmallDifferencesAreSlewedForwardsOnly(t *testing.T) {
	for _, jump := range []time.Duration{4 * time.Second, -4 * time.Second} {
		run(t, func(t *testing.T, w *world, step func()) {
			c := w.clock(false)
			w.jump = jump
			last := c.Now()
			for range 90 {
				step()
				c.compare(t.Context())
				if now := c.Now(); !now.After(last) {
					t.Fatalf("went from %s to %s", last, now)
				} else {
					last = now
				}
			}
			within(t, "after the slew", off(c), jump)
			if err := c.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReferenceDecides(t *testing.T) {
	run(t, func(t *testing.T, w *world, step func()) {
		c := w.clock(true)
		w.jump, w.reference = 3*time.Hour, 3*time.Hour
		w.down = true
		c.compare(t.Context())
		within(t, "not confirmed", off(c), 0)
		w.down = false
		c.compare(t.Context())
		within(t, "confirmed", off(c), 3*time.Hour)
		if err := c.Check(t.Context()); err != nil {
			t.Error(err)
		}
		w.jump = 0 // the machine's clock alone is set back
		c.compare(t.Context())
		within(t, "refuted", off(c), 3*time.Hour)
		if c.Check(t.Context()) == nil {
			t.Error("the refuted jump is not told")
		}
	})
}

func TestSleepOfTheMachineCounts(t *testing.T) {
	run(t, func(t *testing.T, w *world, step func()) {
		c := w.clock(false)
		w.slept = 8 * time.Hour
		c.compare(t.Context())
		within(t, "after the sleep", off(c), 8*time.Hour)
		if err := c.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	run(t, func(t *testing.T, w *world, step func()) {
		c := w.clock(false)
		w.jump = time.Hour // before Run looks
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		step()
		step()
		if c.Check(t.Context()) == nil {
			t.Error("Run does not compare")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
