package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
)

// errNotConnected is why the journal's end is not known.
var errNotConnected = errors.New("dispatch: the journal that is reached may not be the whole")

// end says where a partition of the journal ends.
type end func(context.Context, journal.Partition) (uint64, error)

// lastEntries returns the sequences of the last entries of a shard's tiers.
func (d *Dispatcher) lastEntries(ctx context.Context, id uint16, of end) (last [esh3ar.Tiers]uint64, err error) {
	if d.opts.Connected != nil && !d.opts.Connected() {
		return last, errNotConnected
	}
	for tier := range last {
		if last[tier], err = of(ctx, journal.Partition{Shard: id, Tier: uint8(tier)}); err != nil {
			return last, err
		}
	}
	return last, nil
}

// ends asks where a shard's journal ends in the way that costs writes, once for all who want to know at one time.
type ends struct {
	turn  chan struct{} // holds one while somebody asks
	began time.Time     // of what was found last; guarded by turn, as the rest
	last  [esh3ar.Tiers]uint64
	err   error
}

func newEnds() *ends { return &ends{turn: make(chan struct{}, 1)} }

// find returns the sequences of the last entries as of some time after the call.
func (e *ends) find(ctx context.Context, ask func(context.Context) ([esh3ar.Tiers]uint64, error)) ([esh3ar.Tiers]uint64, error) {
	called := time.Now()
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return [esh3ar.Tiers]uint64{}, ctx.Err()
	}
	if e.err != nil || !e.began.After(called) {
		e.began = time.Now()
		e.last, e.err = ask(ctx)
	}
	return e.last, e.err
}

// allStored waits until the store has everything that the journal holds now of a shard, as far as the servers say that are
// asked. It reports false when that is not so within the limit, or cannot be told.
func (d *Dispatcher) allStored(ctx context.Context, id uint16, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last, err := d.lastEntries(ctx, id, d.opts.Log.Last)
	return err == nil && d.stored(ctx, id, last)
}

// surelyAllStored is allStored whichever servers answer. Options.End has to be set.
func (d *Dispatcher) surelyAllStored(ctx context.Context, id uint16, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last, err := d.ends[id].find(ctx, func(ctx context.Context) ([esh3ar.Tiers]uint64, error) { return d.lastEntries(ctx, id, d.opts.End) })
	return err == nil && d.stored(ctx, id, last)
}

// stored waits until the store has these entries of a shard. It reports false when ctx ends first, or it cannot be told.
func (d *Dispatcher) stored(ctx context.Context, id uint16, last [esh3ar.Tiers]uint64) bool {
	if s := d.owned(id); s != nil {
		return s.committer.reached(ctx, last)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		positions, err := d.opts.Store.Positions(ctx)
		if err != nil {
			return false
		}
		if reached(positions[id], last) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
