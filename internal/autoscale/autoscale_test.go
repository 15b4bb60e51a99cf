package autoscale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/esh3artech/esh3ar/internal/autoscale/policy"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/health"
)

// deployment is members over a real NATS server that tell of a load which they share, and a provider of more of them.
type deployment struct {
	t    *testing.T
	nats *cluster.Server

	mu    sync.Mutex
	load  float64 // processors in use over all
	nodes map[string]context.CancelFunc
	fail  error // of Scale

	running sync.WaitGroup
}

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	s, err := cluster.Start(cluster.Options{Name: "test", Dir: t.TempDir(), MaxStore: 1 << 30, MaxMemory: 64 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := &deployment{t: t, nats: s, nodes: make(map[string]context.CancelFunc)}
	t.Cleanup(func() {
		d.mu.Lock()
		for _, stop := range d.nodes {
			stop()
		}
		d.mu.Unlock()
		d.running.Wait()
	})
	for i := range 2 {
		d.start(fmt.Sprint("core-", i), "core")
	}
	return d
}

// start starts a node with two processors.
func (d *deployment) start(name string, roles ...string) {
	m, err := cluster.NewMembers(cluster.MembersOptions{
		NATS: d.nats, Logger: slog.New(slog.DiscardHandler), Name: name, Roles: roles, Load: d.told,
		Heartbeat: 50 * time.Millisecond, FreshFor: 2 * time.Second, DeadAfter: 3 * time.Second,
	})
	if err != nil {
		d.t.Error(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	d.mu.Lock()
	d.nodes[name] = stop
	d.mu.Unlock()
	d.running.Go(func() {
		if err := m.Run(ctx); err != nil {
			d.t.Error(err)
		}
	})
}

func (d *deployment) told() json.RawMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	raw, err := json.Marshal(health.Told{
		Status: health.OK, Load: health.Load{Free: 1},
		Figures:  health.Figures{CPU: d.load / float64(len(d.nodes)), StoreBreaker: "closed"},
		Capacity: health.Capacity{Processors: 2, Connections: 100, AcceptLatency: 0.1},
	})
	if err != nil {
		d.t.Error(err)
	}
	return raw
}

func (d *deployment) set(load float64, fail error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.load, d.fail = load, fail
}

func (d *deployment) elastic() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.nodes) - 2
}

func (d *deployment) Name() string { return "test" }

func (d *deployment) Inventory(context.Context) (Inventory, error) { return Inventory{}, nil }

func (d *deployment) Scale(_ context.Context, o Order) error {
	d.mu.Lock()
	fail, n := d.fail, len(d.nodes)
	stop := d.nodes[o.Node]
	if fail == nil && o.Add == 0 {
		delete(d.nodes, o.Node)
	}
	d.mu.Unlock()
	switch {
	case fail != nil:
		return fail
	case o.Add == 0:
		stop()
	default:
		for i := range o.Add {
			d.start(fmt.Sprint("elastic-", n+i))
		}
	}
	return nil
}

// scaler is an autoscaler that runs.
type scaler struct {
	*Autoscaler
	t       *testing.T
	end     context.CancelFunc
	running sync.WaitGroup
}

func (d *deployment) scaler(name string) *scaler {
	d.t.Helper()
	rules := policy.DefaultRules()
	rules.Max = 3
	rules.Smooth, rules.LowFor, rules.UpCooldown, rules.DownCooldown = 200*time.Millisecond, 500*time.Millisecond, 300*time.Millisecond, 500*time.Millisecond
	rules.RetryAfter = 100 * time.Millisecond
	a, err := New(d.t.Context(), Options{
		NATS: d.nats, Name: name, Rules: rules, Provider: d, Logger: slog.New(slog.NewTextHandler(d.t.Output(), nil)).With("on", name),
		Admin: "127.0.0.1:0", Interval: 20 * time.Millisecond,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	s := &scaler{Autoscaler: a, t: d.t, end: end}
	s.running.Go(func() {
		if err := a.Run(ctx); err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(s.stop)
	return s
}

func (s *scaler) stop() {
	s.end()
	s.running.Wait()
}

func (s *scaler) get(path string) (status int, body string) {
	s.t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + s.AdminAddr().String() + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func (s *scaler) decisions() Report {
	s.t.Helper()
	var r Report
	status, body := s.get("/decisions")
	if err := json.Unmarshal([]byte(body), &r); err != nil || status != http.StatusOK {
		s.t.Fatal(status, body, err)
	}
	return r
}

// Two autoscalers: one leads, nodes come and go with the load, and the other goes on where it was.
func TestAutoscaler(t *testing.T) {
	d := newDeployment(t)
	first := d.scaler("first")
	eventually(t, "the first leads", func() bool { return first.decisions().Leading })
	second := d.scaler("second")
	eventually(t, "both are ready", func() bool {
		one, _ := first.get("/readyz")
		two, _ := second.get("/readyz")
		return one == http.StatusOK && two == http.StatusOK
	})
	if status, _ := second.get("/healthz"); status != http.StatusOK {
		t.Errorf("alive: %d", status)
	}
	eventually(t, "the load is known", func() bool { now := first.decisions().Now; return now != nil && now.Decision.Live == 2 })

	d.set(3.8, nil) // of 4 processors
	eventually(t, "nodes are added", func() bool { return d.elastic() == 2 })
	d.set(1, nil)
	eventually(t, "they are drained", func() bool { return d.elastic() == 0 })

	// Every autoscaler tells what was decided.
	seen := second.decisions()
	if seen.Leading || seen.Leader != "first" || seen.Name != "second" || seen.Provider != "test" || seen.Problem != "" {
		t.Errorf("%+v", seen)
	}
	var kinds []string
	for _, e := range seen.Decisions {
		kinds = append(kinds, string(e.Kind))
		if e.Outcome != Done && e != seen.Decisions[0] || e.By != "first" || e.Reason == "" || e.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(kinds, " "); got != "remove remove add" {
		t.Errorf("decided, the last first: %s", got)
	}
	_, metrics := first.get("/metrics")
	for _, line := range []string{
		`esh3ar_autoscale_decisions_total{kind="add",outcome="done",signal="cpu"} 1`,
		`esh3ar_autoscale_decisions_total{kind="hold",outcome="held",signal="cpu"} [0-9e.+]+`,
		`esh3ar_autoscale_leading 1`, `esh3ar_autoscale_nodes{which="live"} [234]`, `esh3ar_autoscale_utilisation{signal="cpu"} 0\.\d+`,
		`esh3ar_autoscale_act_seconds_count{kind="remove"} [12]`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(metrics) {
			t.Errorf("no line %s", line)
		}
	}

	page, err := os.ReadFile("../../docs/autoscaling.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (esh3ar_\w+)`).FindAllStringSubmatch(metrics, -1) {
		if !strings.Contains(string(page), "| `"+m[1]+"` |") {
			t.Errorf("docs/autoscaling.md does not explain %s", m[1])
		}
	}

	// What fails is told, and tried again.
	d.set(3.8, errors.New("no machines left"))
	eventually(t, "the failure is told", func() bool {
		last := second.decisions().Decisions[0]
		return last.Outcome == Failed && last.Error == "no machines left"
	})
	d.set(3.8, nil)
	eventually(t, "it is tried again", func() bool { return d.elastic() == 2 })

	// The next leader knows what was done.
	first.stop()
	eventually(t, "the second leads", func() bool { return second.decisions().Leading })
	d.set(1, nil)
	eventually(t, "the second drains them", func() bool { return d.elastic() == 0 })
	var by []string
	for _, e := range second.decisions().Decisions {
		if e.Outcome != Failed {
			by = append(by, fmt.Sprint(e.By, " ", e.Kind))
		}
	}
	if got := strings.Join(by, ", "); got != "second remove, second remove, first add, first remove, first remove, first add" {
		t.Errorf("decided, the last first: %s", got)
	}
}

// What a node does not say is missing, not nothing.
func TestFiguresOfOthersAreMissing(t *testing.T) {
	now := time.Now()
	good := `{"free":0.9,"status":"ok","figures":{"cpu":1.5,"connections":7,"lag_seconds":2.5,"dispatch_queue":3,"accept_seconds":0.004,"accepted_per_second":20,"store_breaker":"open"},
		"capacity":{"processors":2,"connections":100,"accept_latency_seconds":0.1}}`
	for name, test := range map[string]struct {
		load    string
		missing bool
		ready   bool
	}{
		"all":               {good, false, true},
		"starting":          {strings.Replace(good, `"ok"`, `"unavailable"`, 1), false, false},
		"degraded":          {strings.Replace(good, `"ok"`, `"degraded"`, 1), false, true},
		"of an older start": {`{"free":0.9,"status":"ok","figures":{"cpu":1.5}}`, true, false},
		"nothing":           {"", true, false},
		"another form":      {`{"status":5}`, true, false},
	} {
		n := nodeOf(cluster.Observed{Member: cluster.Member{Name: "a", Roles: []string{"hub", "core"}, Draining: true, Load: json.RawMessage(test.load)}, Reported: now})
		if n.Name != "a" || !n.Core || !n.Draining || n.Reported.IsZero() != test.missing || n.Ready != test.ready {
			t.Errorf("%s: %+v", name, n)
		}
	}
	f := nodeOf(cluster.Observed{Member: cluster.Member{Load: json.RawMessage(good)}, Reported: now}).Figures
	want := policy.Figures{
		Lag: 2500 * time.Millisecond, Queue: 3, Accept: 4 * time.Millisecond, AcceptLatency: 100 * time.Millisecond, Accepted: 20,
		Accepting: f.Accepting, CPU: 1.5, Processors: 2, Connections: 7, MaxConnections: 100, StoreAway: true,
	}
	if f != want || f.Accepting < 0.09 || f.Accepting > 0.11 {
		t.Errorf("%+v, want %+v", f, want)
	}
}

// The autoscaler and balancers read the same figures, and compare them with the same.
func TestCapacitiesAreThoseOfHealth(t *testing.T) {
	if c := policy.DefaultRules().Capacity; c.Lag != health.LagCapacity || c.Queue != health.QueueCapacity {
		t.Errorf("a node may be %s behind and have %g recipients waiting; to balancers it is %s and %d", c.Lag, c.Queue, health.LagCapacity, health.QueueCapacity)
	}
}

// What a provider has to say does not keep decisions from being stored.
func TestErrorsAreKeptInBrief(t *testing.T) {
	if got := brief(errors.New("no machines left")); got != "no machines left" {
		t.Errorf("%q", got)
	}
	got := brief(errors.New("é" + strings.Repeat("ü", 1<<20)))
	if len(got) > mostError+len("…") || !strings.HasPrefix(got, "éü") || !strings.HasSuffix(got, "ü…") || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %.20q …", len(got), got)
	}
	if got := brief(errors.New("e" + strings.Repeat("ü", 1<<20))); !utf8.ValidString(got) {
		t.Error("a letter is cut in two")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	rules := policy.DefaultRules()
	good := Options{NATS: cluster.External{}, Name: "a", Rules: rules, Provider: Exec{}, Logger: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(o *Options){
		"no provider": func(o *Options) { o.Provider = nil },
		"no NATS":     func(o *Options) { o.NATS = nil },
		"no name":     func(o *Options) { o.Name = "" },
		"rules":       func(o *Options) { o.Rules.Max = -1 },
		"admin":       func(o *Options) { o.Admin = "nowhere" },
	} {
		o := good
		change(&o)
		if _, err := New(t.Context(), o); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}
