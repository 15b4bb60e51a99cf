package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

var (
	crashes   = flag.Int("crashes", 24, "how often TestCrash kills the server")
	crashSeed = flag.Uint64("crash-seed", 0, "seed of TestCrash, to repeat a run; 0 draws one")
)

const (
	crashSenders    = 8
	crashRecipients = 20 // u0, u1, …
	crashAway       = 3  // the last ones of them never have a device
)

func crashRecipient(i int) string { return fmt.Sprintf("u%d", i) }

// crashIsAway reports whether that recipient never has a device.
func crashIsAway(to string) bool {
	for i := crashRecipients - crashAway; i < crashRecipients; i++ {
		if to == crashRecipient(i) {
			return true
		}
	}
	return false
}

// TestCrash kills the server at random moments under load, again and again over one data directory,
// and in the end accounts for every 202 that was ever given: received and delivered, or still waiting
// because its recipient never had a device. Senders repeat what they got no answer for under the same
// idempotency key, or give up on it where they had none; devices come, receive, mostly acknowledge,
// and vanish without a word.
func TestCrash(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -run TestCrash -crash-seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))

	r := &crashRun{t: t, dir: t.TempDir(), ledger: newLedger()}
	// Every third recipient has two devices.
	load := r.load(seed, crashSenders, func(recipient int) int { return recipient % 3 / 2 })

	before := 0
	for n := range *crashes {
		s := r.boot()
		// Counted from the launch in one of four runs, so that starting up is interrupted too.
		early := dice.IntN(4) == 0
		moment := time.Duration(dice.Int64N(int64(1500 * time.Millisecond)))
		if !early {
			if err := s.ready(); err != nil {
				t.Fatalf("after crash %d: %v", n, err)
			}
			r.serve(s)
		}
		select {
		case <-time.After(moment):
		case <-s.gone:
			t.Fatalf("after crash %d the server ended by itself: %v\n%s", n, s.err, s.tail(4<<10))
		}
		r.serve(nil)
		s.kill()
		before++
	}

	// The last life: let the senders finish what they have begun, then everything arrive.
	s := r.boot()
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	a := load.finish(90*time.Second, s)
	t.Logf("%d crashes: %s", before, a)
	if a.accepted < 10*before || a.waiting == 0 || a.received == 0 {
		t.Errorf("too little happened to prove anything: %s", a)
	}
	s.stop()
}

// crashRun is what the parts of one TestCrash share.
type crashRun struct {
	t        *testing.T
	dir      string
	args     []string // of the server, beside those of every run
	ledger   *ledger
	settling atomic.Bool // devices stay and acknowledge everything

	mu      sync.Mutex
	current []string      // URLs of the running servers
	changed chan struct{} // closed when current changes

	connections atomic.Int64
}

// crashLoad is a load that goes on: senders, with and without keys and in batches, and devices that come and go.
type crashLoad struct {
	r                      *crashRun
	endSending, endDevices context.CancelFunc
	senders, devices       sync.WaitGroup
}

// load begins a load with so many senders. Extra says how many devices a recipient has beside its first; nil for none.
// It ends with the test, if finish is not called.
func (r *crashRun) load(seed uint64, senders int, extra func(recipient int) int) *crashLoad {
	l := &crashLoad{r: r}
	var sending, attended context.Context
	sending, l.endSending = context.WithCancel(r.t.Context())
	attended, l.endDevices = context.WithCancel(r.t.Context())
	for i := range senders {
		l.senders.Go(func() { r.sender(sending, i, rand.New(rand.NewPCG(seed, uint64(1+i)))) })
	}
	for i := range crashRecipients - crashAway {
		n := 1
		if extra != nil {
			n += extra(i)
		}
		for n := range n {
			l.devices.Go(func() {
				r.device(attended, crashRecipient(i), rand.New(rand.NewPCG(seed, uint64(1000+2*i+n))))
			})
		}
	}
	r.t.Cleanup(func() { // when the test's context has ended
		l.senders.Wait()
		l.devices.Wait()
	})
	return l
}

// finish lets the senders finish what they have begun, waits so long until every accepted message has arrived, has
// what each of the servers says checked, and accounts for everything.
func (l *crashLoad) finish(limit time.Duration, servers ...*server) *account {
	r := l.r
	r.t.Helper()
	r.settling.Store(true)
	r.serve(servers...)
	l.endSending()
	l.senders.Wait()
	if err := servers[0].poll(limit, "every accepted message to arrive", func() bool { return r.ledger.settled(crashIsAway) }); err != nil {
		r.t.Error(err)
	}
	for _, s := range servers {
		r.checkStatuses(s)
	}
	l.endDevices()
	l.devices.Wait()
	a := r.ledger.close(crashIsAway)
	for i, fault := range a.faults {
		if i == 20 {
			r.t.Errorf("and %d more", len(a.faults)-i)
			break
		}
		r.t.Error(fault)
	}
	return a
}

// boot launches the server. Attempts are plenty: devices that vanish must not use a message's up.
func (r *crashRun) boot() *server {
	return launch(r.t, r.dir, append([]string{"--ack-timeout", "2s", "--backoff-base", "50ms", "--backoff-cap", "500ms", "--max-attempts", "1000", "--log-level", "warn"}, r.args...)...)
}

// serve tells senders and devices where the servers are; nil ones are gone.
func (r *crashRun) serve(servers ...*server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = nil
	for _, s := range servers {
		if s != nil {
			r.current = append(r.current, s.url)
		}
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// server waits until there is one and returns the URL of any, "" when ctx ends first.
func (r *crashRun) server(ctx context.Context) string {
	for {
		r.mu.Lock()
		current := r.current
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if n := len(current); n > 0 {
			return current[rand.IntN(n)]
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}

// sender sends one message after the other until ctx ends; then it finishes the one at hand, so that
// every message with a key gets its 202 in the end.
func (r *crashRun) sender(ctx context.Context, number int, dice *rand.Rand) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	a := newAPI("")
	defer a.close()
	for n := 0; ; n++ {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		m := outgoing{To: crashRecipient(dice.IntN(crashRecipients)), Content: fmt.Sprintf("message %d of sender %d", n, number)}
		switch dice.IntN(4) {
		case 0, 1:
		case 2:
			m.Key = uuid.Must(uuid.NewV7()).String()
		case 3:
			m.Key = fmt.Sprintf("key %d of sender %d", n, number)
		}
		if number == 0 {
			r.sendBatch(a, m, dice)
			continue
		}
		r.ledger.begin(m.To, m.Content)
		r.send(a, m)
	}
}

// sendBatch sends several messages like m in one request, until all are accepted.
func (r *crashRun) sendBatch(a *api, m outgoing, dice *rand.Rand) {
	open := make([]outgoing, 1+dice.IntN(10))
	for i := range open {
		open[i] = outgoing{
			To:      crashRecipient(dice.IntN(crashRecipients)),
			Content: fmt.Sprintf("%s, number %d", m.Content, i),
			Key:     uuid.Must(uuid.NewV7()).String(),
		}
		r.ledger.begin(open[i].To, open[i].Content)
	}
	for len(open) > 0 {
		if a.url = r.server(r.t.Context()); a.url == "" {
			return
		}
		results, err := a.sendBatch(r.t.Context(), open)
		if err != nil && !mayPass(err) {
			r.t.Errorf("a batch: %v", err)
			return
		}
		left := open[:0]
		for i, m := range open {
			switch {
			case err != nil || results[i].Problem != nil && mayPass(results[i].Problem):
				left = append(left, m)
			case results[i].Problem != nil:
				r.t.Errorf("%q of a batch: %v", m.Content, results[i].Problem)
			default:
				r.ledger.accepted(m.Content, results[i].ID)
			}
		}
		if open = left; len(open) > 0 && !r.breathe() {
			return
		}
	}
}

// send sends one message to whichever server there is: once without a key, until it is accepted with
// one.
func (r *crashRun) send(a *api, m outgoing) {
	for {
		if a.url = r.server(r.t.Context()); a.url == "" {
			return
		}
		got, err := a.send(r.t.Context(), m)
		if err == nil {
			r.ledger.accepted(m.Content, got.ID)
			return
		}
		if !mayPass(err) {
			r.t.Errorf("%q: %v", m.Content, err)
			return
		}
		if m.Key == "" {
			return // it may have been accepted: sending it again might double it
		}
		if !r.breathe() {
			return
		}
	}
}

// mayPass reports whether the error of a request is one that a crash explains: no answer, half of one,
// or the word that the server is not available.
func mayPass(err error) bool {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.HTTP == http.StatusServiceUnavailable || p.Status == http.StatusServiceUnavailable
	}
	_, broken := errors.AsType[*url.Error](err)
	return broken || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// breathe waits a moment before the next try: a refused connection answers at once, and nobody should
// spin on it until the crash is known. It returns false when the test is over.
func (r *crashRun) breathe() bool {
	select {
	case <-time.After(10 * time.Millisecond):
		return true
	case <-r.t.Context().Done():
		return false
	}
}

// device is one phone of a recipient: it connects, receives, acknowledges most of it, vanishes and
// comes back until ctx ends.
func (r *crashRun) device(ctx context.Context, to string, dice *rand.Rand) {
	for {
		at := r.server(ctx)
		if at == "" {
			return
		}
		connection := int(r.connections.Add(1))
		incoming := make(chan string, 10000)
		d, err := dial(at, token(r.t, to, time.Hour), func(m delivery) {
			r.ledger.received(to, connection, m.ID, m.Content)
			incoming <- m.ID
		})
		if err == nil {
			r.converse(ctx, d, incoming, dice)
			d.hangUp()
		}
		select {
		case <-time.After(time.Duration(dice.Int64N(int64(100 * time.Millisecond)))):
		case <-ctx.Done():
			return
		}
	}
}

// converse acknowledges what comes in, for a random while or until the connection or ctx ends. While
// the test settles it stays and acknowledges everything.
func (r *crashRun) converse(ctx context.Context, d *device, incoming <-chan string, dice *rand.Rand) {
	stay := time.NewTimer(time.Duration(dice.Int64N(int64(time.Second))))
	defer stay.Stop()
	for {
		select {
		case id := <-incoming:
			ids := []string{id}
			for more := dice.IntN(4); more > 0 && len(incoming) > 0; more-- {
				ids = append(ids, <-incoming)
			}
			if r.settling.Load() || dice.IntN(10) > 0 {
				if d.acknowledge(ids...) != nil {
					return
				}
			}
		case <-stay.C:
			if !r.settling.Load() {
				return
			}
		case <-d.closed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// checkStatuses asks the server about every accepted message: what has arrived has to become
// delivered, what has not has to wait for a recipient who is away.
func (r *crashRun) checkStatuses(s *server) {
	a := s.api()
	var open []string
	err := s.poll(60*time.Second, "the statuses to settle", func() bool {
		all, err := a.list(r.t.Context(), url.Values{})
		if err != nil {
			r.t.Fatalf("listing: %v", err)
		}
		listed := make(map[string]details, len(all))
		for _, d := range all {
			listed[d.ID] = d
		}
		open = open[:0]
		ledger := r.ledger.close(crashIsAway)
		for id, arrived := range ledger.ids {
			d, ok := listed[id]
			switch {
			case !ok:
				open = append(open, id+" is not listed")
			case arrived && d.Status != "delivered", !arrived && d.Status != "queued":
				open = append(open, fmt.Sprintf("%s to %s is %s (arrived: %v)", id, d.To, d.Status, arrived))
			}
		}
		return len(open) == 0
	})
	if err != nil {
		slices.Sort(open)
		r.t.Errorf("%v; %d are not as they have to be:\n%s", err, len(open), strings.Join(open[:min(len(open), 20)], "\n"))
		return
	}
	// The timeline of a few, one by one.
	checked := 0
	for id, arrived := range r.ledger.close(crashIsAway).ids {
		if checked++; checked > 50 {
			break
		}
		d, err := a.message(r.t.Context(), id)
		if err != nil {
			r.t.Errorf("message %s: %v", id, err)
			continue
		}
		for i, tr := range d.Timeline {
			if tr.Seq != i+1 {
				r.t.Errorf("message %s: the timeline's status_seq has a gap: %+v", id, d.Timeline)
				break
			}
		}
		words := d.statuses()
		if words[0] != "accepted" || arrived != (words[len(words)-1] == "delivered") {
			r.t.Errorf("message %s (arrived: %v): timeline %q", id, arrived, words)
		}
	}
}
