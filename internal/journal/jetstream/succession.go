package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// An entry whose stream's leader dies gets no answer, stored or not. But every entry to a replicated stream has an
// identifier, by which JetStream leaves out what it has stored already: sent again, the entry is stored or was, and the
// answer is an acknowledgement in either case. Entries of one subject must not overtake each other on the way, so
//
//	open ──► nothing new is taken ──► a probe is stored ──► what still waits is sent again, in order ──► closed
//
// A new leader's acknowledgements come in the order of its stream. So when that of the probe is there, so are those of all
// entries that were sent to this leader before; what still waits went to the one that is lost.
const (
	// electedPrefix is of the subjects on which JetStream tells of a stream's new leader.
	electedPrefix = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."

	// identityWindow is for how long the identifier of a stored entry is known.
	identityWindow = 20 * time.Second

	// againWithin is how long after the first time an entry may be sent again: what remains of the window is for clocks that
	// differ and for the way.
	againWithin = 10 * time.Second

	// holdAfter is for how long an entry waits before nothing more is sent behind it: a new leader acknowledges what the old one
	// had left it, and whatever takes that one's place would overtake the rest.
	holdAfter = 300 * time.Millisecond

	// suspectAfter is for how long an entry waits before something may be wrong.
	suspectAfter = time.Second
	suspectEvery = 250 * time.Millisecond

	probeTimeout = time.Second
	probePause   = 20 * time.Millisecond
)

// errSuccession refuses entries that would overtake others.
var errSuccession = fmt.Errorf("%w: the stream gets another leader", journal.ErrUnavailable)

// succession is what the publisher knows of a replicated stream for when its leader changes.
type succession struct {
	waiting      int               // entries without an acknowledgement
	order        []uint64          // their numbers, growing, and perhaps those of others that were sent after the first of them
	moved        chan struct{}     // if not nil, is closed when what mayFollow looks at changes
	suspected    bool              // a probe is under way because an entry waits for long
	acknowledged map[string]uint64 // by subject, the highest number of an entry that was acknowledged
	probed       uint64            // the sequence of the last probe

	open    bool // entries wait that perhaps nobody will answer, and nothing new is taken
	elected int  // leaders since then
}

// replicated says whether entries are sent again.
func (p *publisher) replicated() bool { return len(p.successions) > 0 }

// succession returns that of an entry's stream, nil if it is not sent again.
func (p *publisher) succession(e *published) *succession {
	if e.shard < 0 || !p.replicated() {
		return nil
	}
	return &p.successions[e.shard]
}

// mayFollow returns nil when another entry may be sent to the stream. The lock must be held; it is free while mayFollow waits.
func (p *publisher) mayFollow(ctx context.Context, s *succession) error {
	if s.open {
		return errSuccession
	}
	for s.open || p.age(s) > holdAfter {
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if ctx.Err() != nil {
			return fmt.Errorf("%w: earlier entries have no answer: %w", journal.ErrUnavailable, context.Cause(ctx))
		}
	}
	return nil
}

// oldest returns the first of the entries that wait, and its number; nil if none does. The lock must be held.
func (p *publisher) oldest(s *succession) (uint64, *published) {
	for len(s.order) > 0 {
		if e := p.waiting[s.order[0]]; e != nil {
			return s.order[0], e
		}
		s.order = s.order[1:]
	}
	return 0, nil
}

// age returns for how long the first of the entries that wait has waited. The lock must be held.
func (p *publisher) age(s *succession) time.Duration {
	if _, e := p.oldest(s); e != nil {
		return time.Since(e.first)
	}
	return 0
}

// wake has mayFollow look again. The publisher's lock must be held.
func (s *succession) wake() {
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// identified is an entry with an identifier, as unique as its reply subject. If it is a mere question, it is acknowledged if it
// is stored already, and refused otherwise, by a condition that JetStream looks at after the identifier, and that is never met.
func identified(subject, reply string, data []byte, question bool) *nats.Msg {
	m := &nats.Msg{Subject: subject, Reply: reply, Data: data, Header: nats.Header{jetstream.MsgIDHeader: {reply}}}
	if question {
		m.Data = nil
		m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.Itoa(math.MaxInt64)}
	}
	return m
}

// elected handles JetStream's word that a stream has a leader, which it may have had before.
func (p *publisher) elected(m *nats.Msg) {
	shard, err := strconv.Atoi(strings.TrimPrefix(m.Subject, electedPrefix+streamPrefix))
	if err != nil || shard < 0 || shard >= len(p.successions) {
		return // not a stream of ours
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.openSuccession(shard)
	p.successions[shard].elected++
}

// refused notes that nobody listens to an entry's stream. It says whether the entry goes on waiting, as its first copy may be
// stored.
func (p *publisher) refused(id uint64) (waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.waiting[id]
	if e == nil {
		return true
	}
	s := p.succession(e)
	if s == nil {
		return false
	}
	if e.again || s.waiting > 1 {
		p.openSuccession(e.shard)
	}
	return e.again
}

// isUnderWay notes that a leader takes an entry for one that it is storing already. It says whether the entry goes on waiting: if
// it is told so in another succession, before which it would have been stored, the leader has lost it, and will not take it either.
func (p *publisher) isUnderWay(id uint64) (waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.waiting[id]
	if e == nil {
		return true
	}
	waits = !e.underWay
	e.underWay = true
	return waits
}

// disconnected notes that the connection is lost, and with it the answers to all that waits.
func (p *publisher) disconnected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for shard := range p.successions {
		p.openSuccession(shard)
	}
}

// openSuccession begins a succession if anything waits and none is open. The lock must be held.
func (p *publisher) openSuccession(shard int) {
	s := &p.successions[shard]
	if s.open || s.waiting == 0 || p.ended {
		return
	}
	s.open, s.elected = true, 0
	p.vacant <- shard
}

// run settles successions until ctx ends.
func (p *publisher) run(ctx context.Context) {
	var working sync.WaitGroup
	defer p.end()
	defer working.Wait()
	tick := time.NewTicker(suspectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case shard := <-p.vacant:
			working.Go(func() {
				p.succeed(ctx, shard)
				p.tidy(shard)
			})
		case <-tick.C:
			for _, shard := range p.silent() {
				working.Go(func() {
					p.suspect(ctx, shard)
					p.tidy(shard)
				})
			}
		}
	}
}

// end closes all successions.
func (p *publisher) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for i := range p.successions {
		p.closeSuccession(i)
	}
}

// closeSuccession has new entries taken again. The lock must be held.
func (p *publisher) closeSuccession(shard int) {
	p.successions[shard].open = false
	p.successions[shard].wake()
}

// silent returns the shards with an entry that waits for long, but those that are seen to, and marks them as suspected.
func (p *publisher) silent() (shards []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for shard := range p.successions {
		s := &p.successions[shard]
		if !s.open && !s.suspected && p.age(s) > suspectAfter {
			s.suspected = true
			shards = append(shards, shard)
		}
	}
	return shards
}

// suspect finds out whether the stream's leader is slow or lost, of which nothing has told. A slow one acknowledges what it was
// sent before a probe first.
func (p *publisher) suspect(ctx context.Context, shard int) {
	id, err := p.storeProbe(ctx, shard)
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.successions[shard]
	s.suspected = false
	first, e := p.oldest(s)
	if errors.Is(err, journal.ErrUnavailable) || err == nil && e != nil && first < id {
		p.openSuccession(shard)
	}
}

// succeed sends what waits for a lost leader to the next one, and closes the succession. Should that one be lost meanwhile, the
// next succession goes on with what it leaves.
func (p *publisher) succeed(ctx context.Context, shard int) {
	var left []uint64
	found := p.probe(ctx, shard)
	p.mu.Lock()
	if found {
		for _, id := range p.successions[shard].order {
			if p.waiting[id] != nil {
				left = append(left, id)
			}
		}
	}
	p.mu.Unlock()

	if len(left) > 0 {
		p.logger.Info("journal stream has a leader again: what was under way is sent again", "stream", streamName(shard), "entries", len(left))
	}
	for _, id := range left {
		p.repeat(ctx, id)
	}
	p.mu.Lock()
	p.closeSuccession(shard)
	p.mu.Unlock()
}

// repeat sends a waiting entry again. Where that may put it behind a later one, or store it twice, it merely asks for it.
func (p *publisher) repeat(ctx context.Context, id uint64) {
	p.mu.Lock()
	e := p.waiting[id]
	if e == nil {
		p.mu.Unlock()
		return
	}
	s := p.succession(e)
	// A leader between two others, or one that took the entry for one that it had, may have stored later entries without this one.
	doubt := s.elected > 1 || e.underWay
	e.sent, e.again = false, true
	e.question = e.question || doubt || s.acknowledged[e.subject] > id || time.Since(e.first) > againWithin
	p.mu.Unlock()
	p.transmit(ctx, id, e)
}

// probe has an entry stored that belongs to no partition, and returns true when it is; false when nothing waits any more.
func (p *publisher) probe(ctx context.Context, shard int) bool {
	for {
		p.mu.Lock()
		s := &p.successions[shard]
		// By a call that came before nothing new was taken.
		sending := slices.ContainsFunc(s.order, func(id uint64) bool { e := p.waiting[id]; return e != nil && !e.sent })
		waiting := s.waiting
		p.mu.Unlock()
		if waiting == 0 {
			return false
		}
		if !sending {
			if _, err := p.storeProbe(ctx, shard); err == nil {
				return true
			}
		}
		if pause(ctx, probePause) != nil {
			return false
		}
	}
}

// storeProbe returns when the probe is stored, or is not. Id is its number.
func (p *publisher) storeProbe(ctx context.Context, shard int) (id uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	seq, err := wait(func(done func(uint64, error)) {
		e := &published{shard: -1, subject: fillers(shard), done: done}
		p.mu.Lock()
		id = p.add(e)
		p.mu.Unlock()
		p.transmit(ctx, id, e)
	})
	if err == nil {
		p.mu.Lock()
		s := &p.successions[shard]
		s.probed = max(s.probed, seq)
		p.mu.Unlock()
	}
	return id, err
}

// tidy has all probes and barriers removed but the last.
func (p *publisher) tidy(shard int) {
	p.mu.Lock()
	last := p.successions[shard].probed
	p.successions[shard].probed = 0
	p.mu.Unlock()
	if last > 0 {
		p.purge(shard, last)
	}
}
