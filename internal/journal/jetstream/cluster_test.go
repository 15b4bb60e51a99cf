package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/journal/journaltest"
)

// clustered opens a log with three replicas on one of a cluster's servers.
func clustered(t testing.TB, c *clustertest.Cluster, server int, o jetstream.Options) (*jetstream.Log, error) {
	t.Helper()
	o.Server, o.Replicas = c.Server(server), 3
	if o.Logger == nil {
		o.Logger = quiet()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	return jetstream.Open(ctx, o)
}

// admin is a connection to a cluster past the log.
func admin(t testing.TB, c *clustertest.Cluster, server int) natsjs.JetStream {
	t.Helper()
	nc, err := c.Server(server).Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// removeStreams leaves a cluster without a journal.
func removeStreams(t testing.TB, js natsjs.JetStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		if err := js.DeleteStream(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if names.Err() != nil {
		t.Fatal(names.Err())
	}
}

// awaitStreams waits until the log's server has heard that the leaders of new
// streams listen. Until then appends fail as unavailable, rightly, but not in the
// suite's eyes.
func awaitStreams(t testing.TB, l *jetstream.Log, shards int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for shard := range shards {
		for {
			_, err := l.Barrier(ctx, uint16(shard))
			if err == nil {
				break
			}
			if !errors.Is(err, journal.ErrUnavailable) || ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestClusterConformance(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := clustertest.Start(t, 3, nil)
	js := admin(t, c, 0)
	opened := 0
	journaltest.Run(t, func(t *testing.T) journaltest.Harness {
		removeStreams(t, js)
		return journaltest.Harness{Open: func(t testing.TB, o journaltest.Options) journal.Log {
			opened++
			l, err := clustered(t, c, opened%c.Len(), jetstream.Options{Shards: o.Shards, MaxBytes: o.MaxBytes})
			if err != nil {
				t.Fatal(err)
			}
			awaitStreams(t, l, o.Shards)
			return l
		}}
	})
}

// leaders returns which server leads each stream of the journal.
func leaders(t testing.TB, js natsjs.JetStream, shards int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	leaders := make([]string, shards)
	for i := range leaders {
		s, err := js.Stream(ctx, fmt.Sprint("ESH3AR_JOURNAL_", i))
		if err != nil {
			t.Fatal(err)
		}
		leaders[i] = s.CachedInfo().Cluster.Leader
	}
	return leaders
}

// recovery is how soon after the death of a stream's leader it takes entries
// again.
const recovery = 10 * time.Second

// TestLeaderKilled kills a stream's leader under appends from all nodes.
// Nothing that was acknowledged is lost or out of order, and appends go on
// soon.
func TestLeaderKilled(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	const shards = 3
	c := clustertest.Start(t, 3, nil)
	logs := make([]*jetstream.Log, 3)
	var opening sync.WaitGroup
	for i := range logs { // at once
		opening.Go(func() {
			var err error
			if logs[i], err = clustered(t, c, i, jetstream.Options{Shards: shards}); err != nil {
				t.Error(err)
			}
		})
	}
	opening.Wait()
	if t.Failed() {
		return
	}
	for _, l := range logs {
		t.Cleanup(func() { closing(t, l) })
	}
	lead := leaders(t, admin(t, c, 0), shards)
	t.Log("leaders", lead)
	victim := int(lead[0][1] - '0')
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	// A reader on another node for every shard, which nobody helps.
	readers := make([]journal.Reader, shards)
	for shard := range readers {
		r, err := logs[(victim+1)%3].Read(ctx, journal.Partition{Shard: uint16(shard)}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers[shard] = r
	}

	// Every node appends to every shard.
	type key struct{ node, shard int }
	var (
		mu       sync.Mutex
		acked    = map[key][]uint64{}
		lastGood = map[key]time.Time{}
		worst    = map[key]time.Duration{}
		kinds    = map[string]int{}
		dead     = map[int]bool{}
	)
	appending, stop := context.WithCancel(ctx)
	var appenders sync.WaitGroup
	for node, l := range logs {
		for shard := range shards {
			k := key{node, shard}
			appenders.Go(func() {
				for n := 0; appending.Err() == nil; n++ {
					one, cancel := context.WithTimeout(ctx, time.Second)
					began := time.Now()
					seq, err := l.Append(one, journal.Partition{Shard: uint16(shard)}, fmt.Appendf(nil, "%d/%d", node, n))
					cancel()
					mu.Lock()
					switch {
					case err == nil:
						acked[k] = append(acked[k], seq)
						if good, ok := lastGood[k]; ok {
							worst[k] = max(worst[k], time.Since(good))
						}
						lastGood[k] = time.Now()
					case errors.Is(err, journal.ErrUnavailable):
						kinds["unavailable"]++
					case errors.Is(err, journal.ErrUnknown):
						kinds["unknown"]++
					default:
						t.Errorf("append: %v", err)
					}
					gone := dead[node]
					mu.Unlock()
					// It ends with its context; how soon after that is the machine's matter.
					if took := time.Since(began); took > recovery {
						t.Errorf("an append of one second took %v", took)
					}
					if gone {
						return
					}
					if err != nil { // another try soon
						select {
						case <-time.After(20 * time.Millisecond):
						case <-appending.Done():
						}
					}
				}
			})
		}
	}
	progress := func(what string, atLeast int) {
		t.Helper()
		mu.Lock()
		start := map[key]int{}
		for k := range acked {
			start[k] = len(acked[k])
		}
		mu.Unlock()
		began := time.Now()
		for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
			mu.Lock()
			ok := true
			for node := range logs {
				for shard := range shards {
					if k := (key{node, shard}); !dead[node] && len(acked[k]) < start[k]+atLeast {
						ok = false
					}
				}
			}
			mu.Unlock()
			if ok {
				t.Log(what, time.Since(began))
				return
			}
			if time.Since(began) > 40*time.Second {
				t.Fatalf("%s: no progress", what)
			}
		}
	}
	progress("before", 50)
	mu.Lock()
	dead[victim] = true
	mu.Unlock()
	c.Kill(victim)
	progress("after the kill", 50)
	mu.Lock()
	for k, w := range worst {
		t.Logf("node %d shard %d (led by %s): at most %v between two appends, %d in all", k.node, k.shard, lead[k.shard], w.Round(time.Millisecond), len(acked[k]))
		if k.node != victim && w > recovery {
			t.Errorf("node %d could append nothing to shard %d for %v", k.node, k.shard, w)
		}
		if k.node != victim && lead[k.shard] != lead[0] && w > 3*time.Second {
			t.Errorf("shard %d, whose leader lives, took nothing from node %d for %v", k.shard, k.node, w)
		}
	}
	t.Log(kinds)
	mu.Unlock()
	stop()
	appenders.Wait()

	for shard := range shards {
		last, err := logs[(victim+2)%3].Last(ctx, journal.Partition{Shard: uint16(shard)})
		if err != nil {
			t.Fatal(err)
		}
		all := map[uint64]string{}
		for seq := uint64(0); seq < last; {
			e, err := readers[shard].Next(ctx)
			if err != nil || e.Seq <= seq {
				t.Fatalf("shard %d: entry %d after %d, error %v", shard, e.Seq, seq, err)
			}
			seq = e.Seq
			all[seq] = string(e.Data)
		}
		for k, seqs := range acked {
			if k.shard != shard {
				continue
			}
			last := -1
			for _, seq := range seqs {
				var node, n int
				if _, err := fmt.Sscanf(all[seq], "%d/%d", &node, &n); err != nil || node != k.node || n <= last {
					t.Fatalf("shard %d: entry %d of node %d is %q", shard, seq, k.node, all[seq])
				}
				last = n
			}
		}
	}
	c.Restart(victim)
	c.Ready(victim)
	back, err := clustered(t, c, victim, jetstream.Options{Shards: shards})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, back)
	if _, err := back.Append(ctx, journal.Partition{}, nil); err != nil {
		t.Errorf("append by the node that came back: %v", err)
	}
}

// TestFewerReplicas: one node with another setting does not break the promise of all.
func TestFewerReplicas(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := clustertest.Start(t, 3, nil)
	l, err := clustered(t, c, 0, jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, replicas := range []int{1, 2} {
		other, err := jetstream.Open(t.Context(), jetstream.Options{Server: c.Server(1), Shards: 1, Replicas: replicas, Logger: quiet()})
		if err == nil {
			other.Close()
		}
		if !errors.Is(err, jetstream.ErrSettings) || errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("opened with %d replicas: %v", replicas, err)
		}
	}
	s, err := admin(t, c, 2).Stream(t.Context(), jetstream.StreamNames(1)[0])
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().Config.Replicas; n != 3 {
		t.Errorf("%d replicas are left", n)
	}
}

// TestMinority cuts off the server that leads a stream. What is appended there
// is surely not stored, or may be, and is never acknowledged; the others go on,
// and when the cut is healed so does the one.
func TestMinority(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := clustertest.Start(t, 3, nil)
	p := journal.Partition{}
	logs := make([]*jetstream.Log, 3)
	for i := range logs {
		l, err := clustered(t, c, i, jetstream.Options{Shards: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closing(t, l) })
		logs[i] = l
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	try := func(node int, data string) error {
		one, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		_, err := logs[node].Append(one, p, []byte(data))
		return err
	}
	// until appends until the node takes it.
	until := func(node int, data string) {
		t.Helper()
		began := time.Now()
		for {
			err := try(node, data)
			if err == nil {
				t.Logf("node %d took %q after %v", node, data, time.Since(began))
				return
			}
			if !errors.Is(err, journal.ErrUnavailable) && !errors.Is(err, journal.ErrUnknown) {
				t.Fatalf("append: %v", err)
			}
			if time.Since(began) > 40*time.Second {
				t.Fatalf("node %d does not take %q: %v", node, data, err)
			}
		}
	}
	until(0, "before")
	i := int(leaders(t, admin(t, c, 0), 1)[0][1] - '0')
	c.Cut(i)
	for range 3 {
		if err := try(i, "by the minority"); !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("append to the leader of a minority: %v", err)
		}
	}
	until((i+1)%3, "by the majority")
	until((i+2)%3, "by the majority too")
	if err := try(i, "by the minority, late"); !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("append in a minority: %v", err)
	}
	asking, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if seq, err := logs[i].Barrier(asking, 0); err == nil {
		t.Errorf("a minority has a barrier: %d", seq)
	}
	c.Heal(i)
	until(i, "healed")
	end, err := logs[i].Barrier(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := logs[(i+1)%3].Read(ctx, p, 0)
	for errors.Is(err, journal.ErrUnavailable) && ctx.Err() == nil { // the servers may still agree on who leads them
		r, err = logs[(i+1)%3].Read(ctx, p, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := logs[i].Append(ctx, p, []byte("after the barrier")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e := (journal.Entry{}); e.Seq < end; {
		if e, err = r.Next(ctx); err != nil {
			t.Fatal(err)
		}
		if e.Seq < end && !strings.HasPrefix(string(e.Data), "by the minority") {
			got = append(got, string(e.Data))
		}
	}
	// What was not acknowledged in time may be stored all the same, and twice.
	for _, want := range []string{"before", "by the majority", "by the majority too", "healed"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %q, below the barrier", want, got)
		}
	}
}
