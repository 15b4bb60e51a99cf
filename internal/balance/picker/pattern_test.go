package picker

import (
	"slices"
	"testing"
	"time"
)

// host is a node as it accepts: one processor, at which single messages and parts of batches take turns in the order in which they
// came, and a sync of the journal, which takes its time beside it.
type host struct {
	w     *world
	queue []*job
}

// job is a request at a host.
type job struct {
	messages int // still to be done
	ended    func()
}

// What a host needs: ten times what a server does, so that the figures are easy to tell apart.
const (
	singleTime = 500 * time.Microsecond // of the processor, for a message that comes alone
	batchTime  = 120 * time.Microsecond // of the processor, for one of a batch
	partOf     = 32                     // messages of a batch that are done in one turn
	syncTime   = 2 * time.Millisecond
)

func (h *host) take(messages int, ended func()) {
	h.queue = append(h.queue, &job{messages, ended})
	if len(h.queue) == 1 {
		h.turn()
	}
}

// turn works on the first in the queue.
func (h *host) turn() {
	j := h.queue[0]
	n, d := 1, singleTime
	if j.messages > 1 {
		n = min(j.messages, partOf)
		d = time.Duration(n) * batchTime
	}
	d += time.Duration(h.w.rnd.Int64N(int64(d)/2)) - d/4
	h.w.after(d, func() {
		h.queue = h.queue[1:]
		if j.messages -= n; j.messages > 0 {
			h.queue = append(h.queue, j)
		} else {
			h.w.after(syncTime, j.ended)
		}
		if len(h.queue) > 0 {
			h.turn()
		}
	})
}

// site is hosts with clients, and what became of the single messages since it was last read.
type site struct {
	*world
	hosts  map[string]*host
	weighs bool            // the picker is told how much work a batch is
	ended  map[string]bool // kinds of clients that send no more
	seen   seen
}

// seen is what became of single messages.
type seen struct {
	took   []time.Duration
	counts map[string]int // by host
	busy   int            // at a host that had a batch to do
}

func newSite(seed uint64, weighs bool, ids ...string) *site {
	s := &site{world: newWorld(seed, ids...), hosts: make(map[string]*host), weighs: weighs, ended: make(map[string]bool)}
	for _, id := range ids {
		s.hosts[id] = &host{w: s.world}
	}
	s.read()
	return s
}

// post sends one request of so many messages.
func (s *site) post(messages int, answered func()) {
	work := 1
	if s.weighs {
		work = max(1, messages/20) // as for messages of 200 bytes
	}
	id, _ := s.p.Pick(s.now, Request{Chance: s.rnd.Uint64(), Work: work})
	begun, h := s.now, s.hosts[id]
	if messages == 1 {
		s.seen.counts[id]++
		if slices.ContainsFunc(h.queue, func(j *job) bool { return j.messages > 1 }) {
			s.seen.busy++
		}
	}
	h.take(messages, func() {
		d := s.now.Sub(begun)
		if messages == 1 {
			s.seen.took = append(s.seen.took, d)
		}
		s.p.Done(s.now, id, Outcome{Latency: d, Work: work})
		answered()
	})
}

// clients sends from n connections, each again after a pause, until the kind has ended.
func (s *site) clients(kind string, n, messages int, pause time.Duration) {
	s.ended[kind] = false
	var again func()
	send := func() {
		if !s.ended[kind] {
			s.post(messages, again)
		}
	}
	again = func() { s.after(pause/2+time.Duration(s.rnd.Int64N(int64(pause))), send) }
	for range n {
		again()
	}
}

// bursts has n single messages come at one time, again and again.
func (s *site) bursts(n int, every time.Duration) {
	if s.ended["bursts"] {
		return
	}
	for range n {
		s.post(1, func() {})
	}
	s.after(every, func() { s.bursts(n, every) })
}

// read returns what was seen since it was last called.
func (s *site) read() seen {
	r := s.seen
	s.seen = seen{counts: make(map[string]int)}
	slices.Sort(r.took)
	return r
}

func (r seen) p(percent int) time.Duration { return r.took[len(r.took)*percent/100] }

// busyShare is the share of single messages that went to hosts which had a batch to do.
func (r seen) busyShare() float64 {
	n := 0
	for _, c := range r.counts {
		n += c
	}
	return float64(r.busy) / float64(n)
}

// most is the greatest share of a host.
func (r seen) most() float64 {
	n, most := 0, 0
	for _, c := range r.counts {
		n, most = n+c, max(most, c)
	}
	return float64(most) / float64(n)
}

// patterns has the pattern of calls at three hosts change again and again, and returns what the small clients saw.
func patterns(weighs bool) map[string]seen {
	s := newSite(1, weighs, names(3)...)
	got := make(map[string]seen)
	phase := func(name string) {
		s.run(3 * time.Second) // "within seconds"
		s.read()
		s.run(10 * time.Second)
		got[name] = s.read()
	}
	s.clients("small", 60, 1, 100*time.Millisecond)
	phase("many small clients")

	s.clients("huge", 1, 1000, 20*time.Millisecond)
	phase("a huge one beside them")

	s.clients("huge", 2, 1000, 20*time.Millisecond)
	phase("that over 3 connections")
	s.ended["huge"] = true

	phase("small ones alone again")

	s.bursts(300, 500*time.Millisecond)
	phase("bursts of 300")
	s.ended["bursts"] = true

	phase("after the bursts")
	return got
}

// When the pattern of calls changes, so does within seconds where requests go, with nothing to be set: the messages of small
// clients go round the node that a huge client's batch keeps busy, whichever that is, and hardly notice it; bursts are spread; and
// then all is as before. So it would not be if a batch counted like a message.
func TestRoutingFollowsThePattern(t *testing.T) {
	weighed, unweighed := patterns(true), patterns(false)
	for _, phase := range []string{
		"many small clients", "a huge one beside them", "that over 3 connections", "small ones alone again", "bursts of 300", "after the bursts",
	} {
		w, u := weighed[phase], unweighed[phase]
		t.Logf("%-24s greatest share of a node %.2f, to busy nodes %.3f, p50 %5v, p99 %5v; were a batch one message: %.2f, %.3f, %5v, %5v", phase,
			w.most(), w.busyShare(), w.p(50).Round(100*time.Microsecond), w.p(99).Round(100*time.Microsecond),
			u.most(), u.busyShare(), u.p(50).Round(100*time.Microsecond), u.p(99).Round(100*time.Microsecond))
	}
	calm := weighed["many small clients"]
	for _, phase := range []string{"many small clients", "small ones alone again", "after the bursts"} {
		if r := weighed[phase]; r.most() > 0.37 || r.p(99) > calm.p(99)*12/10 {
			t.Errorf("%s: a node has %.2f of the messages, p99 is %v", phase, r.most(), r.p(99))
		}
	}
	huge, unweighedHuge := weighed["a huge one beside them"], unweighed["a huge one beside them"]
	if huge.busyShare() > 0.02 || huge.p(99) > calm.p(99)*13/10 {
		t.Errorf("%.3f of the small clients' messages go to the busy node, and p99 rises from %v to %v", huge.busyShare(), calm.p(99), huge.p(99))
	}
	if unweighedHuge.busyShare() < 0.05 || unweighedHuge.p(99) < huge.p(99)*3/2 {
		t.Errorf("weighing batches makes no difference: %.3f to the busy node, p99 %v", unweighedHuge.busyShare(), unweighedHuge.p(99))
	}
	// With a batch at each of the nodes there is no way round: a message waits for a part of one at most, or for three at a node
	// that has all of them.
	all, unweighedAll := weighed["that over 3 connections"], unweighed["that over 3 connections"]
	if limit := calm.p(99) + 2*partOf*batchTime; all.p(99) > limit || all.p(99) > unweighedAll.p(99) {
		t.Errorf("with a batch at every node p99 is %v, were it one message %v", all.p(99), unweighedAll.p(99))
	}
	// A burst is done at the soonest when each of the nodes has done a third of it.
	burst := weighed["bursts of 300"]
	if best := 100*singleTime + syncTime; burst.p(99) > best*13/10 || burst.most() > 0.37 {
		t.Errorf("bursts: a node has %.2f of the messages, p99 is %v, at best it were %v", burst.most(), burst.p(99), best)
	}
}

// A node is not slow for having large requests, but for taking longer over them than others do; also where there are no others.
func TestLargeRequestsAreComparedWithLargeOnes(t *testing.T) {
	const work = 50
	for _, singles := range []bool{true, false} {
		w := newWorld(15, names(3)...)
		answer := func(id string, work int, took time.Duration) {
			var others []string
			for _, o := range names(3) {
				if o != id {
					others = append(others, o)
				}
			}
			if got, _ := w.p.Pick(w.now, Request{Work: work, Tried: others}); got != id {
				t.Fatalf("%s is picked in place of %s", got, id)
			}
			w.now = w.now.Add(took)
			w.p.Done(w.now, id, Outcome{Latency: took, Work: work})
		}
		for range 300 {
			if singles {
				answer("n1", 1, 2*time.Millisecond)
				answer("n2", 1, 2*time.Millisecond)
			}
			answer("n0", work, 50*time.Millisecond)
			answer("n1", work, 50*time.Millisecond)
			answer("n2", work, 100*time.Millisecond)
		}
		first, second, third := w.view("n0").Latency, w.view("n1").Latency, w.view("n2").Latency
		if first > 2*second || second > 2*first {
			t.Errorf("single ones: %v; two equal nodes count as %v and %v", singles, first, second)
		}
		if third < first*13/10 {
			t.Errorf("single ones: %v; a node that takes twice as long over large requests counts as %v, others as %v", singles, third, first)
		}
	}
}
