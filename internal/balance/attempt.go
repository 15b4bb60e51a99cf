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
	work     int
	stream   bool
	affinity uint64

	tried   []string
	count   int
	unknown bool // an attempt that failed may have been carried out
	last    failure
}

// begin starts a request's way. Length is that of its body in bytes, negative if it is not known.
func (a *attempts) begin(b *Balancer, s safety, length int64) {
	*a = attempts{balancer: b, safety: s, work: workOf(length), tried: a.tried[:0]}
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
	id, ok := b.picker.Pick(now, picker.Request{Chance: rand.Uint64(), Work: a.work, Stream: a.stream, Affinity: a.affinity, Tried: a.tried})
	if !ok {
		return nil
	}
	a.count++
	return b.backends[id]
}

// done says how the attempt at a node ended.
func (a *attempts) done(n *backend, result picker.Result, latency time.Duration) {
	now := time.Now()
	b := a.balancer
	b.mu.Lock()
	b.picker.Done(now, n.id, picker.Outcome{Result: result, Latency: latency, Work: a.work, Stream: a.stream})
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
