package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	// pulseEvery is how often a pulse sends to a shard.
	pulseEvery = 50 * time.Millisecond
	// pulsePatience is how long a message of a pulse waits for its answer: more than publish-timeout, so that a node which
	// keeps to that is heard.
	pulsePatience = 10 * time.Second
)

// heartbeat is one message of a pulse and what became of it.
type heartbeat struct {
	began, ended time.Time
	err          error
	retryAfter   string // of an answer that is not 202
}

// pulse sends to one node, for every shard, at a fixed pace, whatever becomes of the messages before, so that it is known what
// whoever comes at any moment is told.
type pulse struct {
	end   context.CancelFunc
	beats sync.WaitGroup

	mu     sync.Mutex
	shards [][]heartbeat // in the order in which they ended
}

// pulse begins one, with a recipient of every shard.
func (s *server) pulse(t *testing.T, to map[uint16]string) *pulse {
	t.Helper()
	p := &pulse{shards: make([][]heartbeat, len(to))}
	ctx, cancel := context.WithCancel(t.Context())
	p.end = cancel
	a := newAPI(s.url)
	a.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: pulsePatience}
	p.beats.Go(func() {
		tick := time.NewTicker(pulseEvery)
		defer tick.Stop()
		defer a.close()
		var under sync.WaitGroup
		defer under.Wait()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for shard, name := range to {
				under.Go(func() { p.beat(context.WithoutCancel(ctx), a, shard, name) })
			}
		}
	})
	t.Cleanup(func() { p.stop() })
	return p
}

// beat sends one message.
func (p *pulse) beat(ctx context.Context, a *api, shard uint16, to string) {
	b := heartbeat{began: time.Now()}
	var r receipt
	var resp *http.Response
	resp, b.err = a.call(ctx, http.MethodPost, "/v1/messages", "", outgoing{To: to, Content: "beat", TTL: 1}, &r)
	b.ended = time.Now()
	if b.err != nil && resp != nil {
		b.retryAfter = resp.Header.Get("Retry-After")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shards[shard] = append(p.shards[shard], b)
}

// accepts reports whether of every shard a message was accepted that came after then.
func (p *pulse) accepts(then time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, beats := range p.shards {
		if !slices.ContainsFunc(beats, func(b heartbeat) bool { return b.err == nil && b.began.After(then) }) {
			return false
		}
	}
	return true
}

// stop ends the pulse, waits until the last of its messages has been answered, and returns what became of each shard's.
func (p *pulse) stop() [][]heartbeat {
	p.end()
	p.beats.Wait()
	return p.shards
}

// answered is what the beats of one shard amount to.
type answered struct {
	accepted  int
	slowest   time.Duration // 202
	refused   []heartbeat   // 503 with Retry-After, by which the message was surely not taken
	unknown   []heartbeat   // 503 outcome_unknown with Retry-After
	wrong     []heartbeat   // everything else
	longest   time.Duration // time in which nobody came whose message was accepted
	longestAt time.Time     // when that began
}

// count sums up the beats that began in [from, until), of which there are some at all times.
func count(beats []heartbeat, from, until time.Time) *answered {
	beats = slices.DeleteFunc(slices.Clone(beats), func(b heartbeat) bool { return b.began.Before(from) || !b.began.Before(until) })
	slices.SortFunc(beats, func(a, b heartbeat) int { return a.began.Compare(b.began) })
	a := new(answered)
	last := from
	silent := func(now time.Time) {
		if d := now.Sub(last); d > a.longest {
			a.longest, a.longestAt = d, last
		}
	}
	for _, b := range beats {
		p, ok := errors.AsType[*problem](b.err)
		switch {
		case b.err == nil:
			a.accepted++
			a.slowest = max(a.slowest, b.ended.Sub(b.began))
			silent(b.began)
			last = b.began
		case !ok || p.HTTP != http.StatusServiceUnavailable || b.retryAfter == "":
			a.wrong = append(a.wrong, b)
		case p.Code == "outcome_unknown":
			a.unknown = append(a.unknown, b)
		default:
			a.refused = append(a.refused, b)
		}
	}
	silent(until)
	return a
}

// since tells it with times since a moment.
func (a *answered) since(t time.Time) string {
	text := fmt.Sprintf("%d accepted, the slowest after %s; nobody who came for %s, from %s on", a.accepted,
		a.slowest.Round(time.Millisecond), a.longest.Round(time.Millisecond), a.longestAt.Sub(t).Round(time.Millisecond))
	by := make(map[string][]heartbeat)
	for _, b := range slices.Concat(a.refused, a.unknown) {
		by[says(b.err)] = append(by[says(b.err)], b)
	}
	for what, list := range by {
		var slowest time.Duration
		for _, b := range list {
			slowest = max(slowest, b.ended.Sub(b.began))
		}
		text += fmt.Sprintf("; %d who came from %s to %s were told %s, the slowest after %s", len(list), list[0].began.Sub(t).Round(time.Millisecond),
			list[len(list)-1].began.Sub(t).Round(time.Millisecond), what, slowest.Round(time.Millisecond))
	}
	return text
}

// TestPulseIsCounted shows that what is looked for in a pulse would be noticed.
func TestPulseIsCounted(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	unavailable := &problem{HTTP: http.StatusServiceUnavailable, Code: "journal_unavailable"}
	unknown := &problem{HTTP: http.StatusServiceUnavailable, Code: "outcome_unknown"}
	beats := []heartbeat{ // in the order in which they ended
		{at(0), at(10), nil, ""},
		{at(100), at(105), unavailable, "1"},
		{at(150), at(155), unavailable, ""}, // does not say when to come back
		{at(200), at(205), &problem{HTTP: http.StatusInternalServerError, Code: "internal"}, "1"},
		{at(250), at(255), errors.New("connection refused"), ""},
		{at(50), at(1050), nil, ""},
		{at(20), at(1060), unknown, "1"},
		{at(1000), at(1070), nil, ""},
	}
	for _, test := range []struct {
		from, until             int
		accepted, silent, at    int
		refused, unknown, wrong int
	}{
		{0, 1050, 3, 950, 50, 1, 1, 3},
		{0, 2500, 3, 1500, 1000, 1, 1, 3}, // it accepts nothing any more
		{0, 120, 2, 70, 50, 1, 1, 0},
		{60, 240, 0, 180, 60, 1, 0, 2},
	} {
		a := count(beats, at(test.from), at(test.until))
		if a.accepted != test.accepted || len(a.refused) != test.refused || len(a.unknown) != test.unknown || len(a.wrong) != test.wrong ||
			a.longest != at(test.silent).Sub(t0) || !a.longestAt.Equal(at(test.at)) {
			t.Errorf("from %d to %d: %s; %d wrong", test.from, test.until, a.since(t0), len(a.wrong))
		}
	}
	if a := count(beats, at(0), at(1050)); a.slowest != time.Second {
		t.Errorf("the slowest answer came after %s", a.slowest)
	}
}
