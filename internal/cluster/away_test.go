package cluster_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// storing is a node with a store, to which it commits while it owns shards.
type storing struct {
	*testNode
	line  pgtest.Line // to the store
	store *breaker.Store
}

// startStoring starts a node over the database of a URL, which commits to shards of its own there: to a busy one many messages at
// once, to quiet ones a single message.
func startStoring(t *testing.T, nats cluster.Connector, name, url string, busy uint16, quiet ...uint16) *storing {
	t.Helper()
	n := new(storing)
	log := slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", name)
	s, err := postgres.Open(t.Context(), url, postgres.Options{Dial: n.line.Dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	n.store = breaker.New(s, breaker.Options{Logger: log})
	n.testNode = startNode(t, nats, name, true, func(o *cluster.MembersOptions) {
		o.Replicas, o.Store, o.Commits = 1, n.store.Reach, n.store.Commits
	})
	ctx, end := context.WithCancel(context.Background())
	n.running.Go(func() { n.commit(ctx, busy, 200) })
	for _, shard := range quiet {
		n.running.Go(func() { n.commit(ctx, shard, 1) })
	}
	t.Cleanup(end) // before the node, which waits for it
	return n
}

// commit stores so many messages again and again, as the owner of a shard does.
func (n *storing) commit(ctx context.Context, shard uint16, messages int) {
	claim, err := n.store.Claim(ctx, shard)
	if err != nil {
		n.t.Error(err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n.owned() == 0 {
			continue
		}
		// Others follow on one that is not answered.
		_ = n.store.Commit(ctx, &store.Batch{Shard: shard, Epoch: claim.Epoch, Changes: storetest.Deliverable(shard, messages, false), At: time.Now()})
	}
}

// TestLinesToTheStore: of three nodes one has a line to the database that loses long packets, and one a line over which no commit
// comes though all else does. The third gets their shards.
func TestLinesToTheStore(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	url, nats := server.Database(t), mustStart(t, t.TempDir())
	whole := startStoring(t, nats, "whole", url, 1)
	narrow := startStoring(t, nats, "narrow", url, 2, 4) // its short commits are answered all the time
	slow := startStoring(t, nats, "slow", url, 3)
	all := []*testNode{whole.testNode, narrow.testNode, slow.testNode}
	eventually(t, patience, "all own shards", func() bool { return balanced(all...) })
	eventually(t, patience, "all know that the store answers the whole line", func() bool {
		for _, n := range all {
			if !slices.ContainsFunc(n.members.Live(), func(m cluster.Member) bool {
				return m.Name == "whole" && m.Store != nil && m.Store.Steady > 16_000 && m.Store.Taken != nil
			}) {
				return false
			}
		}
		return true
	})
	if !balanced(all...) {
		t.Error("a shard moved before anything happened")
	}

	narrow.line.Narrow(1400, 0)
	narrowed := time.Now()
	slow.line.Narrow(20_000, 0) // a question passes
	took := eventually(t, patience, "the narrow line's shards are others'", func() bool {
		return narrow.members.StoreAway() && narrow.owned() == 0 && whole.owned()+slow.owned() == testShards
	})
	if taken, _ := narrow.store.Commits(); !taken.After(narrowed) {
		t.Error("no short commit was taken over the narrow line")
	}
	if slow.members.StoreAway() {
		t.Error("a node is away whose commits have just begun to be in vain")
	}
	t.Logf("the narrow line's shards were others' after %v", took)
	took += eventually(t, patience, "the slow line's shards are the whole one's, too", func() bool {
		return slow.members.StoreAway() && whole.owned() == testShards
	})
	t.Logf("the slow line's shards were the whole one's after %v", took)
}
