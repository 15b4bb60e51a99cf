//go:build unix

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// handoverLimit is what an orderly stop or start may cost a shard: how long it accepts nothing at most, and how long one of its
// messages may wait for its recipient from the 202 on. Others are the same, in the same seconds, of the shards that the node has
// nothing to do with. They are there because the machine of the tests may be busy: a handover needs several processes, one after the
// other, to get a processor, and so it takes a multiple of what a message takes.
func handoverLimit(others time.Duration) time.Duration { return others + max(time.Second, 3*others) }

// sent is an accepted message of a rhythm. The times are since its beginning.
type sent struct {
	accepted time.Duration
	received time.Duration // 0 while it is not
}

// rhythm is clients that send to one recipient each, again and again, and the recipients' devices.
type rhythm struct {
	t     *testing.T
	began time.Time

	mu    sync.Mutex
	beats map[string][]*sent // accepted ones, by recipient
	known map[string]*sent   // by content, received ones among them that are not known to be accepted yet
}

func (r *rhythm) now() time.Duration { return time.Since(r.began) }

func (r *rhythm) of(content string) *sent {
	b := r.known[content]
	if b == nil {
		b = new(sent)
		r.known[content] = b
	}
	return b
}

// send sends to a recipient until ctx ends, through that node.
func (r *rhythm) send(ctx context.Context, to string, s *server) {
	a := newAPI(s.url)
	a.http.Timeout = 10 * time.Second // longer than it may stall: until there is an answer the pause goes on
	defer a.close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		content := fmt.Sprint(to, "/", n)
		if _, err := a.send(context.WithoutCancel(ctx), outgoing{To: to, Content: content}); err == nil {
			r.mu.Lock()
			b := r.of(content)
			b.accepted = max(r.now(), 1)
			r.beats[to] = append(r.beats[to], b)
			r.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// listen is the recipient's device until ctx ends: it connects to the first node, and when its connection ends to the other.
func (r *rhythm) listen(ctx context.Context, to string, first, other *server) {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for s := first; ctx.Err() == nil; s = other {
		var phone *device
		listening := make(chan struct{})
		phone, err := dial(s.url, token(r.t, to, time.Hour), func(m delivery) {
			<-listening
			r.mu.Lock()
			if b := r.of(m.Content); b.received == 0 {
				b.received = r.now()
			}
			r.mu.Unlock()
			_ = phone.acknowledge(m.ID)
		})
		close(listening)
		if err == nil {
			select {
			case <-phone.closed:
			case <-ctx.Done():
				phone.hangUp()
			}
			continue
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// felt is the longest time without a 202, and the longest that a message waited for its recipient from its 202 on.
type felt struct{ pause, wait time.Duration }

func (f felt) most(g felt) felt { return felt{max(f.pause, g.pause), max(f.wait, g.wait)} }

// during returns how the recipient felt the time between two moments.
func (r *rhythm) during(to string, from, until time.Duration) (f felt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := from
	for _, b := range r.beats[to] {
		if b.accepted < from {
			continue
		}
		f.pause = max(f.pause, min(b.accepted, until)-last)
		if b.accepted > until {
			return f
		}
		last = b.accepted
		f.wait = max(f.wait, b.received-b.accepted)
	}
	f.pause = max(f.pause, until-last)
	return f
}

// missing returns how many beats have not been received of those that were accepted until then.
func (r *rhythm) missing(until time.Duration) (missing int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, beats := range r.beats {
		for _, b := range beats {
			if b.accepted <= until && b.received == 0 {
				missing++
			}
		}
	}
	return missing
}

// goesOn waits until every recipient has received a beat that was accepted from now on.
func (r *rhythm) goesOn(s *server) {
	r.t.Helper()
	from := r.now()
	s.await("every recipient to receive what is accepted from now on", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, beats := range r.beats {
			if !slices.ContainsFunc(beats, func(b *sent) bool { return b.accepted > from && b.received > 0 }) {
				return false
			}
		}
		return true
	})
}

// A node of three is stopped in order and started again, under a steady rhythm of messages in every shard from clients at the
// others. Its shards go to the others, as does what it leads, and shards come back: neither what a shard accepts nor what it
// delivers stalls, also for devices that were connected to the node and reconnect when they are told to.
func TestStopDoesNotStall(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "--log-level", "info")
	d.shards = 6 // two for each node
	c := d.core(3)
	for i := range c.servers {
		c.launch(i)
	}
	mustBeReady(t, c.servers...)
	const leaving = 2
	node, stay := c.servers[leaving], c.servers[:leaving]
	share := func() bool {
		return !slices.ContainsFunc(c.servers, func(s *server) bool { return s.metric("esh3ar_shards_owned") != d.shards/len(c.servers) })
	}
	owned := func() []bool { // by shard
		all := make([]bool, d.shards)
		for shard, owner := range c.owners(0) {
			all[shard] = owner == fmt.Sprint("core", leaving)
		}
		return all
	}
	node.await("each node to own its share", share)
	node.await("it to lead a stream and to have nothing to do with one", func() bool {
		leads, apart, moving := false, false, owned()
		for shard, leader := range c.leaders() {
			leads = leads || leader == leaving
			apart = apart || leader != leaving && !moving[shard]
		}
		return leads && apart
	})

	r := &rhythm{t: t, began: time.Now(), beats: make(map[string][]*sent), known: make(map[string]*sent)}
	locals, guests := c.recipients(stay[0], "local"), c.recipients(stay[0], "guest")
	sending, silence := context.WithCancel(t.Context())
	listening, hangUp := context.WithCancel(t.Context())
	var senders, devices sync.WaitGroup
	defer devices.Wait()
	defer hangUp()
	defer senders.Wait()
	defer silence()
	for shard := range uint16(d.shards) {
		own, through := stay[shard%2], stay[shard/2%2]
		devices.Go(func() { r.listen(listening, locals[shard], own, own) })
		devices.Go(func() { r.listen(listening, guests[shard], node, own) })
		senders.Go(func() { r.send(sending, locals[shard], through) })
		senders.Go(func() { r.send(sending, guests[shard], through) })
	}
	look := func(what string, from time.Duration, moved, led []bool) {
		t.Helper()
		r.goesOn(stay[0])
		until := r.now()
		stay[0].await("everything to be received", func() bool { return r.missing(until) == 0 })
		var others felt
		apart := 0
		for shard, to := range locals {
			if !moved[shard] && !led[shard] {
				others = others.most(r.during(to, from, until))
				apart++
			}
		}
		if apart == 0 {
			t.Fatalf("%s: the node has to do with every shard (moved: %t, their streams: %t), so there is none to compare them with", what, moved, led)
		}
		for shard := range uint16(d.shards) {
			f, g := r.during(locals[shard], from, until), r.during(guests[shard], from, until)
			t.Logf("%s: shard %d (moved: %t, its stream: %t) took nothing for %s, and recipients waited for %s, for %s if their devices had been connected to the node",
				what, shard, moved[shard], led[shard], f.pause.Round(time.Millisecond), f.wait.Round(time.Millisecond), g.wait.Round(time.Millisecond))
			if all := f.most(g); all.pause > handoverLimit(others.pause) || all.wait > handoverLimit(others.wait) {
				t.Errorf("%s: shard %d took nothing for %s, and a recipient waited for %s, while others did for %s and %s",
					what, shard, all.pause, all.wait, others.pause, others.wait)
			}
		}
	}
	r.goesOn(stay[0])
	led := make([]bool, d.shards)
	for shard, leader := range c.leaders() {
		led[shard] = leader == leaving
	}
	moving, from := owned(), r.now()
	node.stop()
	t.Logf("the node was gone after %s", (r.now() - from).Round(time.Millisecond))
	look("stop", from, moving, led)

	from = r.now()
	node = c.launch(leaving)
	mustBeReady(t, node)
	node.await("each node to own its share again", share)
	look("start", from, owned(), make([]bool, d.shards))

	silence()
	senders.Wait()
	node.await("everything to be received", func() bool { return r.missing(r.now()) == 0 })
	hangUp()
	devices.Wait()
	for _, s := range c.servers {
		s.stop()
	}
}
