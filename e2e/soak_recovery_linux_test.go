//go:build soak

package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lot sends n messages to recipients chosen by to, a thousand in each request, and returns their ids in
// order.
func (a *api) lot(t *testing.T, n int, to func(i int) string) []string {
	t.Helper()
	ids := make([]string, 0, n)
	for len(ids) < n {
		batch := make([]outgoing, min(1000, n-len(ids)))
		for i := range batch {
			batch[i] = outgoing{To: to(len(ids) + i), Content: fmt.Sprintf("message %d of a great lot, and what else there is to say", len(ids)+i)}
		}
		results, err := a.sendBatch(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Problem != nil {
				t.Fatal(r.Problem)
			}
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// probe sends a message to a recipient of its own at that pace until ctx ends, and returns how long
// accepting took, and how long it took until the recipient had it.
func probe(ctx context.Context, t *testing.T, s *server, name string, every time.Duration) (accepts, deliveries []time.Duration) {
	a := newAPI(s.url)
	defer a.close()
	p := newPhone(t, s, name, false)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return accepts, deliveries
		case <-tick.C:
		}
		began := time.Now()
		if _, err := a.send(t.Context(), outgoing{To: name, Content: fmt.Sprint(n)}); err != nil {
			t.Errorf("the probe: %v", err)
			return accepts, deliveries
		}
		accepts = append(accepts, time.Since(began))
		select {
		case <-p.got:
			deliveries = append(deliveries, time.Since(began))
		case <-time.After(20 * time.Second):
			t.Error("the probe's message does not arrive")
			return accepts, deliveries
		}
	}
}

// TestReconnectStorm lets 10,000 recipients with 10 waiting messages each connect at once.
func TestReconnectStorm(t *testing.T) {
	const recipients, each = 10_000, 10
	s := launchPlain(t, t.TempDir(), nil)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	a := s.api()
	name := func(i int) string { return fmt.Sprint("r", i%recipients) }
	ids := a.lot(t, recipients*each, name)
	s.awaitStatus(a, ids[len(ids)-1], "queued")
	tokens := make([]string, recipients)
	for i := range tokens {
		tokens[i] = token(t, name(i), time.Hour)
	}

	calmCtx, calmed := context.WithTimeout(t.Context(), 3*time.Second)
	defer calmed()
	calm, _ := probe(calmCtx, t, s, "calm", 20*time.Millisecond)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var probing sync.WaitGroup
	var accepts []time.Duration
	probing.Go(func() { accepts, _ = probe(ctx, t, s, "probe", 20*time.Millisecond) })

	var caughtUp atomic.Int64
	done := make(chan struct{})
	work := make(chan int)
	var dialers sync.WaitGroup
	devices := make([]*device, recipients)
	began := time.Now()
	for range 64 {
		dialers.Go(func() {
			for i := range work {
				var d *device
				ready := make(chan struct{})
				var got []string
				d, err := dial(s.url, tokens[i], func(m delivery) {
					<-ready
					if n := len(got); n < each && m.ID != ids[n*recipients+i] {
						t.Errorf("%s got %s, want %s", name(i), m.ID, ids[n*recipients+i])
					}
					got = append(got, m.ID)
					if len(got) == each && d.acknowledge(got...) == nil && caughtUp.Add(1) == recipients {
						close(done)
					}
				})
				if err != nil {
					t.Errorf("device %d: %v", i, err)
					return
				}
				devices[i] = d
				close(ready)
			}
		})
	}
	for i := range recipients {
		work <- i
	}
	close(work)
	dialers.Wait()
	connected := time.Since(began)
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Errorf("only %d of %d have caught up", caughtUp.Load(), recipients)
	}
	took := time.Since(began)
	stop()
	probing.Wait()
	t.Logf("%d recipients connected within %s and had caught up %d messages after %s; accept meanwhile p50 %s, p99 %s, max %s (%d probes), before that p50 %s, p99 %s",
		recipients, connected.Round(time.Millisecond), recipients*each, took.Round(time.Millisecond), quantile(accepts, 0.5), quantile(accepts, 0.99), quantile(accepts, 1), len(accepts),
		quantile(calm, 0.5), quantile(calm, 0.99))
	if took > 10*time.Second {
		t.Errorf("catching up took %s, more than 10 s", took)
	}
	if p99 := quantile(accepts, 0.99); p99 > 100*time.Millisecond {
		t.Errorf("accept p99 was %s, more than 100 ms", p99)
	}
	s.awaitStatus(a, ids[len(ids)-1], "delivered")
	for _, d := range devices {
		if d != nil {
			d.hangUp()
		}
	}
	s.stop()
}

// TestMillionInJournal kills the server with a million accepted messages that only the journal has,
// starts it again and times how soon it accepts. In the end every message is stored.
func TestMillionInJournal(t *testing.T) {
	const n = 1_000_000
	pg, store := database(t)
	dir := t.TempDir()
	s := launchPlain(t, dir, nil, "--store", store)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	a := s.api()
	first := a.mustSend(t, outgoing{To: "r0", Content: "first"}).ID
	s.awaitStatus(a, first, "queued")
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ids := append(a.lot(t, n, func(i int) string { return fmt.Sprint("r", i%20_000) }), first)
	filled := time.Since(began)
	before := s.peakMemory()
	s.kill()
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}

	began = time.Now()
	s = launchPlain(t, dir, nil, "--store", store)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	a = s.api()
	extra := a.mustSend(t, outgoing{To: "r1", Content: "after the crash"})
	accepting := time.Since(began)
	ids = append(ids, extra.ID)
	if accepting > 2*time.Second {
		t.Errorf("accepting again after %s, more than 2 s", accepting)
	}

	db, err := sql.Open("pgx", store)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows int
	if err := s.poll(10*time.Minute, "everything to be stored", func() bool {
		return db.QueryRowContext(t.Context(), "SELECT count(*) FROM queue").Scan(&rows) == nil && rows >= len(ids)
	}); err != nil {
		t.Errorf("%v: %d rows", err, rows)
	}
	stored := time.Since(began)
	missing := make(map[string]struct{}, len(ids))
	for _, id := range ids {
		missing[id] = struct{}{}
	}
	found, err := db.QueryContext(t.Context(), "SELECT id::text FROM queue")
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		var id string
		if err := found.Scan(&id); err != nil {
			t.Fatal(err)
		}
		delete(missing, id)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	if len(missing) > 0 || rows != len(ids) {
		t.Errorf("%d messages are lost; %d rows for %d messages", len(missing), rows, len(ids))
	}
	peak := s.peakMemory()
	t.Logf("%d messages accepted without a database within %s (peak %d MiB); after SIGKILL accepting again within %s, all stored after %s (peak %d MiB)",
		n, filled.Round(time.Second), before>>20, accepting.Round(time.Millisecond), stored.Round(time.Second), peak>>20)
	if peak > 1<<30 || before > 1<<30 {
		t.Errorf("memory is not bounded: %d MiB before, %d MiB after", before>>20, peak>>20)
	}
	s.stop()
}

// TestBigInbox connects a recipient with 100,000 waiting messages and measures what others notice of it.
func TestBigInbox(t *testing.T) {
	const n = 100_000
	s := launchPlain(t, t.TempDir(), nil)
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	a := s.api()
	ids := a.lot(t, n, func(int) string { return "big" })
	s.awaitStatus(a, ids[n-1], "queued")
	measure := func(until <-chan struct{}) (accepts, deliveries []time.Duration) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var mu sync.Mutex
		var probes sync.WaitGroup
		for i := range 8 {
			probes.Go(func() {
				x, y := probe(ctx, t, s, fmt.Sprint("probe", i), 20*time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				accepts, deliveries = append(accepts, x...), append(deliveries, y...)
			})
		}
		<-until
		stop()
		probes.Wait()
		return accepts, deliveries
	}
	calm := make(chan struct{})
	time.AfterFunc(5*time.Second, func() { close(calm) })
	a0, d0 := measure(calm)

	done := make(chan struct{})
	var d *device
	ready, got := make(chan struct{}), 0
	began := time.Now()
	d, err := dial(s.url, token(t, "big", time.Hour), func(m delivery) {
		<-ready
		if got < n && m.ID != ids[got] {
			t.Errorf("message %d is %s, want %s", got, m.ID, ids[got])
		}
		if d.acknowledge(m.ID) == nil {
			if got++; got == n {
				close(done)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	close(ready)
	defer d.hangUp()
	a1, d1 := measure(done)
	took := time.Since(began)
	t.Logf("others alone: accept p50 %s p99 %s, delivery p50 %s p99 %s; while %d messages are caught up within %s: accept p50 %s p99 %s, delivery p50 %s p99 %s (%d processors)",
		quantile(a0, .5), quantile(a0, .99), quantile(d0, .5), quantile(d0, .99), n, took.Round(time.Millisecond),
		quantile(a1, .5), quantile(a1, .99), quantile(d1, .5), quantile(d1, .99), runtime.GOMAXPROCS(0))
	if p99 := quantile(d1, .99); p99 > max(100*time.Millisecond, 3*quantile(d0, .99)) {
		t.Errorf("the others' delivery p99 is %s", p99)
	}
	if resp, err := http.Get(s.url + "/readyz"); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("readiness: %v", err)
	}
	s.awaitStatus(a, ids[n-1], "delivered")
	s.stop()
}
