package balance

import (
	"math/rand/v2"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

// maxAttempts bounds to how many nodes one request is sent.
const maxAttempts = 3

// usualBody is the longest body, in bytes, that counts as a single message, and what further ones a longer body is
// counted in. A batch is less work for each message than messages that come alone, and a server lets these go before it, so
// that a batch counts as about one for each twenty messages of usual length.
const usualBody = 4 << 10

// attempts is one request's way over the nodes.
//
//	next ──► a node ──► fails ──► again? ──► next
//	  │                 answers ──► refused? ──► next
//	  ▼ none                     └► done
//	problem
//
// Whoever calls next ends it with one done, whatever happens.
type attempts struct {
	balancer *Balancer
	safety   safety
	work     int  // once the body has gone to the node
	whole    bool // the body was there before the first attempt
	stream   bool
	affinity uint64

	tried   []string
	count   int
	unknown bool // an attempt that failed may have been carried out
	last    failure

	// Of the attempt that is under way, guarded by the Balancer's mu: whether the rest of the body is still on its way to the node, when
	// it had gone, and whether the node has answered.
	arriving bool
	arrival  time.Time
	answered bool
}

// begin starts a request's way. Length is that of its body in bytes, negative if it is not known. Whole says
// that all of it is here; else arrived is due when it has gone to a node.
func (a *attempts) begin(b *Balancer, s safety, length int64, whole bool) {
	*a = attempts{balancer: b, safety: s, work: workOf(length), whole: whole, tried: a.tried[:0]}
}

// workOf returns how much there is to do for a body of that length, in what there is for a single message.
func workOf(length int64) int { return 1 + int(max(length-1, 0)/usualBody) }

// next returns the node to send the request to, nil if there is none.
func (a *attempts) next() *backend {
	b := a.balancer
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.count == 0 {
		b.budget.Earn()
	}
	a.arriving, a.arrival, a.answered = !a.whole && !a.stream, time.Time{}, false
	id, ok := b.picker.Pick(now, picker.Request{
		Chance: rand.Uint64(), Work: a.work, Arriving: a.arriving, Stream: a.stream, Affinity: a.affinity, Tried: a.tried,
	})
	if !ok {
		return nil
	}
	a.count++
	return b.backends[id]
}

// arrived says that the body has gone to the node as a whole at an attempt, of which the first is 1. It may be called at any time, by
// anyone.
func (a *attempts) arrived(n *backend, attempt int) {
	if a.whole {
		return
	}
	now := time.Now()
	b := a.balancer
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.arriving && !a.answered && a.count == attempt {
		a.arriving, a.arrival = false, now
		b.picker.Arrived(now, n.id, a.work)
	}
}

// answer says that the node has answered an attempt that began at start. It returns the node's latency, which does not count the
// client's.
func (a *attempts) answer(start time.Time) time.Duration {
	now := time.Now()
	if !a.whole {
		a.balancer.mu.Lock()
		defer a.balancer.mu.Unlock()
		a.answered = true
		if !a.arrival.IsZero() {
			start = a.arrival
		}
	}
	return max(now.Sub(start), 0)
}

// done says how the attempt at a node ended: with an answer of that status, or with none that counts, which is 0. An answer that
// denies a request whose body was passed on as it came may have been given before the end of the body, and says nothing about what
// such a long one takes.
func (a *attempts) done(n *backend, status int, result picker.Result, latency time.Duration) {
	untimed := !a.whole && status >= 400 && status < 500
	now := time.Now()
	b := a.balancer
	b.mu.Lock()
	b.picker.Done(now, n.id, picker.Outcome{
		Result: result, Latency: latency, Untimed: untimed, Arriving: a.arriving, Work: a.work, Stream: a.stream,
	})
	a.arriving = false
	b.mu.Unlock()
	n.metrics.count(result, latency, a.stream)
}

// again decides what to do after a failure: whether the request goes to another node. Stale says that
// the failure was the end of an idle connection and no sign of a bad node.
func (a *attempts) again(n *backend, f failure, replayable, stale bool) bool {
	a.last = f
	if f.sent && a.safety != repeatable {
		a.unknown = true
	}
	if !stale {
		a.tried = append(a.tried, n.id)
	}
	if a.count >= maxAttempts || !mayRepeat(a.safety, replayable, f) {
		return false
	}
	// One that never arrived puts no load on anybody.
	return a.spend("failure", f.sent)
}

// refused decides whether a request that a node refused goes to another one.
func (a *attempts) refused(n *backend, replayable bool) bool {
	if a.count >= maxAttempts || !replayable {
		return false
	}
	a.tried = append(a.tried, n.id)
	return a.spend("refusal", true)
}

// spend takes a retry from the budget, if there is a node for it. It reports false if there is none, or
// if the budget is empty.
func (a *attempts) spend(why string, charge bool) bool {
	b := a.balancer
	b.mu.Lock()
	has := b.picker.Has(time.Now(), a.tried)
	affordable := has && (!charge || b.budget.Spend())
	b.mu.Unlock()
	if !affordable {
		if has {
			b.metrics.unaffordable.Inc()
		}
		return false
	}
	b.metrics.retried.WithLabelValues(why).Inc()
	return true
}

// judge looks at an answer that is there as a whole. It reports whether the request should go to another
// node, and how the answer counts for the one that gave it.
func (a *attempts) judge(status int, problem bool, body []byte) (elsewhere bool, result picker.Result) {
	switch {
	case refusedElsewhere(status, problem, body):
		return true, picker.Overloaded
	case isUnknown(status, problem, body):
		if a.safety == once {
			return false, picker.Overloaded
		}
		a.unknown = a.unknown || a.safety == keyed
		return true, picker.Overloaded
	}
	return false, resultOf(status)
}

// resultOf returns how a status counts for its node.
func resultOf(status int) picker.Result {
	switch status {
	case 503, 507:
		return picker.Overloaded
	case 500, 502, 504:
		return picker.Failed
	}
	return picker.Served
}

// veiled reports whether an answer must not be shown, because it would say less than is known: an earlier
// attempt may have been carried out, and this answer denies only its own.
func (a *attempts) veiled(status int) bool { return a.unknown && !settles(status) }

// problem returns what the client is told when no node answered.
func (a *attempts) problem() *problem {
	if a.count == 0 {
		return noNode()
	}
	return failed(a.last, a.unknown)
}
