package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/admission"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
)

// addClient makes a client and a key of it, named like it.
func (s *service) addClient(c esh3ar.Client) {
	s.t.Helper()
	c.Scopes, c.CreatedAt = esh3ar.AllScopes, testNow
	if _, err := s.store.PutClient(s.t.Context(), c, store.AuditEntry{At: testNow}); err != nil {
		s.t.Fatal(err)
	}
	key := esh3ar.APIKey{ID: "k-" + c.ID, Hash: esh3ar.HashKey("esh_" + c.ID), Client: c.ID, CreatedAt: testNow}
	if err := s.store.PutKeys(s.t.Context(), []esh3ar.APIKey{key}, store.AuditEntry{At: testNow}); err != nil {
		s.t.Fatal(err)
	}
}

// run runs the API until the test ends, or until stop.
func (s *service) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = s.api.Run(ctx) // ctx's end
	}()
	stop = func() { cancel(); <-ran }
	s.t.Cleanup(stop)
	return stop
}

func batchOf(n int, key string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,{"to":"a","content":"b","idempotency_key":"%s-%d"}`, key, i)
	}
	return `{"messages":[` + b.String()[1:] + `]}`
}

// moodyJournal keeps nothing, and fails when it is told to.
type moodyJournal struct{ fail error }

func (j *moodyJournal) Append(context.Context, journal.Partition, []byte) error { return j.fail }
func (j *moodyJournal) AppendAll(_ context.Context, items []journal.Item) {
	for i := range items {
		items[i].Err = j.fail
	}
}

func TestRateOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // time stands still but where it is said to pass
		keys, j, registry := newKeyTable(), new(moodyJournal), prometheus.NewRegistry()
		keys.clients[esh3ar.HashKey("carol")] = esh3ar.Client{ID: "carol", Name: "Carol", Tier: esh3ar.TierSilver, Scopes: esh3ar.AllScopes, Rate: 1, Burst: 3}
		keys.clients[esh3ar.HashKey("dave")] = esh3ar.Client{ID: "dave", Name: "Dave", Scopes: esh3ar.AllScopes}
		a := testAPI(t, Options{Keys: keys, Journal: j, Metrics: registry, Log: slog.New(slog.DiscardHandler)})
		do := func(key, path, body string, headers ...string) answer {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+key)
			for i := 0; i < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			return answer{w.Code, canonical(w.Header()), w.Body.String()}
		}
		const path, batch, body = "/v1/messages", "/v1/messages/batch", `{"to":"a","content":"b"}`
		if a := do("carol", path, body, "Idempotency-Key", "once"); a.status != http.StatusAccepted ||
			a.header.Get("RateLimit-Policy") != `"rate";q=1;w=1` || a.header.Get("RateLimit") != `"rate";r=2;t=1` {
			t.Errorf("%+v", a)
		}
		// A repetition costs nothing.
		for range 5 {
			if a := do("carol", path, body, "Idempotency-Key", "once"); a.status != http.StatusAccepted {
				t.Errorf("%+v", a)
			}
		}
		// All of a batch or nothing.
		if a := do("carol", batch, batchOf(3, "x")); a.status != http.StatusTooManyRequests ||
			!strings.Contains(a.body, "nothing of it was accepted") || a.header.Get("Retry-After") != "1" {
			t.Errorf("%+v", a)
		}
		// What cannot be accepted costs nothing either.
		j.fail = journal.ErrUnavailable
		for range 5 {
			if a := do("carol", path, body); a.status != http.StatusServiceUnavailable {
				t.Errorf("%+v", a)
			}
			if a := do("carol", batch, batchOf(2, "x")); a.status != http.StatusMultiStatus || a.header.Get("Retry-After") == "" {
				t.Errorf("%+v", a)
			}
		}
		j.fail = nil
		if a := do("carol", batch, batchOf(2, "x")); a.status != http.StatusAccepted || a.header.Get("RateLimit") != `"rate";r=0;t=1` {
			t.Errorf("%+v", a)
		}
		if a := do("carol", path, body); a.status != http.StatusTooManyRequests || !strings.Contains(a.body, `"code":"rate_limited","permanent":false`) ||
			a.header.Get("RateLimit") != `"rate";r=0;t=1` || a.header.Get("Retry-After") != "1" {
			t.Errorf("%+v", a)
		}
		// Others do not notice, and are told of no limits.
		if a := do("dave", path, body); a.status != http.StatusAccepted || a.header.Get("RateLimit") != "" || a.header.Get("RateLimit-Policy") != "" {
			t.Errorf("%+v", a)
		}
		// A batch larger than the burst goes through when the bucket is full, and is owed for. What may have been
		// accepted stays charged.
		time.Sleep(3 * time.Second)
		j.fail = journal.ErrUnknown
		if a := do("carol", batch, batchOf(10, "y")); a.status != http.StatusMultiStatus {
			t.Errorf("%+v", a)
		}
		j.fail = nil
		if a := do("carol", path, body); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "8" {
			t.Errorf("%+v", a)
		}
		time.Sleep(8 * time.Second)
		j.fail = journal.ErrUnknown
		if a := do("carol", path, body); a.status != http.StatusServiceUnavailable {
			t.Errorf("%+v", a)
		}
		j.fail = nil
		if a := do("carol", path, body); a.status != http.StatusTooManyRequests {
			t.Errorf("%+v", a)
		}
		if n := (&service{t: t, metrics: registry}).metric("esh3ar_admission_refusals_total", "rate"); n != 4 {
			t.Errorf("%v refusals are counted", n)
		}
	})
}

// A call waits for its turn if that comes soon, and no longer.
func TestBriefWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := newKeyTable()
		keys.clients[esh3ar.HashKey("k")] = esh3ar.Client{ID: "c", Name: "C", Tier: esh3ar.TierGold, Scopes: esh3ar.AllScopes, Rate: 20, Burst: 1}
		a := testAPI(t, Options{Keys: keys, Journal: noJournal{}, AdmissionWait: 100 * time.Millisecond})
		start := time.Now()
		var calls sync.WaitGroup
		var accepted atomic.Int64
		for range 5 {
			calls.Go(func() {
				status, header := post1(t, a, "k")
				switch status {
				case http.StatusAccepted:
					accepted.Add(1)
				case http.StatusTooManyRequests:
					if time.Since(start) > 0 || header.Get("Retry-After") != "1" {
						t.Errorf("refused after %s: %v", time.Since(start), header)
					}
				default:
					t.Errorf("status %d", status)
				}
			})
		}
		synctest.Wait()
		if n := a.load.inFlight(); n != 0 {
			t.Errorf("%d calls that wait for their client's rate count as load", n)
		}
		calls.Wait()
		if took := a.load.took.Load(); took != 0 {
			t.Errorf("the wait counts as latency: %s", time.Duration(took))
		}
		if n := accepted.Load(); n != 3 || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%d of five accepted in %s", n, time.Since(start))
		}
		if n := a.InFlight(); n != 0 {
			t.Errorf("%d calls are under way", n)
		}
	})
}

// testAPI returns an API for tests that need no store.
func testAPI(t *testing.T, o Options) *API {
	t.Helper()
	o.Messages, o.Operator, o.Auditor, o.Shards, o.IdempotencyWindow = noMessages{}, struct{ Operator }{}, struct{ Auditor }{}, 2, time.Hour
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// post1 sends a message without a network.
func post1(t *testing.T, a *API, key string) (status int, header http.Header) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/v1/messages", strings.NewReader(benchBody))
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	r.Header.Set("Authorization", "Bearer "+key)
	w := &nobody{header: make(http.Header)}
	a.ServeHTTP(w, r)
	return w.status, canonical(w.header)
}

// canonical is a header as it is read from a network.
func canonical(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		out[http.CanonicalHeaderKey(name)] = values
	}
	return out
}

// The quota of a day is counted over restarts, and a new day begins at midnight UTC.
func TestDailyQuota(t *testing.T) {
	var now atomic.Pointer[time.Time]
	at := func(text string) {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		now.Store(&v)
	}
	at("2026-11-25T20:59:50-01:00") // 21:59:50 UTC
	s := newService(t, func(o *Options) { o.Now = func() time.Time { return *now.Load() } })
	s.addClient(esh3ar.Client{ID: "carol", Name: "Carol", Tier: esh3ar.TierBronze, DailyQuota: 10})
	stop := s.run()
	auth := []string{"Authorization", "Bearer esh_carol"}
	day, _ := admission.Day(*now.Load())
	if a := s.do("POST", "/v1/messages/batch", batchOf(7, "x"), auth...); a.status != http.StatusAccepted ||
		a.header.Get("RateLimit-Policy") != `"day";q=10;w=86400` || a.header.Get("RateLimit") != `"day";r=3;t=7210` {
		t.Errorf("%+v", a)
	}
	if a := s.do("POST", "/v1/messages/batch", batchOf(4, "y"), auth...); a.status != http.StatusTooManyRequests ||
		!strings.Contains(a.body, `"code":"quota_exhausted"`) || a.header.Get("Retry-After") != "7210" {
		t.Errorf("%+v", a)
	}
	stop() // which reports what is not reported yet
	if total, err := s.store.AddUsage(t.Context(), day, map[string]int64{"carol": 0}); err != nil || total["carol"] != 7 {
		t.Errorf("%v, %v", total, err)
	}
	// Another node, or the same after a restart.
	other := testAPI(t, Options{Keys: s.store, Journal: noJournal{}, Usage: s.store, Now: s.api.now})
	if _, err := other.accounts.charge(&esh3ar.Client{ID: "carol", DailyQuota: 10}, 1, s.api.now()); err != nil {
		t.Error(err)
	}
	other.reportOnce(t.Context())
	if _, err := other.accounts.charge(&esh3ar.Client{ID: "carol", DailyQuota: 10}, 3, s.api.now()); err == nil {
		t.Error("what was used before is not counted")
	}
	at("2026-11-25T23:00:01-01:00")
	if c, err := other.accounts.charge(&esh3ar.Client{ID: "carol", DailyQuota: 10}, 10, s.api.now()); err != nil || c.standing.rest != 0 {
		t.Errorf("on the next day: %+v, %v", c, err)
	}
}

// failingUsage is a store's Usage that fails when it is told to.
type failingUsage struct {
	Usage
	fail atomic.Bool
	told atomic.Int64
}

func (f *failingUsage) AddUsage(ctx context.Context, day int64, add map[string]int64) (map[string]int64, error) {
	f.told.Add(1)
	if f.fail.Load() {
		return nil, errors.New("no store")
	}
	return f.Usage.AddUsage(ctx, day, add)
}

// hungUsage is a store's Usage that does not answer.
type hungUsage struct{}

func (hungUsage) AddUsage(ctx context.Context, _ int64, _ map[string]int64) (map[string]int64, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A stop tells what was used on either side of midnight to a store that hangs, and does not wait longer than it may for both.
func TestLastReportOfUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAPI(t, Options{Keys: struct{ Keys }{}, Journal: noJournal{}, Usage: hungUsage{}})
		now := time.Now()
		for i, client := range []string{"carol", "dave"} {
			if _, err := a.accounts.charge(&esh3ar.Client{ID: client, DailyQuota: 5}, 1, now.AddDate(0, 0, i)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		began := time.Now()
		a.reportUsage(ctx)
		if took := time.Since(began); took != lastReport {
			t.Errorf("the last report took %s, want %s", took, lastReport)
		}
	})
}

// What the store did not take is told again, and quotas hold meanwhile.
func TestUsageWhileTheStoreFails(t *testing.T) {
	s := newService(t)
	usage := &failingUsage{Usage: s.store}
	usage.fail.Store(true)
	a := testAPI(t, Options{Keys: s.store, Journal: noJournal{}, Usage: usage})
	carol := &esh3ar.Client{ID: "carol", DailyQuota: 5}
	s.addClient(esh3ar.Client{ID: "carol", Name: "C", DailyQuota: 5})
	now := time.Now()
	for range 3 {
		if _, err := a.accounts.charge(carol, 1, now); err != nil {
			t.Fatal(err)
		}
		a.reportOnce(t.Context())
	}
	if _, err := a.accounts.charge(carol, 3, now); err == nil {
		t.Error("the quota does not hold")
	}
	usage.fail.Store(false)
	a.reportOnce(t.Context())
	day, _ := admission.Day(now)
	if total, err := s.store.AddUsage(t.Context(), day, map[string]int64{"carol": 0}); err != nil || total["carol"] != 3 {
		t.Errorf("%v, %v", total, err)
	}
	told := usage.told.Load()
	a.reportOnce(t.Context())
	if usage.told.Load() != told {
		t.Error("the store is told although nothing was used")
	}
}

// usageMap is Usage in memory.
type usageMap map[string]int64

func (u usageMap) AddUsage(_ context.Context, _ int64, add map[string]int64) (map[string]int64, error) {
	for id, n := range add {
		u[id] += n
	}
	return u, nil
}

// What is used is reported within a second, and when the server stops.
func TestUsageIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		usage := make(usageMap)
		a := testAPI(t, Options{Keys: newKeyTable(), Journal: noJournal{}, Usage: usage})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = a.Run(ctx) })
		charge := func(n int) {
			if _, err := a.accounts.charge(&esh3ar.Client{ID: "c", DailyQuota: 100}, n, time.Now()); err != nil {
				t.Error(err)
			}
		}
		charge(1)
		synctest.Wait()
		if usage["c"] != 1 {
			t.Errorf("a client that is new here is not asked for at once: %v", usage)
		}
		charge(2)
		time.Sleep(time.Second)
		synctest.Wait()
		if usage["c"] != 3 {
			t.Errorf("after a second: %v", usage)
		}
		charge(4)
		stop()
		running.Wait()
		if usage["c"] != 7 {
			t.Errorf("after the stop: %v", usage)
		}
	})
}

// slowJournal makes messages durable one after the other, each in its time, as a disk that is too slow for the load
// does.
type slowJournal struct {
	turn chan struct{} // cap 1
	each atomic.Int64  // nanoseconds
}

func (j *slowJournal) Append(context.Context, journal.Partition, []byte) error {
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	time.Sleep(time.Duration(j.each.Load()))
	return nil
}

func (j *slowJournal) AppendAll(ctx context.Context, items []journal.Item) {
	for i := range items {
		items[i].Err = j.Append(ctx, items[i].Partition, items[i].Record)
	}
}

// When the journal becomes slow bronze is refused, gold goes on at about the wanted latency, and when it is
// over everybody is accepted again.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := newKeyTable()
		for tier := range esh3ar.Tier(esh3ar.Tiers) {
			keys.clients[esh3ar.HashKey(tier.String())] = esh3ar.Client{ID: tier.String(), Name: "C", Tier: tier, Scopes: esh3ar.AllScopes}
		}
		j := &slowJournal{turn: make(chan struct{}, 1)}
		registry := prometheus.NewRegistry()
		a := testAPI(t, Options{Keys: keys, Journal: j, Metrics: registry, AcceptLatency: 100 * time.Millisecond})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = a.Run(ctx) })
		var accepted, refused [esh3ar.Tiers]atomic.Int64
		var slowest atomic.Int64
		load := func(tier esh3ar.Tier, connections int, pause time.Duration) {
			for range connections {
				running.Go(func() {
					for ctx.Err() == nil {
						begin := time.Now()
						switch status, header := post1(t, a, tier.String()); status {
						case http.StatusAccepted:
							accepted[tier].Add(1)
							if tier == esh3ar.TierGold {
								slowest.Store(max(slowest.Load(), int64(time.Since(begin))))
							}
						case http.StatusServiceUnavailable:
							refused[tier].Add(1)
							if s, err := strconv.Atoi(header.Get("Retry-After")); err != nil || s < 1 || s > 3 {
								t.Errorf("Retry-After: %v", header)
							}
						default:
							t.Errorf("status %d", status)
						}
						time.Sleep(pause)
					}
				})
			}
		}
		count := func(d time.Duration) {
			for i := range accepted {
				accepted[i].Store(0)
				refused[i].Store(0)
			}
			slowest.Store(0)
			time.Sleep(d)
		}
		j.each.Store(int64(20 * time.Microsecond)) // 50,000 a second
		load(esh3ar.TierGold, 10, 100*time.Millisecond)
		load(esh3ar.TierBronze, 300, 100*time.Millisecond)
		count(2 * time.Second)
		if g, b := refused[esh3ar.TierGold].Load(), refused[esh3ar.TierBronze].Load(); g != 0 || b != 0 {
			t.Errorf("%d and %d refused without need", g, b)
		}
		j.each.Store(int64(time.Millisecond)) // 1,000
		time.Sleep(4 * time.Second)
		count(5 * time.Second)
		g, b := refused[esh3ar.TierGold].Load(), refused[esh3ar.TierBronze].Load()
		if g != 0 || b == 0 || accepted[esh3ar.TierGold].Load() < 200 || time.Duration(slowest.Load()) > 250*time.Millisecond {
			t.Errorf("slow: gold %d refused, %d accepted, the slowest after %s; bronze %d refused, %d accepted",
				g, accepted[esh3ar.TierGold].Load(), time.Duration(slowest.Load()), b, accepted[esh3ar.TierBronze].Load())
		}
		if n := accepted[esh3ar.TierBronze].Load(); n < 3000 {
			t.Errorf("slow: of bronze %d messages are accepted in five seconds", n)
		}
		j.each.Store(int64(20 * time.Microsecond))
		time.Sleep(3 * time.Second)
		count(time.Second)
		if g, b := refused[esh3ar.TierGold].Load(), refused[esh3ar.TierBronze].Load(); g != 0 || b != 0 {
			t.Errorf("%d and %d refused after it", g, b)
		}
		stop()
		running.Wait()
	})
}

// A batch is refused as a whole when the server is overloaded, before its body is read.
func TestOverloadedForBatches(t *testing.T) {
	s := newService(t)
	for i := range s.api.load.limits {
		s.api.load.limits[i].Store(0)
	}
	for _, path := range []string{"/v1/messages", "/v1/messages/batch"} {
		a := s.do("POST", path, batchOf(3, "x"))
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"code":"overloaded","permanent":false`) ||
			!strings.Contains(a.body, "nothing of this request was accepted") || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %+v", path, a)
		}
	}
	if n := s.metric("esh3ar_admission_refusals_total", "overload"); n != 2 {
		t.Errorf("%v refusals are counted", n)
	}
	if n := s.api.load.inFlight(); n != 0 {
		t.Errorf("%d messages are under way", n)
	}
}

// A client that has done nothing for long takes no memory.
func TestIdleAccountsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAPI(t, Options{Keys: newKeyTable(), Journal: noJournal{}})
		if _, err := a.accounts.charge(&esh3ar.Client{ID: "c", Rate: 5}, 5, time.Now()); err != nil {
			t.Fatal(err)
		}
		size := func() (n int) {
			a.accounts.byClient.Range(func(any, any) bool { n++; return true })
			return n
		}
		a.reportOnce(t.Context())
		if size() != 1 {
			t.Error("forgotten at once")
		}
		time.Sleep(accountsKept + time.Second)
		a.reportOnce(t.Context())
		if size() != 0 {
			t.Error("never forgotten")
		}
		if _, err := a.accounts.charge(&esh3ar.Client{ID: "c", Rate: 5}, 5, time.Now()); err != nil {
			t.Error(err)
		}
	})
}

// Of several nodes each grants its part of a rate, and tells the client of all.
func TestRateOverNodes(t *testing.T) {
	nodes := 4
	a := &accounts{start: time.Now(), fresh: make(chan struct{}, 1), nodes: func() int { return nodes }}
	client := &esh3ar.Client{ID: "c", Rate: 100, Burst: 40}
	granted := 0
	for ; granted < 1000; granted++ {
		c, err := a.charge(client, 1, time.Now())
		if err != nil {
			over, ok := errors.AsType[*overLimit](err)
			if !ok || over.standing.rate != 100 {
				t.Fatalf("refused with %v", err)
			}
			break
		}
		if granted == 0 && c.standing.left < 32 {
			t.Errorf("%d are left of a burst of 40 over 4 nodes after the first", c.standing.left)
		}
	}
	if granted < 10 || granted > 14 {
		t.Errorf("one of 4 nodes grants %d of a burst of 40", granted)
	}
	nodes = 0 // not known yet
	if _, err := a.charge(&esh3ar.Client{ID: "d", Rate: 1}, 1, time.Now()); err != nil {
		t.Error(err)
	}
}
