package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
)

const (
	// lookUpTime bounds how long the reading of the journal waits for the store to tell what is known.
	// Beyond, what must be looked up is deferred.
	lookUpTime = 500 * time.Millisecond
	// lookUpPage is how many messages one question to the store is about.
	lookUpPage = 500
)

// deferred keeps messages aside that may be known already while the store, which would tell, does not
// answer; and behind them everything that comes later for the same recipient, so that nothing overtakes.
// Other recipients go on. It is bounded by the shard's memory, which is not released before the messages
// are stored.
type deferred struct {
	s    *shard
	wake chan struct{} // cap 1: there is something to look up

	mu sync.Mutex
	by map[string][]deferral // by recipient, in order of arrival; never empty lists
}

type deferral struct {
	item    *delivery.Item
	unknown bool // it is not known yet whether it is known
}

func newDeferred(s *shard) *deferred {
	return &deferred{s: s, wake: make(chan struct{}, 1), by: make(map[string][]deferral)}
}

// empty reports whether nothing is deferred.
func (d *deferred) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.by) == 0
}

// admit takes what must wait out of items, which arrived in that order, and returns the rest. Unknown
// holds the identifiers that must be looked up.
func (d *deferred) admit(items []*delivery.Item, unknown map[esh3ar.ID]struct{}) []*delivery.Item {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.by) == 0 && len(unknown) == 0 {
		return items
	}
	rest := items[:0]
	for _, it := range items {
		_, ask := unknown[it.Message.ID]
		if waiting, ok := d.by[it.Message.To]; ok || ask {
			d.by[it.Message.To] = append(waiting, deferral{it, ask})
			continue
		}
		rest = append(rest, it)
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return rest
}

// run looks up what is deferred and lets it arrive, until ctx ends.
func (d *deferred) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.wake:
		}
		retry := newRetry()
		for {
			ids := d.pending()
			if len(ids) == 0 {
				break
			}
			rows, err := d.s.d.opts.Store.Rows(ctx, d.s.id, ids)
			if err != nil {
				if err := retry.wait(ctx); err != nil {
					return err
				}
				continue
			}
			retry.reset()
			known := make(map[esh3ar.ID]bool, len(ids))
			for _, id := range ids {
				known[id] = false
			}
			for i := range rows {
				known[rows[i].Message.ID] = true
			}
			d.resolve(known)
		}
	}
}

// pending returns some of what is to be looked up.
func (d *deferred) pending() []esh3ar.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []esh3ar.ID
	for _, list := range d.by {
		for i := range list {
			if list[i].unknown {
				ids = append(ids, list[i].item.Message.ID)
			}
		}
		if len(ids) >= lookUpPage {
			break
		}
	}
	return ids
}

// resolve takes the answers and lets arrive what waits for none any more. It holds mu meanwhile, so that
// nothing later for the same recipients gets in between.
func (d *deferred) resolve(known map[esh3ar.ID]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var arriving []*delivery.Item
	for to, list := range d.by {
		for len(list) > 0 {
			head := &list[0]
			if head.unknown {
				repeated, answered := known[head.item.Message.ID]
				if !answered {
					break
				}
				head.unknown = false
				if repeated {
					d.s.d.metrics.repeated.Inc()
					d.s.committer.leaveOut(head.item.Origin.(*charge), 1)
					head.item = nil
				}
			}
			if head.item != nil {
				arriving = append(arriving, head.item)
			}
			list = list[1:]
		}
		if d.by[to] = list; len(list) == 0 {
			delete(d.by, to)
		}
	}
	if len(arriving) > 0 {
		d.s.arrive(arriving)
	}
}
