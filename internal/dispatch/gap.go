package dispatch

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/journal"
)

// gap is what a tier's intake has left in the journal for later. While accepting needs the machine, messages
// for recipients who are not connected are left: nobody waits for them, and storing them costs more than
// accepting them. So a burst for absent recipients is accepted at the speed of the network, while what is for
// connected ones is read and routed at once, past what was left.
//
// What must hold: of one recipient nothing overtakes. So as long as anything is left for a recipient,
// everything that follows for it is left too. The position does not move past an entry of which something
// is left, so that a restart reads it again.
type gap struct {
	in   *intake
	seed maphash.Seed
	wake chan struct{} // cap 1: something is left

	mu   sync.Mutex
	left []*leftover // in order
	// behind counts what is left for each recipient, by the hash of its name. Two that share one share a
	// delay.
	behind   map[uint64]int32
	messages int
	room     chan struct{} // closed and renewed when messages fell
}

// leftover is a journal entry of which something is left.
type leftover struct {
	entry   *entry
	is      []bool // by place in the entry, whether it is left
	n       int
	lookAll bool
}

// gapLimit is the most messages that are left by one intake. When they are, it reads no further.
const gapLimit = 1 << 19

func newGap(in *intake) *gap {
	return &gap{
		in: in, seed: maphash.MakeSeed(), wake: make(chan struct{}, 1),
		behind: make(map[uint64]int32), room: make(chan struct{}),
	}
}

// split takes what is to be left out of msgs, and returns the rest. Only the intake calls it, and add
// afterwards, so that what it decides holds until then.
func (g *gap) split(msgs []*esh3ar.Message, giveWay bool) (now, later []*esh3ar.Message, is []bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.behind) == 0 && !giveWay {
		return msgs, nil, nil
	}
	var online []bool
	if giveWay {
		online = g.in.s.online(msgs)
	}
	is = make([]bool, len(msgs))
	for i, m := range msgs {
		if _, behind := g.behind[g.hash(m.To)]; behind || giveWay && !online[i] {
			is[i] = true
			later = append(later, m)
		} else {
			now = append(now, m)
		}
	}
	if len(later) == 0 {
		return msgs, nil, nil
	}
	return now, later, is
}

func (g *gap) hash(recipient string) uint64 { return maphash.String(g.seed, recipient) }

// add notes that something of an entry is left, after the committer was told of the entry.
func (g *gap) add(l *leftover, msgs []*esh3ar.Message) {
	g.mu.Lock()
	for _, m := range msgs {
		g.behind[g.hash(m.To)]++
	}
	g.left = append(g.left, l)
	g.messages += l.n
	g.mu.Unlock()
	g.in.s.d.metrics.left.Add(float64(l.n))
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// first returns the oldest leftover, nil without one.
func (g *gap) first() *leftover {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.left) == 0 {
		return nil
	}
	return g.left[0]
}

// caughtUp notes that the messages of the oldest leftover have been brought to their recipients.
func (g *gap) caughtUp(msgs []*esh3ar.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range msgs {
		h := g.hash(m.To)
		if g.behind[h]--; g.behind[h] == 0 {
			delete(g.behind, h)
		}
	}
	g.messages -= g.left[0].n
	g.left[0] = nil
	if g.left = g.left[1:]; len(g.left) == 0 {
		g.left, g.behind = nil, make(map[uint64]int32) // a map does not shrink
	}
	close(g.room)
	g.room = make(chan struct{})
}

// wait waits until there is room for more. Its error is ctx's.
func (g *gap) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		full, room := g.messages >= gapLimit, g.room
		g.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-room:
		}
	}
}

// run reads what was left, at a slow pace while accepting needs the machine, until ctx ends.
func (g *gap) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-g.wake:
		}
		if l := g.first(); l != nil {
			if err := g.read(ctx, l.entry.seq-1); err != nil {
				return err
			}
		}
	}
}

// read reads the journal from behind a position until nothing is left.
func (g *gap) read(ctx context.Context, position uint64) error {
	in, retry := g.in, newRetry()
	reader, err := in.open(ctx, position, retry)
	if err != nil {
		return err
	}
	defer reader.Close()
	for l := g.first(); l != nil; l = g.first() {
		e, err := in.next(ctx, reader, retry)
		if err != nil {
			return err
		}
		switch {
		case e.Seq < l.entry.seq:
			continue // nothing of it is left
		case e.Seq > l.entry.seq:
			return fmt.Errorf("shard %d, tier %s: the journal has lost entry %d, of which something is not stored", in.s.id, in.tier, l.entry.seq)
		}
		if err := in.giveWay(ctx, l.n, e.Time); err != nil {
			return err
		}
		if err := in.holdBack(ctx, len(e.Data)); err != nil {
			return err
		}
		if err := g.take(ctx, e, l); err != nil {
			return err
		}
	}
	return nil
}

// take brings what was left of an entry to its recipients.
func (g *gap) take(ctx context.Context, je journal.Entry, l *leftover) error {
	all, _ := g.in.decode(je, false) // what cannot be decoded was rejected when the entry was first read
	msgs := make([]*esh3ar.Message, 0, l.n)
	for i, m := range all {
		if l.is[i] {
			msgs = append(msgs, m)
		}
	}
	size := min(int64(len(je.Data))*int64(len(msgs))/int64(len(all))+int64(len(msgs)*messageCost), g.in.s.d.opts.Memory)
	if err := g.in.s.memory.Acquire(ctx, size); err != nil {
		return err
	}
	// unknown reuses the slice that it is given.
	fresh, doubtful, err := g.in.unknown(ctx, append([]*esh3ar.Message(nil), msgs...), l.lookAll)
	if err != nil {
		g.in.s.memory.Release(size)
		return err
	}
	c := &charge{entry: l.entry, bytes: size, open: len(fresh)}
	g.in.s.memory.charge(c, fresh)
	g.in.s.committer.resume(c, len(msgs)-len(fresh))
	g.in.bring(c, fresh, doubtful)
	g.caughtUp(msgs)
	return nil
}

// giveWay waits as long as so many messages take at the pace of a busy machine, or until it is not busy
// any more, or until they are as old as they may become.
func (in *intake) giveWay(ctx context.Context, messages int, entry time.Time) error {
	if !in.busy(entry) {
		return nil
	}
	const step = 5 * time.Millisecond
	began := in.s.d.opts.Now()
	wait := time.Duration(messages) * time.Second / time.Duration(in.s.d.opts.YieldPace)
	tick := time.NewTicker(step)
	defer tick.Stop()
	for in.busy(entry) && in.s.d.opts.Now().Sub(began) < wait {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// busy reports whether what nobody waits for is to give way to accepting, if it was accepted then.
func (in *intake) busy(accepted time.Time) bool {
	o := &in.s.d.opts
	return o.Busy != nil && o.Busy() && o.Now().Sub(accepted) < o.YieldLag
}

// bring brings an entry's messages, or what of them there is now, to their recipients.
func (in *intake) bring(c *charge, msgs []*esh3ar.Message, doubtful map[esh3ar.ID]struct{}) {
	items := make([]*delivery.Item, len(msgs))
	block := make([]delivery.Item, len(msgs)) // one allocation for all
	aside := in.aside(msgs)
	for i, m := range msgs {
		block[i] = delivery.Item{Message: m, State: esh3ar.NewState(m.AcceptedAt), Origin: c, Aside: aside != nil && aside[i]}
		items[i] = &block[i]
	}
	if items = in.s.deferred.admit(items, doubtful); len(items) > 0 {
		in.s.arrive(items)
	}
}
