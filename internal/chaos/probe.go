//go:build unix

package chaos

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar"
)

// Beside the load there is a probe for each shard: a business client with nothing to do but to send to one recipient, whose
// device is always there. The other clients wait for whichever shard accepts nothing; by the probes a fault is felt in each
// shard for itself, and without the absences of the other devices.

// probeInterval is the pause between two messages of a probe, and so what a stall can be told to.
const probeInterval = 100 * time.Millisecond

// How many shards a server has that is alone, and a cluster.
const (
	singleShards  = 2
	clusterShards = 4
)

// shards is how many the deployment has.
func (l *lab) shards() int {
	if l.opts.Nodes > 1 {
		return clusterShards
	}
	return singleShards
}

// probes returns one recipient for each shard, beyond those of the load.
func (l *lab) probes() []uint32 {
	found := make([]uint32, l.shards())
	for n, left := uint32(l.opts.Recipients), len(found); left > 0; n++ {
		if shard := esh3ar.ShardOf(recipientName(n), len(found)); found[shard] == 0 {
			found[shard] = n
			left--
		}
	}
	return found
}

// probe sends to one recipient until ctx ends, and then finishes the message at hand.
func (l *lab) probe(ctx context.Context, recipient uint32, dice *rand.Rand) {
	pace := time.NewTicker(probeInterval)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		m := &message{recipient: recipient, present: true, probe: true, key: uuid.Must(uuid.NewV7()).String()}
		l.book.begin(m)
		l.send(m, dice)
	}
}
