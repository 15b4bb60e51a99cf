package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// balancer starts `esh3ar balance` in front of servers and waits until it knows them.
func balancer(t *testing.T, nodes []*server, args ...string) (b *server, admin string) {
	t.Helper()
	for _, n := range nodes {
		args = append(args, "--node", n.url)
	}
	return balancerOf(t, nodes, args...)
}

// balancerOf starts `esh3ar balance`, which the arguments tell how to find servers, and waits until it knows them.
func balancerOf(t *testing.T, nodes []*server, args ...string) (b *server, admin string) {
	t.Helper()
	b = prepare(t, append([]string{program, "balance", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--slow-start", "1s"}, args...))
	b.launch()
	b.await("the balancer's addresses", func() bool {
		both, err := os.ReadFile(b.addr)
		if err != nil {
			return false
		}
		clients, own, _ := strings.Cut(strings.TrimSpace(string(both)), "\n")
		b.url, admin = "http://"+clients, "http://"+own
		return true
	})
	b.await("all nodes to be ready", func() bool {
		states := nodeStates(t, admin)
		for _, n := range nodes {
			if !states[n.url].Usable || states[n.url].State == "unknown" {
				return false
			}
		}
		return true
	})
	return b, admin
}

type nodeState struct {
	Node, State, Cause string
	Usable             bool
	Share              float64
	Requests           int
	Streams            int // WebSockets among them
}

func nodeStates(t *testing.T, admin string) map[string]nodeState {
	t.Helper()
	a := newAPI(admin)
	defer a.close()
	var out struct{ Nodes []nodeState }
	if _, err := a.call(t.Context(), http.MethodGet, "/nodes", "", nil, &out); err != nil {
		t.Fatal(err)
	}
	states := make(map[string]nodeState)
	for _, n := range out.Nodes {
		states[n.Node] = n
	}
	return states
}

// balanced is what senders through a balancer were told.
type balanced struct {
	sent atomic.Int64
	stop func() // returns when the last has its answer

	mu       sync.Mutex
	accepted map[string]string // content by id
	errors   map[string]int    // of messages without a key, by what they say
	keyed    []error           // of messages with a key; none is wanted
}

// sendThrough has so many senders send without a pause, every other message with a key.
func sendThrough(t *testing.T, b *server, senders int) *balanced {
	told := &balanced{accepted: make(map[string]string), errors: make(map[string]int)}
	run := rand.Uint64() // makes the keys unlike those of others who send
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	for i := range senders {
		sending.Go(func() {
			a := newAPI(b.url)
			defer a.close()
			for n := 0; ctx.Err() == nil; n++ {
				m := outgoing{To: fmt.Sprintf("u%d", rand.IntN(100)), Content: fmt.Sprintf("%d of %d", n, i)}
				if n%2 == 0 {
					m.Key = fmt.Sprintf("key-%d-%d-%d", run, i, n)
				}
				// What was begun is ended, so that every answer is known.
				r, err := a.send(context.Background(), m)
				told.sent.Add(1)
				told.mu.Lock()
				switch {
				case err == nil:
					told.accepted[r.ID] = m.Content
				case m.Key != "":
					told.keyed = append(told.keyed, err)
				default:
					told.errors[says(err)]++
				}
				told.mu.Unlock()
			}
		})
	}
	told.stop = func() {
		cancel()
		sending.Wait()
	}
	t.Cleanup(told.stop)
	return told
}

// more waits until n more messages were sent.
func (told *balanced) more(b *server, n int64) {
	b.t.Helper()
	want := told.sent.Load() + n
	b.await("more messages to be sent", func() bool { return told.sent.Load() >= want })
}

// unsure returns how many messages without a key failed.
func (told *balanced) unsure() int {
	told.mu.Lock()
	defer told.mu.Unlock()
	sum := 0
	for _, n := range told.errors {
		sum += n
	}
	return sum
}

// end stops the senders and fails the test if a message with a key failed, or one without was told anything but
// that nobody knows.
func (told *balanced) end(t *testing.T) {
	t.Helper()
	told.stop()
	for _, err := range told.keyed {
		t.Errorf("a message with a key: %v", err)
	}
	for what := range told.errors {
		if !strings.HasSuffix(what, "outcome_unknown") {
			t.Errorf("a message without a key was told %s", what)
		}
	}
}

// TestBalancerOverACrash kills one of three servers under load, starts it again, and stops another one in
// order: every message with a 202 is safe, one with a key always gets its 202, and one without a key that fails is told
// that nobody knows, and only when its server was killed.
//
// The servers are deployments of their own, so what one of them accepted is asked for there.
func TestBalancerOverACrash(t *testing.T) {
	t.Parallel()
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	listens := freePorts(t, len(dirs))
	nodes := make([]*server, len(dirs))
	for i, dir := range dirs {
		nodes[i] = start(t, dir, "--drain-delay", "2s", "--listen", listens[i])
	}
	b, admin := balancer(t, nodes)

	const senders = 12
	told := sendThrough(t, b, senders)
	more, unsure := func(n int64) { t.Helper(); told.more(b, n) }, told.unsure

	more(300)
	if n := unsure(); n > 0 {
		t.Fatalf("%d messages failed although nothing has happened yet: %v", n, told.errors)
	}
	nodes[0].kill()
	more(300)
	b.await("the killed server to get nothing", func() bool { return !nodeStates(t, admin)[nodes[0].url].Usable })
	atKill := unsure()
	if atKill > senders {
		t.Errorf("%d messages failed at the kill, more than were under way: %v", atKill, told.errors)
	}
	more(300)

	nodes[0] = start(t, dirs[0], "--listen", listens[0])
	before := nodeStates(t, admin)[nodes[0].url].Requests
	b.await("the server to be back", func() bool { return nodeStates(t, admin)[nodes[0].url].Requests > before+50 })

	if n := unsure(); n != atKill {
		t.Errorf("%d messages failed when the server was away and came back: %v", n-atKill, told.errors)
	}
	nodes[1].stop()
	more(300)
	if n := unsure(); n != atKill {
		t.Errorf("%d messages failed at a stop in order: %v", n-atKill, told.errors)
	}
	told.end(t)
	nodes[1] = start(t, dirs[1])
	found := make(map[string]bool)
	for _, n := range nodes {
		all, err := n.api().list(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			found[m.ID] = true
		}
	}
	lost := 0
	for id := range told.accepted {
		if !found[id] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d messages with a 202 are lost", lost, len(told.accepted))
	}
	t.Logf("%d sent, %d accepted, none lost; told at the kill: %v", told.sent.Load(), len(told.accepted), told.errors)
	b.stop()
}

// TestBalancerOverAFrozenServer freezes one of two servers (SIGSTOP) under load: it holds up few messages, those with a key are
// accepted by the other one, and when it is woken it takes its share again.
func TestBalancerOverAFrozenServer(t *testing.T) {
	t.Parallel()
	nodes := []*server{start(t, t.TempDir()), start(t, t.TempDir())}
	b, admin := balancer(t, nodes, "--response-timeout", "2s")
	const senders = 8
	told := sendThrough(t, b, senders)
	told.more(b, 300)
	frozen := nodes[0]
	if err := frozen.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	told.more(b, 300) // goes on, long before anything is given up
	b.await("the frozen server to get nothing", func() bool { return !nodeStates(t, admin)[frozen.url].Usable })
	if n := told.unsure(); n > senders {
		t.Errorf("%d messages failed at the freeze, more than were under way", n)
	}
	if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	before := nodeStates(t, admin)[frozen.url].Requests
	b.await("the server to be back", func() bool { return nodeStates(t, admin)[frozen.url].Requests > before+50 })
	told.end(t)
	t.Logf("%d sent, %d accepted; told at the freeze: %v", told.sent.Load(), len(told.accepted), told.errors)
	b.stop()
}

// says returns what an error of a request says: a problem's status and code, or that there was no answer.
func says(err error) string {
	if p, ok := errors.AsType[*problem](err); ok {
		return fmt.Sprintf("%d %s", p.HTTP, p.Code)
	}
	return err.Error()
}

// TestBalancerPassesEverything uses all that a server offers through a balancer: messages, event stream, business hub, a
// device, problems.
func TestBalancerPassesEverything(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "--trusted-proxies", "127.0.0.1")
	b, admin := balancer(t, []*server{s})
	a := b.api()

	hub, err := signalr.New(b.url+"/hubs/business", signalr.Options{
		AccessToken: func(context.Context) (string, error) { return apiKey, nil },
		Reconnect:   signalr.NoReconnect,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	overHub := make(chan happening, 10_000) // more than there are: a handler that waits holds up the end
	hub.On("MessageStatusChanged", func(_ context.Context, call *signalr.Call) (any, error) {
		var h happening
		err := call.Decode(0, &h)
		overHub <- h
		return nil, err
	})
	if err := hub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := hub.Invoke(t.Context(), nil, "Subscribe", nil); err != nil {
		t.Fatal(err)
	}
	stream := a.watch(t, "")
	newPhone(t, b, "alice", false)

	id := a.mustSend(t, outgoing{To: "alice", Content: strings.Repeat("x", 20_000)}).ID
	for _, events := range []chan happening{stream.events, overHub} {
		r := newRecord()
		r.until(t, &feed{events: events}, "delivered", id)
		r.check(t, a, id)
	}
	if all, err := a.list(t.Context(), nil); err != nil || len(all) != 1 {
		t.Errorf("a listing has %d messages, %v", len(all), err)
	}
	batch := make([]outgoing, 1000)
	for i := range batch {
		batch[i] = outgoing{To: "bob", Content: strings.Repeat("y", 500)}
	}
	if results, err := a.sendBatch(t.Context(), batch); err != nil || results[999].ID == "" {
		t.Errorf("a batch: %v", err)
	}
	if _, err := a.send(t.Context(), outgoing{}); says(err) != "400 invalid_fields" && !strings.HasPrefix(says(err), "400") {
		t.Errorf("a bad message: %v", err)
	}
	if n := nodeStates(t, admin)[s.url]; n.State != "ready" || n.Requests == 0 {
		t.Errorf("the node is shown as %+v", n)
	}
	b.stop() // does not wait for the stream and the hub
	select {
	case <-hub.Done():
	case <-time.After(stopLimit):
		t.Error("the hub's connection is still there")
	}
	s.stop()
}
