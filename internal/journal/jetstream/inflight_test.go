package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster/clustertest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// stream appends numbers, several at a time, and keeps what became of them.
type stream struct {
	log       *jetstream.Log
	partition journal.Partition
	slots     chan struct{}

	mu      sync.Mutex
	answers []answer // by number
	taken   int
	refused int
	unknown int
}

type answer struct {
	took time.Duration
	seq  uint64
	err  error
}

// underWay is how many appends of a stream may be, and for how long each.
const (
	underWay      = 8
	underWayLimit = 9 * time.Second
)

func (s *stream) append(ctx context.Context, t *testing.T) {
	s.slots <- struct{}{}
	s.mu.Lock()
	n := len(s.answers)
	s.answers = append(s.answers, answer{})
	s.mu.Unlock()
	began := time.Now()
	one, stop := context.WithTimeout(ctx, underWayLimit)
	s.log.AppendAsync(one, s.partition, fmt.Append(nil, n), func(seq uint64, err error) {
		stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answers[n] = answer{time.Since(began), seq, err}
		switch {
		case err == nil:
			s.taken++
		case errors.Is(err, journal.ErrUnavailable):
			s.refused++
		case errors.Is(err, journal.ErrUnknown):
			s.unknown++
		default:
			t.Errorf("append: %v", err)
		}
		<-s.slots
	})
}

// takes appends until so many more were acknowledged.
func (s *stream) takes(ctx context.Context, t *testing.T, more int) {
	t.Helper()
	s.mu.Lock()
	want := s.taken + more
	s.mu.Unlock()
	for pace := time.NewTicker(time.Millisecond); ; <-pace.C {
		s.mu.Lock()
		taken := s.taken
		s.mu.Unlock()
		if taken >= want {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("nothing is taken any more")
		}
		s.append(ctx, t)
	}
}

// check compares what was told with what is stored, when nothing is under way any more.
func (s *stream) check(ctx context.Context, t *testing.T) {
	t.Helper()
	for range underWay {
		s.slots <- struct{}{}
	}
	stored := make(map[int]uint64)
	last := -1
	r, err := s.log.Read(ctx, s.partition, 0)
	for errors.Is(err, journal.ErrUnavailable) && ctx.Err() == nil { // the servers may still agree on who leads them
		r, err = s.log.Read(ctx, s.partition, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	end := uint64(0)
	for _, a := range s.answers {
		end = max(end, a.seq)
	}
	for e := (journal.Entry{}); e.Seq < end; {
		if e, err = r.Next(ctx); err != nil {
			t.Fatalf("there are %d entries, but none with the sequence %d that was acknowledged: %v", len(stored), end, err)
		}
		var n int
		if _, err := fmt.Sscan(string(e.Data), &n); err != nil {
			t.Fatal(err)
		}
		if n <= last {
			t.Errorf("%d is stored after %d", n, last)
		}
		last, stored[n] = n, e.Seq
	}
	slowest := time.Duration(0)
	for n, a := range s.answers {
		slowest = max(slowest, a.took)
		switch seq, ok := stored[n]; {
		case a.err == nil && seq != a.seq:
			t.Errorf("%d was acknowledged as entry %d and is %d", n, a.seq, seq)
		case errors.Is(a.err, journal.ErrUnavailable) && ok:
			t.Errorf("%d is entry %d, after %v", n, seq, a.err)
		case errors.Is(a.err, context.DeadlineExceeded):
			t.Errorf("%d waited for its whole limit", n)
		}
	}
	t.Logf("%d appends, %d acknowledged, %d refused, %d unknown, the slowest after %v", len(s.answers), s.taken, s.refused, s.unknown, slowest.Round(time.Millisecond))
}

// awaitInfo asks for a shard's stream until the answer will do. While the servers agree on leaders a question may go unanswered.
func awaitInfo(ctx context.Context, t *testing.T, js natsjs.JetStream, shard int, will func(*natsjs.StreamInfo) bool) *natsjs.StreamInfo {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var info *natsjs.StreamInfo
	for ; ctx.Err() == nil; <-tick.C {
		asking, cancel := context.WithTimeout(ctx, time.Second)
		s, err := js.Stream(asking, jetstream.StreamNames(shard + 1)[shard])
		cancel()
		if err != nil {
			continue
		}
		if info = s.CachedInfo(); will(info) {
			return info
		}
	}
	t.Fatalf("the stream is not as it should be: %+v", info)
	return nil
}

// move has a shard's stream get another leader.
func move(ctx context.Context, t *testing.T, js natsjs.JetStream, shard int) {
	t.Helper()
	_, err := js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+jetstream.StreamNames(shard + 1)[shard], nil)
	if err != nil {
		t.Error(err)
	}
}

// TestUnderWay breaks the way to a stream's leader under appends. What was under way is told soon what became of it, and is
// stored once and in order.
func TestUnderWay(t *testing.T) {
	t.Parallel() // it waits for elections most of the time
	c := clustertest.Start(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	type fault struct {
		name  string
		occur func(t *testing.T, s *stream, leader int)
	}
	faults := []fault{
		{"leader moved", func(t *testing.T, s *stream, leader int) {
			move(ctx, t, admin(t, c, leader), int(s.partition.Shard))
		}},
		{"leader killed", func(_ *testing.T, _ *stream, leader int) { c.Kill(leader) }},
	}
	logs := make([]*jetstream.Log, c.Len())
	for i := range logs {
		l, err := clustered(t, c, i, jetstream.Options{Shards: len(faults)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closing(t, l) })
		logs[i] = l
	}
	for shard, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			led := func(info *natsjs.StreamInfo) bool { return info.Cluster.Leader != "" }
			leader := int(awaitInfo(ctx, t, admin(t, c, 0), shard, led).Cluster.Leader[1] - '0')
			sender := (leader + 1) % c.Len()
			s := &stream{log: logs[sender], partition: journal.Partition{Shard: uint16(shard)}, slots: make(chan struct{}, underWay)}
			s.takes(ctx, t, 200)
			done := make(chan struct{})
			go func() {
				defer close(done)
				fault.occur(t, s, leader)
			}()
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for ended := false; !ended; {
				s.append(ctx, t)
				select {
				case <-done:
					ended = true
				case <-pace.C:
				}
			}
			s.takes(ctx, t, 200)
			s.check(ctx, t)
			most := uint64(s.taken + s.unknown + 1) // with the last probe
			awaitInfo(ctx, t, admin(t, c, sender), shard, func(info *natsjs.StreamInfo) bool { return info.State.Msgs <= most })
		})
	}
}

// TestIdentifiers: what JetStream makes of an entry that is sent again, and of the question for one, also under another leader.
func TestIdentifiers(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := clustered(t, c, 0, jetstream.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	awaitStreams(t, l, 1)
	js := admin(t, c, 0)
	const subject, wrongLastSequence = "esh3ar.journal.0.0", 10071
	ask := func(id string, question bool) (*natsjs.PubAck, error) {
		m := jetstream.Identified(subject, id, []byte("data"), question)
		m.Reply = ""
		asking, stop := context.WithTimeout(ctx, 5*time.Second)
		defer stop()
		return js.PublishMsg(asking, m)
	}
	first, err := ask("a", false)
	if err != nil || first.Duplicate {
		t.Fatalf("told %+v, %v", first, err)
	}
	led := awaitInfo(ctx, t, js, 0, func(*natsjs.StreamInfo) bool { return true }).Cluster.Leader
	for _, when := range []string{"the same leader", "another leader"} {
		for _, question := range []bool{false, true} {
			if again, err := ask("a", question); err != nil || !again.Duplicate || again.Sequence != first.Sequence {
				t.Errorf("%s, question %t: told %+v, %v; want the sequence %d", when, question, again, err, first.Sequence)
			}
		}
		var refusal *natsjs.APIError
		if _, err := ask("b", true); !errors.As(err, &refusal) || refusal.ErrorCode != wrongLastSequence {
			t.Errorf("%s: a question for what is not stored: %v", when, err)
		}
		move(ctx, t, js, 0)
		info := awaitInfo(ctx, t, js, 0, func(i *natsjs.StreamInfo) bool { return i.Cluster.Leader != "" && i.Cluster.Leader != led })
		if info.State.LastSeq != first.Sequence {
			t.Errorf("%s: the stream ends at %d, want %d", when, info.State.LastSeq, first.Sequence)
		}
		led = info.Cluster.Leader
	}
}
