package ingest

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/admission"
)

// load is how many messages are under way to the journal, how long they take, and how many may be.
type load struct {
	calls   atomic.Int64 // posts of one message
	batched atomic.Int64 // messages of batches
	done    atomic.Int64 // appends that ended, ever
	took    atomic.Int64 // what they took, in nanoseconds

	limits [esh3ar.Tiers]atomic.Int64 // of calls and batched together, for one more of the tier
	limit  admission.Limit            // follow's alone
}

// loadEvery is how often the limits are looked at.
const loadEvery = 100 * time.Millisecond

func newLoad(target time.Duration) *load {
	l := &load{limit: admission.NewLimit(target)}
	l.set()
	return l
}

func (l *load) set() {
	for t := range l.limits {
		l.limits[t].Store(l.limit.For(esh3ar.Tier(t)))
	}
}

func (l *load) inFlight() int64 { return l.calls.Load() + l.batched.Load() }

// enter takes up a call of the tier. It reports false if the server is overloaded for it. Otherwise leave is
// due at its end.
func (l *load) enter(t esh3ar.Tier) bool {
	if l.calls.Add(1)+l.batched.Load() > l.limits[t].Load() {
		l.calls.Add(-1)
		return false
	}
	return true
}

func (l *load) leave() { l.calls.Add(-1) }

// pause lets a call wait for its client's rate. Meanwhile it is no load.
func (l *load) pause(d time.Duration) {
	l.calls.Add(-1)
	time.Sleep(d)
	l.calls.Add(1)
}

// full reports whether the server is overloaded for a batch of the tier.
func (l *load) full(t esh3ar.Tier) bool { return l.inFlight() >= l.limits[t].Load() }

// ended notes that the appends of n messages ended, each after that time.
func (l *load) ended(n int, took time.Duration) {
	l.done.Add(int64(n))
	l.took.Add(int64(n) * int64(took))
}

// follow keeps the limits up to date until ctx ends.
func (l *load) follow(ctx context.Context) {
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	last, done, took := time.Now(), l.done.Load(), l.took.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, d, t := time.Now(), l.done.Load(), l.took.Load()
		l.limit.Observe(admission.Window{
			Took: now.Sub(last), Done: d - done, Latency: time.Duration(t - took), InFlight: l.inFlight(),
		})
		last, done, took = now, d, t
		l.set()
	}
}

// overloaded refuses a message of the tier. The time to come back differs from call to call, so that those
// which are refused together do not come back together.
func (a *API) overloaded(t esh3ar.Tier) error {
	a.metrics.refusal[causeOverload][t].Inc()
	return esh3ar.Errorf(esh3ar.KindUnavailable, "overloaded",
		"more messages arrive than can be made durable in time; nothing of this request was accepted, send it again later").
		After(time.Duration(1+rand.IntN(3)) * time.Second)
}

// admit charges n messages to the client, and waits for its rate where a short wait is enough. Its errors
// are of KindRateLimited.
func (a *API) admit(client *esh3ar.Client, n int, now time.Time, pause func(time.Duration)) (charge, error) {
	c, err := a.accounts.charge(client, n, now)
	if err != nil {
		cause := causeRate
		if asError(err).Code == "quota_exhausted" {
			cause = causeQuota
		}
		a.metrics.refusal[cause][client.Tier].Inc()
		return c, err
	}
	if c.wait > 0 {
		a.metrics.waits[client.Tier].Inc()
		pause(c.wait)
	}
	return c, nil
}
