package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// accepts waits until so many more messages are accepted.
func (r *crashRun) accepts(more int) {
	r.t.Helper()
	now := r.ledger.close(crashIsAway).accepted
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for r.ledger.close(crashIsAway).accepted < now+more {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("not %d more messages were accepted within a minute", more)
		}
	}
}

// The database is restored from a copy that was taken under load, while the nodes are stopped: the journal has what it
// lost.
func TestClusterStoreSetBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t, clusterArgs()...)
	clusterLoad(t, c, func(r *crashRun) {
		r.accepts(300)
		if err := c.pg.Backup(); err != nil {
			t.Fatal(err)
		}
		r.accepts(500)
		r.serve(nil)
		for _, s := range c.servers {
			s.kill()
		}
		if err := errors.Join(c.pg.Stop(), c.pg.Restore(), c.pg.Resume()); err != nil {
			t.Fatal(err)
		}
		for i := range c.servers {
			c.launch(i)
		}
		for _, s := range c.servers {
			if err := s.ready(); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, s := range c.servers {
		s.stop()
	}
}

// A node loses its disk and is started with an empty directory under its name. It copies what the others have, so
// that then another one may die.
func TestClusterLosesADisk(t *testing.T) {
	t.Parallel()
	c := startCluster(t, clusterArgs()...)
	clusterLoad(t, c, func(r *crashRun) {
		without := func(i int) {
			left := slices.Clone(c.servers)
			left[i] = nil
			r.serve(left...)
			c.servers[i].kill()
		}
		back := func(i int) {
			if err := c.launch(i).ready(); err != nil {
				t.Fatal(err)
			}
			r.serve(c.servers...)
			r.arrives(60 * time.Second)
		}
		r.accepts(300)
		without(2)
		if err := os.RemoveAll(filepath.Join(c.dir, "2")); err != nil {
			t.Fatal(err)
		}
		back(2)
		without(0)
		r.arrives(60 * time.Second)
		back(0)
	})
	for _, s := range c.servers {
		s.stop()
	}
}
