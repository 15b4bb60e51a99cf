package cluster_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
)

// TestMajority: a server sees whether the majority of the servers is there, one alone is its own.
func TestMajority(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, nil)
	sees := func(i int, want bool) func() bool { return func() bool { return c.Server(i).Majority() == want } }
	for i := range 3 {
		eventually(t, patience, "the majority", sees(i, true))
	}
	c.Stop(2)
	eventually(t, patience, "two of three are left, and see that", sees(0, true))
	c.Stop(1)
	eventually(t, patience, "one of three is left, and sees that", sees(0, false))
	c.Stop(0)
	if c.Server(0).Majority() {
		t.Error("a server that is closed sees a majority")
	}

	alone, err := cluster.Start(options(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if !alone.Majority() {
		t.Error("a server alone is no majority of one")
	}
	if err := alone.Close(); err != nil {
		t.Error(err)
	}
}

// TestLastToStop: a node that stops when the other servers have gone, without a word of theirs, waits neither for anybody to
// take its shards nor for releases and goodbyes to be stored. As long as it does not stop it keeps on trying.
func TestLastToStop(t *testing.T) {
	t.Parallel()
	c, nodes := startNodes(t)
	last := nodes[0]
	if last.owned() == 0 {
		t.Fatal("it has nothing to hand over")
	}
	c.Kill(1)
	c.Kill(2)
	eventually(t, patience, "the others are not seen any more", func() bool { return !c.Server(0).Majority() })

	const ( // at most, on a busy machine
		drained = 6 * time.Second // 0.6 s as a rule; its error says why it ended
		left    = 2 * time.Second // next to nothing as a rule; a release that nobody answers would take that
		closed  = 8 * time.Second
	)
	took := func(what string, began time.Time, most time.Duration) {
		t.Helper()
		d := time.Since(began)
		t.Logf("%s took %v", what, d)
		if d >= most {
			t.Errorf("%s took %v, with others gone", what, d)
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := last.leases.Drain(ctx); !errors.Is(err, cluster.ErrMajorityGone) {
		t.Errorf("the shards of the last node: %v", err)
	}
	took("the drain of the last node", began, drained)
	began = time.Now()
	last.leave()
	last.stop()
	took("its end", began, left)
	began = time.Now()
	c.Stop(0)
	took("the end of its server", began, closed)
}
