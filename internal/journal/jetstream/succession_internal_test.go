package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// Identified is for tests from outside.
var Identified = identified

// servers are those of one stream, as far as a publisher sees them. They are for a synctest bubble.
type servers struct {
	p *publisher

	mu     sync.Mutex
	now    behavior
	repeat *behavior         // from the first entry on that is sent again, if not nil
	data   []string          // what is stored, by sequence less one
	ids    map[string]uint64 // the sequences of what is stored
	copies int               // of entries, and questions, that came
	purged uint64            // below which sequence there are no probes
}

// behavior is what becomes of an entry that is published.
type behavior int

const (
	acknowledges behavior = iota
	storesMutely          // and dies before it acknowledges
	isLost                // with all that it gets
	isAbsent              // so that nobody listens
	storesSlowly          // what it gets is under way
)

func newServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{p: newPublisher(1, slog.New(slog.DiscardHandler)), ids: make(map[string]uint64)}
	s.p.prefix, s.p.request = "reply.", s.receive
	s.p.purge = func(_ int, below uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.purged = max(s.purged, below)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.p.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

func (s *servers) receive(e *published, reply string) error {
	if m := s.answer(e, reply); m != nil {
		m.Subject = reply
		s.p.answered(m)
	}
	return nil
}

// answer stores an entry, or does not, and returns the answer, if there is one.
func (s *servers) answer(e *published, reply string) *nats.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.again && s.repeat != nil {
		s.now, s.repeat = *s.repeat, nil
	}
	s.copies++
	known := s.ids[reply]
	switch {
	case s.now == isLost:
		return nil
	case s.now == isAbsent:
		return &nats.Msg{Header: nats.Header{"Status": {"503"}}}
	case known > 0:
		return &nats.Msg{Data: fmt.Appendf(nil, `{"seq":%d,"duplicate":true}`, known)}
	case e.question:
		return &nats.Msg{Data: []byte(`{"error":{"err_code":10071}}`)}
	case s.now == storesSlowly && e.again:
		return &nats.Msg{Data: fmt.Appendf(nil, `{"error":{"err_code":%d}}`, codeUnderWay)}
	case s.now == storesSlowly && e.shard >= 0:
		return nil
	}
	s.data = append(s.data, string(e.data))
	seq := uint64(len(s.data))
	s.ids[reply] = seq
	if s.now == storesMutely {
		return nil
	}
	return &nats.Msg{Data: fmt.Appendf(nil, `{"seq":%d}`, seq)}
}

// become has the servers behave in another way.
func (s *servers) become(b behavior) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = b
}

// elect has servers tell of a new leader.
func (s *servers) elect(b behavior) {
	s.become(b)
	s.p.elected(&nats.Msg{Subject: electedPrefix + streamName(0)})
}

// outcome is what became of an entry, and after what time.
type outcome struct {
	seq  uint64
	err  error
	took time.Duration
}

const sendLimit = 5 * time.Second

// send publishes an entry while the servers behave so.
func (s *servers) send(t *testing.T, data string, b behavior) <-chan outcome {
	t.Helper()
	return s.sendWithin(t, sendLimit, data, b)
}

func (s *servers) sendWithin(t *testing.T, limit time.Duration, data string, b behavior) <-chan outcome {
	t.Helper()
	s.become(b)
	out := make(chan outcome, 1)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	began := time.Now()
	s.p.send(ctx, 0, "subject", []byte(data), func(seq uint64, err error) {
		cancel()
		out <- outcome{seq, err, time.Since(began)}
	})
	return out
}

// want fails the test unless the entry was told within the time that it is stored, or err.
func (o outcome) want(t *testing.T, s *servers, data string, err error, within time.Duration) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !errors.Is(o.err, err) || o.took > within:
		t.Errorf("%s: told %v after %v, want %v within %v", data, o.err, o.took, err, within)
	case err == nil && s.data[o.seq-1] != data:
		t.Errorf("%s is entry %d of %q", data, o.seq, s.data)
	}
}

// wantEntries fails the test unless these are stored, besides probes.
func (s *servers) wantEntries(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := slices.DeleteFunc(slices.Clone(s.data), func(d string) bool { return d == "" }); !slices.Equal(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	for i, d := range s.data {
		if seq := uint64(i + 1); d == "" && seq > s.purged {
			t.Errorf("the probe of the sequence %d was left, purged is below %d", seq, s.purged)
		}
	}
}

const soon = 100 * time.Millisecond

func TestLostEntriesAreSentAgain(t *testing.T) {
	t.Run("by word of a new leader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a, b, c := s.send(t, "a", storesMutely), s.send(t, "b", isLost), s.send(t, "c", isLost)
			s.elect(acknowledges)
			(<-a).want(t, s, "a", nil, soon)
			(<-b).want(t, s, "b", nil, soon)
			(<-c).want(t, s, "c", nil, soon)
			s.wantEntries(t, "a", "b", "c")
		})
	})
	t.Run("because nobody listens", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a := s.send(t, "a", isLost)
			(<-s.send(t, "b", isAbsent)).want(t, s, "b", journal.ErrUnavailable, soon)
			synctest.Wait()
			// A leader that comes does not get later entries before those that were under way.
			(<-s.send(t, "c", acknowledges)).want(t, s, "c", journal.ErrUnavailable, soon)
			(<-a).want(t, s, "a", nil, soon)
			synctest.Wait()
			(<-s.send(t, "d", acknowledges)).want(t, s, "d", nil, soon)
			s.wantEntries(t, "a", "d")
		})
	})
	t.Run("because the connection was lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a, b := s.send(t, "a", storesMutely), s.send(t, "b", isLost)
			s.become(isAbsent)
			s.p.disconnected()
			synctest.Wait()
			s.become(acknowledges)
			(<-a).want(t, s, "a", nil, soon)
			(<-b).want(t, s, "b", nil, soon)
			s.wantEntries(t, "a", "b")
		})
	})
	t.Run("because there is no answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a, b := s.send(t, "a", isLost), s.send(t, "b", storesMutely)
			s.become(acknowledges)
			// "a" would come behind "b" now, but nobody has told of that.
			(<-a).want(t, s, "a", nil, suspectAfter+2*suspectEvery)
			(<-b).want(t, s, "b", nil, suspectAfter+2*suspectEvery)
		})
	})
	t.Run("to yet another leader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a, b := s.send(t, "a", isLost), s.send(t, "b", isLost)
			absent := isAbsent
			s.repeat = &absent // it stores the probe alone
			s.elect(acknowledges)
			synctest.Wait()
			s.become(acknowledges) // without a word
			(<-a).want(t, s, "a", nil, suspectAfter+2*suspectEvery)
			(<-b).want(t, s, "b", nil, suspectAfter+2*suspectEvery)
			s.wantEntries(t, "a", "b")
		})
	})
}

// What may have been overtaken is asked for, and not stored behind what has overtaken it.
func TestOvertakenEntriesAreAskedFor(t *testing.T) {
	for name, stored := range map[string]bool{"stored": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServers(t)
				fate, told := isLost, journal.ErrUnknown
				if stored {
					fate, told = storesMutely, nil
				}
				a := s.send(t, "a", fate)
				(<-s.send(t, "b", acknowledges)).want(t, s, "b", nil, soon)
				s.elect(acknowledges)
				(<-a).want(t, s, "a", told, soon)
				if !stored {
					s.wantEntries(t, "b")
				}
			})
		})
	}
	t.Run("too late to be known by its identifier", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a := s.sendWithin(t, time.Minute, "a", isLost)
			s.become(isAbsent)
			<-time.After(againWithin)
			s.become(acknowledges)
			(<-a).want(t, s, "a", journal.ErrUnknown, againWithin+soon)
			s.wantEntries(t)
		})
	})
	t.Run("two leaders", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newServers(t)
			a, b := s.send(t, "a", isLost), s.send(t, "b", storesMutely) // by the first of them
			s.elect(isLost)
			synctest.Wait()
			s.elect(acknowledges)
			(<-a).want(t, s, "a", journal.ErrUnknown, probeTimeout+soon)
			(<-b).want(t, s, "b", nil, probeTimeout+soon)
			s.wantEntries(t, "b")
		})
	})
}

// Nothing is sent behind an entry that waits for long, until it is known what became of that.
func TestNothingOvertakesWhatMayBeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(t)
		a := s.send(t, "a", isLost)
		<-time.After(holdAfter + 1)
		short, long := make(chan (<-chan outcome), 1), make(chan (<-chan outcome), 1)
		go func() { short <- s.sendWithin(t, soon, "short", acknowledges) }()
		synctest.Wait()
		go func() { long <- s.send(t, "long", acknowledges) }()
		(<-<-short).want(t, s, "short", journal.ErrUnavailable, soon)
		s.elect(acknowledges)
		(<-a).want(t, s, "a", nil, holdAfter+2*soon)
		(<-<-long).want(t, s, "long", nil, 2*soon)
		s.wantEntries(t, "a", "long")
	})
}

// A leader that is slow is left in peace, and an entry that has no answer is unknown when its time is up.
func TestSlowLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(t)
		a := s.send(t, "a", isLost)
		(<-a).want(t, s, "a", journal.ErrUnknown, sendLimit)
		synctest.Wait()
		if probes := s.copies - 1; probes < 2 || probes > 4 {
			t.Errorf("%d probes in %v", probes, sendLimit)
		}
		// What comes a second time while the first is under way is not taken for refused; a leader that has lost it is not believed twice.
		b := s.send(t, "b", storesSlowly)
		s.elect(storesSlowly)
		synctest.Wait()
		s.p.answered(&nats.Msg{Subject: fmt.Sprint("reply.", idOf(t, s.p, "b")), Data: []byte(`{"seq":1}`)})
		if o := <-b; o.err != nil || o.seq != 1 {
			t.Errorf("told %+v", o)
		}
		c := s.send(t, "c", storesSlowly)
		(<-c).want(t, s, "c", journal.ErrUnknown, 2*(suspectAfter+suspectEvery))
	})
}

// idOf returns the number of a waiting entry, as it stands in the reply subject.
func idOf(t *testing.T, p *publisher, data string) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, e := range p.waiting {
		if string(e.data) == data {
			return fmt.Sprint(id)
		}
	}
	t.Fatalf("%s does not wait", data)
	return ""
}

// The data of an entry that is sent again is not free before the connection has its copy either.
func TestDataIsKeptWhileItIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(t)
		s.become(isLost)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reading := false
		s.p.request = func(e *published, reply string) error {
			if e.again {
				reading = true
				cancel()
				<-time.After(time.Second)
				reading = false
			}
			return s.receive(e, reply)
		}
		told := make(chan error, 2)
		s.p.send(ctx, 0, "subject", []byte("a"), func(_ uint64, err error) {
			if reading {
				t.Error("told while the data is read")
			}
			told <- err
		})
		s.elect(acknowledges)
		if err := <-told; !errors.Is(err, journal.ErrUnknown) {
			t.Errorf("told %v", err)
		}
		synctest.Wait()
		if len(told) > 0 || len(s.p.waiting) > 0 {
			t.Error("told twice, or it still waits")
		}
	})
}
