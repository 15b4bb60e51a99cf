package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

// oneServer starts a NATS server that is alone.
func oneServer(t *testing.T) *cluster.Server {
	t.Helper()
	s, err := cluster.Start(options(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

func alone(o *cluster.MembersOptions) { o.Replicas = 1 }

// An observer sees who comes and goes and what they tell, and nobody sees it.
func TestObserver(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	o, err := cluster.NewObserver(cluster.ObserverOptions{NATS: s, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := o.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	if nodes, complete := o.Live(); len(nodes) > 0 || complete {
		t.Errorf("before there is anything: %v, %t", nodes, complete)
	}
	first := startNode(t, s, "first", false, alone)
	second := startNode(t, s, "second", false, alone)
	names := func() string {
		nodes, complete := o.Live()
		text := fmt.Sprint(complete)
		for _, n := range nodes {
			text += " " + n.Name
		}
		return text
	}
	eventually(t, patience, "both are seen", func() bool { return names() == "true first second" })
	nodes, _ := o.Live()
	if string(nodes[0].Load) != `{"cpu":0.5}` || nodes[0].Address != "http://first" || time.Since(nodes[0].Reported) > 5*time.Second {
		t.Errorf("%+v", nodes[0])
	}
	reported := nodes[0].Reported
	eventually(t, patience, "the next report is seen", func() bool { nodes, _ := o.Live(); return nodes[0].Reported.After(reported) })
	if live := first.live(); len(live) != 2 {
		t.Errorf("the nodes see %v", live)
	}
	changed := o.Changed()
	second.stop()
	<-changed
	eventually(t, patience, "the goodbye is seen", func() bool { return names() == "true first" })
}

// candidate stands for the lead and notes when it leads.
type candidate struct {
	*cluster.Leader
	t    *testing.T
	end  context.CancelFunc
	nats *cutConnector

	running sync.WaitGroup
	terms   chan *cluster.Term // cap 1: the one that began

	mu    sync.Mutex
	spans []span
}

type span struct{ from, to time.Time }

// cutConnector breaks the connections that it made.
type cutConnector struct {
	cluster.Connector
	mu    sync.Mutex
	conns []*nats.Conn
}

func (c *cutConnector) Connect(options ...nats.Option) (*nats.Conn, error) {
	nc, err := c.Connector.Connect(options...)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, nc)
		c.mu.Unlock()
	}
	return nc, err
}

func (c *cutConnector) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.conns {
		nc.Close()
	}
}

func stand(t *testing.T, s *cluster.Server, name string) *candidate {
	t.Helper()
	c := &candidate{t: t, nats: &cutConnector{Connector: s}, terms: make(chan *cluster.Term, 1)}
	var err error
	if c.Leader, err = cluster.NewLeader(cluster.LeaderOptions{
		NATS: c.nats, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)).With("on", name), Task: "test", Name: name,
		Renew: 50 * time.Millisecond, HeldFor: 400 * time.Millisecond, TakeAfter: 600 * time.Millisecond,
	}); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	c.end = end
	c.running.Go(func() {
		if err := c.Run(ctx, c.lead); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(c.stop)
	return c
}

func (c *candidate) stop() {
	c.end()
	c.running.Wait()
}

func (c *candidate) lead(ctx context.Context, term *cluster.Term) error {
	from := time.Now()
	c.terms <- term
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spans = append(c.spans, span{from, time.Now()})
	return nil
}

// One of several leads at a time; the next begins with what the last left, and what the last stores then is refused.
func TestLeader(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	startNode(t, s, "node", false, alone) // whose bucket is used
	all := []*candidate{stand(t, s, "a"), stand(t, s, "b"), stand(t, s, "c")}
	await := func() (*candidate, *cluster.Term) {
		t.Helper()
		select {
		case term := <-all[0].terms:
			return all[0], term
		case term := <-all[1].terms:
			return all[1], term
		case term := <-all[2].terms:
			return all[2], term
		case <-time.After(patience):
			t.Fatal("nobody leads")
			return nil, nil
		}
	}
	leader, term := await()
	if !leader.Leading() || len(term.Value()) != 0 {
		t.Errorf("%t, %q", leader.Leading(), term.Value())
	}
	for i := range 3 {
		if err := term.Store(t.Context(), fmt.Append(nil, "the first, ", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range all {
		if value, err := c.Read(t.Context()); err != nil || string(value) != "the first, 2" {
			t.Errorf("read %q, %v", value, err)
		}
		eventually(t, patience, "all know who leads", func() bool { return c.Holder() == leader.name(all) })
		if c != leader && c.Leading() {
			t.Error("two lead")
		}
	}

	// A leader that loses its connection knows that it does not lead before the next does.
	leader.nats.cut()
	second, next := await()
	if second == leader || string(next.Value()) != "the first, 2" {
		t.Errorf("the next begins with %q", next.Value())
	}
	if err := next.Store(t.Context(), []byte("the second")); err != nil {
		t.Error(err)
	}
	eventually(t, patience, "who is cut off does not say who leads", func() bool { return leader.Holder() == "" })
	leader.stop()

	// One that stops gives the lease back: the next need not wait.
	began := time.Now()
	second.stop()
	third, last := await()
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Logf("the next led after %s", took) // a busy machine
	}
	if string(last.Value()) != "the second" {
		t.Errorf("the last begins with %q", last.Value())
	}
	if err := next.Store(t.Context(), []byte("too late")); err == nil {
		t.Error("a leader whose term is over has stored something")
	}
	if err := last.Store(t.Context(), []byte("the third")); err != nil {
		t.Error(err)
	}
	third.stop()
	var before time.Time
	for _, c := range []*candidate{leader, second, third} {
		if len(c.spans) != 1 || c.spans[0].from.Before(before) {
			t.Errorf("terms %v, after one that ended %s", c.spans, before)
			continue
		}
		before = c.spans[0].to
	}
}

// name is which of all the candidate is.
func (c *candidate) name(all []*candidate) string {
	for i, other := range all {
		if c == other {
			return string(rune('a' + i))
		}
	}
	return ""
}

// A leader that gives up lets others lead, and stands again.
func TestLeaderGivesUp(t *testing.T) {
	t.Parallel()
	s := oneServer(t)
	startNode(t, s, "node", false, alone)
	l, err := cluster.NewLeader(cluster.LeaderOptions{NATS: s, Logger: slog.New(slog.DiscardHandler), Task: "test", Name: "a", Renew: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	terms := 0
	if err := l.Run(ctx, func(context.Context, *cluster.Term) error {
		if terms++; terms == 3 {
			cancel()
		}
		return json.Unmarshal([]byte("{"), new(int))
	}); err != nil || terms != 3 {
		t.Errorf("%d terms, %v", terms, err)
	}
}

func TestLeaderOptionsAreChecked(t *testing.T) {
	good := cluster.LeaderOptions{NATS: cluster.External{}, Logger: slog.New(slog.DiscardHandler), Task: "test", Name: "a"}
	for name, change := range map[string]func(*cluster.LeaderOptions){
		"no NATS":        func(o *cluster.LeaderOptions) { o.NATS = nil },
		"no logger":      func(o *cluster.LeaderOptions) { o.Logger = nil },
		"no name":        func(o *cluster.LeaderOptions) { o.Name = "" },
		"no task":        func(o *cluster.LeaderOptions) { o.Task = "" },
		"a bad task":     func(o *cluster.LeaderOptions) { o.Task = "a.b" },
		"taken early":    func(o *cluster.LeaderOptions) { o.TakeAfter = o.HeldFor + 1 },
		"rarely renewed": func(o *cluster.LeaderOptions) { o.Renew = 3 * time.Second },
	} {
		o := good
		change(&o)
		if _, err := cluster.NewLeader(o); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}
