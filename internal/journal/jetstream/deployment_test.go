package jetstream_test

import (
	"context"
	"errors"
	"testing"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// belongs is a store of that deployment, which notes what the streams said they belong to.
func belongs(to string, streams *string) func(context.Context, string) (string, error) {
	return func(_ context.Context, id string) (string, error) {
		*streams = id
		return to, nil
	}
}

func wantForeign(t *testing.T, err error, streams, store string) {
	t.Helper()
	if foreign, ok := errors.AsType[*jetstream.ForeignError](err); !ok || *foreign != (jetstream.ForeignError{Streams: streams, Store: store}) {
		t.Errorf("error %v, want that the streams are those of %s and the store that of %s", err, streams, store)
	}
}

// briefly opens a log and closes it.
func briefly(t *testing.T, dir string, o jetstream.Options, do func(*jetstream.Log)) {
	t.Helper()
	o.Shards = 2
	l, err := openIn(dir, quiet(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	do(l.Log)
}

// TestDeployment: streams belong to the deployment of the store that they were made or first opened with, whatever else
// changes, and those of another are left as they are.
func TestDeployment(t *testing.T) {
	dir := t.TempDir()
	var streams string
	reopen := func(o jetstream.Options, want string) {
		t.Helper()
		streams = "not asked"
		briefly(t, dir, o, func(*jetstream.Log) {})
		if o.Identify != nil && streams != want {
			t.Errorf("the streams say that they belong to %q, want %q", streams, want)
		}
	}
	reopen(jetstream.Options{}, "") // as older versions did
	reopen(jetstream.Options{Identify: belongs("", &streams)}, "")
	reopen(jetstream.Options{Identify: belongs("one", &streams)}, "")
	reopen(jetstream.Options{Identify: belongs("one", &streams), MaxBytes: 32 << 20}, "one")
	reopen(jetstream.Options{Identify: belongs("", &streams), MaxBytes: 33 << 20}, "one")
	reopen(jetstream.Options{MaxBytes: 34 << 20}, "")
	reopen(jetstream.Options{Identify: belongs("one", &streams)}, "one")

	// A store that is far ahead of what is in the streams would have their sequences raised.
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: 2, Identify: belongs("another", &streams),
		Positions: positions(map[journal.Partition]uint64{{}: 1000}, nil)})
	if err == nil {
		closing(t, l)
	}
	wantForeign(t, err, "one", "another")
	down := errors.New("down")
	if _, err := openIn(dir, quiet(), jetstream.Options{Shards: 2, Identify: func(context.Context, string) (string, error) { return "", down }}); !errors.Is(err, down) {
		t.Errorf("a store that fails: error %v", err)
	}
	briefly(t, dir, jetstream.Options{Identify: belongs("one", &streams)}, func(l *jetstream.Log) {
		if seq, err := l.Append(t.Context(), journal.Partition{}, nil); err != nil || seq != 1 {
			t.Errorf("sequence %d, error %v; want 1", seq, err)
		}
	})
}

// TestMark: a store that comes when the streams are open says then whose it is.
func TestMark(t *testing.T) {
	dir := t.TempDir()
	briefly(t, dir, jetstream.Options{}, func(*jetstream.Log) {})
	var streams string
	late := jetstream.Options{Identify: belongs("", &streams)}
	briefly(t, dir, late, func(l *jetstream.Log) {
		if id := l.Deployment(); id != "" {
			t.Errorf("streams of an older version say that they belong to %s", id)
		}
		for range 2 {
			if err := l.Mark(t.Context(), "one"); err != nil {
				t.Error(err)
			}
		}
		wantForeign(t, l.Mark(t.Context(), "another"), "one", "another")
	})
	briefly(t, dir, late, func(l *jetstream.Log) {
		if id := l.Deployment(); id != "one" {
			t.Errorf("marked streams say that they belong to %q", id)
		}
		wantForeign(t, l.Mark(t.Context(), "another"), "one", "another")
		if err := l.Mark(t.Context(), "one"); err != nil {
			t.Error(err)
		}
	})
}

// TestDeploymentOfACluster: nodes that start together have the streams made for one deployment, and one of another finds out, also
// when it was told late whose its store is.
func TestDeploymentOfACluster(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := clustertest.Start(t, 3, nil)
	opened := make(chan error, c.Len())
	for i := range c.Len() {
		go func() {
			var streams string
			l, err := clustered(t, c, i, jetstream.Options{Shards: 2, Identify: belongs("one", &streams)})
			if err == nil {
				err = l.Close()
			}
			opened <- err
		}()
	}
	for range c.Len() {
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
	}
	var streams string
	_, err := clustered(t, c, 1, jetstream.Options{Shards: 2, Identify: belongs("another", &streams)})
	wantForeign(t, err, "one", "another")
	l, err := clustered(t, c, 2, jetstream.Options{Shards: 2, Identify: belongs("", &streams)})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	wantForeign(t, l.Mark(t.Context(), "another"), "one", "another")
}
