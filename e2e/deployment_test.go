package e2e

import (
	"context"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// deployments returns the identifiers in what a server says that does not start with a journal and a store of two deployments.
func (s *server) deployments() (journal, store string) {
	s.t.Helper()
	s.refused("do not belong together")
	m := regexp.MustCompile(`the streams are those of deployment (\w+), the store that of deployment (\w+)`).FindStringSubmatch(s.tail(4 << 10))
	if m == nil {
		s.t.Fatalf("it does not name two deployments:\n%s", s.tail(4<<10))
	}
	return m[1], m[2]
}

// A server is started with another deployment's store: it refuses, and both deployments go on as they were. Told that it is meant,
// it goes on with that store, and delivers what is in its journal.
func TestStoreOfAnotherDeployment(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	waits := map[string]string{one: "of the first", two: "of the second"}
	for dir, content := range waits {
		s := start(t, dir)
		a := s.api()
		s.awaitStatus(a, a.mustSend(t, outgoing{To: "alice", Content: content}).ID, "queued")
		s.stop()
	}
	foreign := []string{"--store", "sqlite:" + filepath.Join(two, "esh3ar.db")}
	journal, store := launch(t, one, foreign...).deployments()
	if journal == store {
		t.Errorf("both are %s", journal)
	}
	start(t, two).stop()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"migrate", "adopt", journal, "--data", one}, foreign...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), journal) {
		t.Fatalf("adopting: %v\n%s", err, out)
	}
	s := start(t, one, foreign...)
	got := s.receive(t, "alice")
	for len(waits) > 0 {
		select {
		case content := <-got:
			maps.DeleteFunc(waits, func(_, waited string) bool { return waited == content })
		case <-time.After(30 * time.Second):
			t.Fatalf("not received: %v", waits)
		}
	}
	s.stop()
	other, _ := launch(t, two).deployments()
	if other != store {
		t.Errorf("the store's former journal is that of %s, not of %s", other, store)
	}
}

// A node of a cluster is started with the database of another deployment, while the others run and keep the journal. It refuses, an
// elastic one likewise, and the others go on. With the right database it takes part again.
func TestClusterOverAnotherDatabase(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "--log-level", "warn")
	ours := d.store
	_, theirs := database(t)
	stranger := start(t, t.TempDir(), "--store", theirs, "--shards", "4")
	a := stranger.api()
	stranger.awaitStatus(a, a.mustSend(t, outgoing{To: "alice", Content: "theirs"}).ID, "queued")
	stranger.stop()

	c := d.core(3)
	for i := range c.servers {
		c.launch(i)
	}
	mustBeReady(t, c.servers...)
	c.servers[2].stop()
	d.store = theirs
	journal, store := c.launch(2).deployments()
	if again, other := d.elastic("elastic").deployments(); again != journal || other != store || journal == store {
		t.Errorf("a core node speaks of %s and %s, an elastic one of %s and %s", journal, store, again, other)
	}
	a = c.servers[0].api()
	m := a.mustSend(t, outgoing{To: "alice", Content: "ours"})
	d.store = ours
	mustBeReady(t, c.launch(2))
	if got := <-c.servers[2].receive(t, "alice"); got != "ours" {
		t.Errorf("received %q", got)
	}
	c.servers[0].awaitStatus(a, m.ID, "delivered")
	for _, s := range c.servers {
		s.stop()
	}
}
