package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/journal"
)

// Leases says which shards this node may try to own. It keeps two nodes from getting in each other's way;
// that two who both believe to own a shard do no harm is the epochs' doing.
type Leases interface {
	// Acquire waits until this node is to own the shard. The context that it returns ends when the node is
	// not to own it any more; release says that it does not. Its error is ctx's.
	Acquire(ctx context.Context, shard uint16) (lease context.Context, release func(), err error)
}

// alone is the lease of a node that has all shards to itself.
type alone struct{}

// Acquire never waits, and the lease ends with ctx alone.
func (alone) Acquire(ctx context.Context, _ uint16) (context.Context, func(), error) {
	return ctx, func() {}, ctx.Err()
}

// errElsewhere is the cause of errors that say that another node owns the shard, or nobody at the moment.
var errElsewhere = errors.New("dispatch: the shard is not owned here")

// IsElsewhere reports whether err says that another node owns the shard, which could tell more.
func IsElsewhere(err error) bool { return errors.Is(err, errElsewhere) }

func elsewhere() error {
	return esh3ar.Errorf(esh3ar.KindUnavailable, "shard_moving",
		"the message's shard is changing hands; ask again").After(time.Second).Because(errElsewhere)
}

// owned returns a shard that this node owns, nil if it does not.
func (d *Dispatcher) owned(id uint16) *shard { return d.shards[id].Load() }

// all returns the shards that this node owns.
func (d *Dispatcher) all() []*shard {
	all := make([]*shard, 0, len(d.shards))
	for i := range d.shards {
		if s := d.shards[i].Load(); s != nil {
			all = append(all, s)
		}
	}
	return all
}

// own owns the shard whenever the leases say so, until ctx ends.
func (d *Dispatcher) own(ctx context.Context, id uint16, stop time.Duration) error {
	retry := newRetry()
	for {
		lease, release, err := d.opts.Leases.Acquire(ctx, id)
		if err != nil {
			return err
		}
		s := d.shards[id].Load()
		if s == nil {
			s = newShard(d, id)
			d.shards[id].Store(s)
		}
		d.changed(id, true)
		err = s.term(lease, stop)
		d.shards[id].Store(nil)
		d.changed(id, false)
		release()
		switch {
		case ctx.Err() != nil:
			return err
		case d.opts.Leases == Leases(alone{}) || errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrNoPartition):
			return err // there is nobody to hand it to, or nothing to own
		case err == nil:
			retry.reset()
			d.opts.Logger.Info("shard handed over", "shard", id)
			continue
		}
		d.opts.Logger.Warn("shard lost", "shard", id, "err", err)
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

func (d *Dispatcher) changed(id uint16, owned bool) {
	if d.opts.Owned != nil {
		d.opts.Owned(id, owned)
	}
}

// term owns the shard until ctx ends, then stores what it knows, for which it takes the time that stop allows, unless
// the store is away.
// It returns nil after an orderly end, and otherwise why the shard was lost.
//
// The order of the end: first nothing new comes in (intake, scans, timers); then what the mailboxes hold is
// worked off, and every recipient hands out what it has not saved and forgets its connections; then the
// committer commits that and ends.
func (s *shard) term(ctx context.Context, stop time.Duration) error {
	workCtx, stopWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWork(nil)
	committed := make(chan error, 1)
	go func() {
		err := s.committer.run(workCtx)
		if err != nil {
			stopWork(err) // the intake need not go on
		}
		committed <- err
	}()
	intakeCtx, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	context.AfterFunc(workCtx, stopIntake)
	err := s.run(intakeCtx)
	if ctx.Err() != nil {
		err = nil
	}
	if away := s.d.opts.StoreAway; away != nil && away() {
		stop = min(stop, awayStop)
	}
	giveUp := func() { stopWork(errNotAllStored) }
	deadline := time.AfterFunc(stop, giveUp)
	defer deadline.Stop()
	defer context.AfterFunc(s.d.haste, giveUp)()
	s.postAll(event{kind: evRetire})
	s.quiesce(workCtx)
	s.retire()
	s.committer.finish()
	cerr := <-committed
	switch {
	case cerr == nil:
	case errors.Is(context.Cause(workCtx), errNotAllStored):
		s.d.opts.Logger.Warn("not all that a shard knows was stored in time; it is read again from the journal", "shard", s.id)
	case err == nil || errors.Is(err, context.Canceled):
		err = cerr
	}
	return err
}

// awayStop is how long a shard that ends while the store is away waits for its recipients to come to rest.
const awayStop = 250 * time.Millisecond

var errNotAllStored = errors.New("dispatch: not all was stored in time")

// quiesce waits until no recipient of the shard has anything to do, or ctx ends.
func (s *shard) quiesce(ctx context.Context) {
	wake := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle.Broadcast()
	})
	defer wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.active > 0 && ctx.Err() == nil {
		s.idle.Wait()
	}
}

// retire takes no more events. What a connection still says is lost: whoever owns the shard next sends again
// what was not acknowledged.
func (s *shard) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
}

// forget hands out what is not saved, and begins anew without connections. An acknowledgement that comes now
// is about a message in the store.
func (r *recipient) forget(out []delivery.Effect) []delivery.Effect {
	out = r.core.Flush(out)
	r.core = delivery.NewRecipient(&r.shard.d.opts.Params)
	r.conns = nil
	return out
}
