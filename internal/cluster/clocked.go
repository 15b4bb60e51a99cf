package cluster

import "context"

// clocked is a context that ends with time, too, and asks the clock itself whether it has: a process that was stopped
// for long may run on before its timers do.
type clocked struct {
	context.Context
	cancel context.CancelCauseFunc
	over   func() bool // whether its time is over, by the clock
	why    error       // the cause then
}

func newClocked(parent context.Context, over func() bool, why error) clocked {
	inner, cancel := context.WithCancelCause(parent)
	return clocked{inner, cancel, over, why}
}

// Err implements context.Context.
func (c *clocked) Err() error {
	if c.over() {
		c.cancel(c.why)
	}
	return c.Context.Err()
}
