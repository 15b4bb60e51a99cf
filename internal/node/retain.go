package node

import (
	"context"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// auditKeep is how long the audit log is kept at least: a year and a month, so that last year's is there
	// when it is asked for.
	auditKeep = 396 * 24 * time.Hour
	// usageKeep is how long after a day its use of the daily quotas is kept.
	usageKeep = 7 * 24 * time.Hour
)

// keepsHouse reports whether it is this node that does what one of all the nodes is to do: who owns the first
// shard. That for a moment two may, or nobody, does no harm.
func (n *Node) keepsHouse() bool {
	if n.peers == nil {
		return true
	}
	owner, _, _ := n.peers.leases.Owner(0)
	return owner == n.cfg.NodeName
}

// retain has the store forget what the retention does not cover any more, until ctx ends.
func (n *Node) retain(ctx context.Context) error {
	const every = time.Minute
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !n.keepsHouse() {
			continue
		}
		now := n.clock.Now()
		older := store.Cutoffs{
			Final:   now.Add(-n.cfg.Retention),
			Events:  now.Add(-n.cfg.Retention),
			Keys:    now.Add(-n.cfg.IdempotencyWindow),
			Rejects: now.Add(-n.cfg.Retention),
			Audit:   now.Add(-max(auditKeep, n.cfg.Retention)),
			Usage:   now.Add(-usageKeep),
		}
		for more := true; more && ctx.Err() == nil; {
			pruned, err := n.store.Prune(ctx, older)
			if err != nil {
				if ctx.Err() == nil {
					n.log.Warn("retention: the store forgets later", "err", err)
				}
				break
			}
			more = pruned.More
		}
	}
}
