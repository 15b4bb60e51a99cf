package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
)

const (
	// openPatience is how long a start waits for a store that says nothing before it goes on without.
	openPatience = 5 * time.Second
	// openRetry is the longest pause between two tries to open the store.
	openRetry = 5 * time.Second
)

// opening opens the store, however long that takes, and hands it to the breaker. A store that is not there
// is waited for; one that will never open, such as for a wrong password, is an error.
type opening struct {
	guarded *breaker.Store
	open    func(context.Context) (store.Store, error)
	passes  func(error) bool // whether an error of open may pass by itself
	log     *slog.Logger

	// publish is held while something relies on whether there is a store. Admit, if set, may refuse it;
	// that is guarded by publish.
	publish sync.Mutex
	admit   func(context.Context, store.Store) error

	stop context.CancelFunc
	late chan struct{} // closed when the first try has failed
	done chan struct{} // closed when the store is open or err is set
	err  error
}

// start begins to open in the background.
func (o *opening) start() {
	ctx, stop := context.WithCancel(context.Background())
	o.stop, o.late, o.done = stop, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(o.done)
		if o.err = o.run(ctx); ctx.Err() != nil {
			o.err = nil
		}
	}()
}

// close gives up opening and waits for the end of that.
func (o *opening) close() {
	if o.stop != nil {
		o.stop()
		<-o.done
	}
}

func (o *opening) run(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		err := o.once(ctx)
		switch {
		case err == nil:
			if try > 1 {
				o.log.Info("the store is open", "tries", try)
			}
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !o.passes(err):
			return err
		}
		o.guarded.Lacks(err)
		if try == 1 {
			o.log.Warn("the store does not answer; it is tried again", "err", err)
			close(o.late)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, openRetry)
	}
}

// once tries to open the store and hands it out.
func (o *opening) once(ctx context.Context) error {
	s, err := o.open(ctx)
	if err != nil {
		return err
	}
	o.publish.Lock()
	defer o.publish.Unlock()
	if o.admit != nil {
		if err := o.admit(ctx, s); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	o.guarded.Open(s)
	return nil
}

// wait returns when the store is open, cannot be opened, or ctx ends, which is no error.
func (o *opening) wait(ctx context.Context) error {
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return nil
	}
}

// awaitStore begins to open the store, and returns when it is open, is known to be late, or takes longer than
// one does that is there; for a file it takes as long as it takes.
func (n *Node) awaitStore(ctx context.Context, cache int) error {
	n.opening = &opening{
		guarded: n.store, log: n.log, passes: mayPass,
		open: func(ctx context.Context) (store.Store, error) {
			s, err := openStore(ctx, &n.cfg, cache)
			if err != nil {
				return nil, err
			}
			if err := sameShards(ctx, s, n.cfg.Shards); err != nil {
				return nil, errors.Join(err, s.Close())
			}
			return s, nil
		},
	}
	n.opening.start()
	var enough <-chan time.Time
	if n.cfg.sqlitePath() == "" {
		timer := time.NewTimer(openPatience)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-n.opening.done:
		return n.opening.err
	case <-n.opening.late:
	case <-enough:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// askOpen asks a store that is open until it answers. Errors: breaker.ErrAbsent, ctx's, and those that do not pass by themselves.
func (n *Node) askOpen(ctx context.Context, ask func(context.Context) error) error {
	for told := false; ; told = true {
		err := ask(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, breaker.ErrAbsent) || !errors.Is(err, breaker.ErrOpen) && !mayPass(err) {
			return err
		}
		if !told {
			n.log.Warn("the store was opened and does not answer any more: the start waits for it", "err", err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(journalRetry):
		}
	}
}

// openJournalWith opens the journal, also if the store is late, unless the journal has to be made: where its
// sequences begin is the store's to say. Then it waits for the store, or for another node that has it to make the journal.
func (n *Node) openJournalWith(ctx context.Context) error {
	o := n.opening
	for told := false; ; told = true {
		o.publish.Lock()
		err := n.openJournal(ctx)
		late := !n.store.Opened()
		if err == nil && late {
			o.admit = n.admit
		}
		o.publish.Unlock()
		switch {
		case err == nil && !late:
			return n.askOpen(ctx, func(ctx context.Context) error { return n.bootstrap(ctx, n.store) })
		case err == nil, !late, !errors.Is(err, breaker.ErrAbsent):
			return err
		}
		if !told {
			n.log.Warn("this is a new journal: the start waits for the store")
		}
		wait, cancel := ctx, context.CancelFunc(func() {})
		if n.cfg.clustered() {
			wait, cancel = context.WithTimeout(ctx, openRetry)
		}
		err = o.wait(wait)
		cancel()
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
}

// admit refuses a store that comes when the journal is open already, if it is another deployment's or ahead of the journal.
func (n *Node) admit(ctx context.Context, s store.Store) error {
	if err := n.identifyLate(ctx, s); err != nil {
		return err
	}
	if err := n.admitLate(ctx, s); err != nil {
		return err
	}
	return n.bootstrap(ctx, s)
}

// admitLate refuses a store that is ahead of the journal, which was opened without it.
func (n *Node) admitLate(ctx context.Context, s store.Store) error {
	shards, err := s.Positions(ctx)
	if err != nil {
		return err
	}
	at := positions(shards)
	behind := n.journal.Behind(at)
	switch {
	case behind == nil:
		return nil
	case !n.cfg.clustered():
		return fmt.Errorf("the data directory was set back while the store was away, and has taken messages since: %w", behind)
	}
	// Other nodes may have reached the store all the while, and have gone on with it.
	for p, position := range at {
		if int(p.Shard) >= n.cfg.Shards {
			continue
		}
		opened := n.journal.Opened(p.Shard)
		if opened >= position {
			continue
		}
		end, err := n.journal.Barrier(ctx, p.Shard)
		if err != nil {
			return err
		}
		if end <= position {
			return fmt.Errorf("the journal was set back while the store was away: %w", behind)
		}
		stored, err := storedSince(ctx, n.journal, s, p, opened, position)
		if err != nil {
			return err
		}
		if !stored {
			return fmt.Errorf("the journal was set back while the store was away, and has taken messages since: %w", behind)
		}
	}
	return nil
}

// maxCompared is how many messages of a partition are looked for in the store to see whether it has what the journal has.
const maxCompared = 1000

// storedSince reports whether the store has what a partition's log holds above opened and up to its position there. If
// not, the position is from before the log was set back and gave its sequences out again, and whoever reads on from there
// leaves messages out. The end of the log has to lie above the position.
//
// Most messages decide: one that a client has sent again after the log was set back may be in the store from before, and
// one that the store refused is not.
func storedSince(ctx context.Context, log journal.Log, s store.Shards, p journal.Partition, opened, position uint64) (bool, error) {
	last, err := log.Last(ctx, p)
	if err != nil {
		return false, err
	}
	reader, err := log.Read(ctx, p, opened)
	if err != nil {
		return false, err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	var ids []esh3ar.ID
	for at := opened; at < last && len(ids) < maxCompared; {
		e, err := reader.Next(ctx)
		if err != nil {
			return false, err
		}
		if at = e.Seq; at > position {
			break
		}
		for rec, err := range journal.Records(e.Data) {
			var m esh3ar.Message
			if err == nil && record.DecodeMessage(rec, &m) == nil {
				ids = append(ids, m.ID)
			}
		}
	}
	if len(ids) == 0 {
		return true, nil // purged by a node that stored them, or never there
	}
	rows, err := s.Rows(ctx, p.Shard, ids)
	return 2*len(rows) >= len(ids), err
}
