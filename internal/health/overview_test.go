package health_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/health"
)

// What a node tells are its metrics: rates and mean times are of the time between two readings.
func TestToldFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.New(slog.New(slog.DiscardHandler))
		accepted := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "esh3ar_messages_accepted_total"}, []string{"tier"})
		took := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "esh3ar_accept_seconds"})
		delivered := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "esh3ar_accept_to_delivered_seconds"}, []string{"tier"})
		queue := prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_store_queue_depth"})
		breaker := prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_breaker_open"})
		connections := prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_connections"})
		h.Registry().MustRegister(accepted, took, delivered, queue, breaker, connections)
		capacity := health.Capacity{Processors: 1.5, Connections: 100, AcceptLatency: 0.1}
		h.TellCapacity(capacity)
		fault := make(chan error, 1)
		fault <- nil
		h.Add("store", func(context.Context) error {
			err := <-fault
			fault <- err
			return health.Degrade(err)
		})
		h.TellLoad(func() health.Load { return health.Load{Free: 0.25, InFlight: 5, Limit: 9} })
		if told := h.Told(); told.Status != health.Unavailable || told.Free != 0.25 || told.Checks == nil {
			t.Errorf("before it was looked: %+v", told)
		}
		accepted.WithLabelValues("gold").Add(1000) // before anybody reads
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		synctest.Wait()
		if told := h.Told(); told.Status != health.OK || told.Figures.Accepted != 0 || told.Figures.StoreBreaker != "closed" {
			t.Errorf("at first: %+v", told)
		}
		accepted.WithLabelValues("gold").Add(30)
		accepted.WithLabelValues("bronze").Add(10)
		took.Observe(0.010)
		took.Observe(0.030)
		delivered.WithLabelValues("gold").Observe(0.5)
		delivered.WithLabelValues("bronze").Observe(1.5)
		queue.Set(7)
		breaker.Set(0.5)
		connections.Set(3)
		<-fault
		fault <- esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable", "it is away")
		time.Sleep(2 * time.Second) // of the bubble
		synctest.Wait()
		told := h.Told()
		f := told.Figures
		near := func(got, want float64) bool { return math.Abs(got-want) < 1e-9 }
		if !near(f.Accepted, 20) || !near(f.Accept, 0.020) || !near(f.Delivered, 1) || !near(f.Deliver, 1) || f.StoreQueue != 7 || f.Connections != 3 || f.StoreBreaker != "trying" {
			t.Errorf("figures %+v", f)
		}
		if told.Capacity != capacity {
			t.Errorf("capacity %+v", told.Capacity)
		}
		if f.Memory == 0 {
			t.Error("the process takes no memory")
		}
		if want := map[string]health.Result{"store": {Status: health.Degraded, Detail: "it is away"}}; told.Status != health.Degraded || !reflect.DeepEqual(told.Checks, want) {
			t.Errorf("checks %+v", told)
		}
		h.Drain()
		if told := h.Told(); told.Status != health.Unavailable || told.Checks["drain"].Status != health.Unavailable {
			t.Errorf("draining: %+v", told)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

// Every metric that figures are taken from is one that operators know.
func TestFiguresAreOfMetrics(t *testing.T) {
	code, err := os.ReadFile("figures.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`"(esh3ar_[a-z_]+)"`).FindAllStringSubmatch(string(code), -1)
	if len(names) < 10 {
		t.Fatalf("%d metrics", len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(page), "| `"+name[1]+"` |") {
			t.Errorf("there is no metric %s", name[1])
		}
	}
}

// What is to be done about a store that does not answer depends on whether it answers others.
func TestAdviceAboutTheStore(t *testing.T) {
	node := func(name string, store health.Status) health.Node {
		return health.Node{Name: name, Told: health.Told{Status: store, Checks: map[string]health.Result{"store": {Status: store, Detail: "why"}}}}
	}
	for name, tc := range map[string]struct {
		nodes []health.Node
		want  string // in each piece of advice
	}{
		"one of two": {[]health.Node{node("a", health.Degraded), node("b", health.OK)}, "answers other nodes"},
		"both":       {[]health.Node{node("a", health.Degraded), node("b", health.Degraded)}, "Bring the database back"},
		"alone":      {[]health.Node{node("", health.Degraded)}, "Bring the database back"},
	} {
		t.Run(name, func(t *testing.T) {
			o := health.Overview{Nodes: tc.nodes}
			o.Conclude(0)
			if len(o.Problems) == 0 {
				t.Error("no problem")
			}
			for _, p := range o.Problems {
				if !strings.Contains(p.Advice, tc.want) {
					t.Errorf("of %q: %s", p.Node, p.Advice)
				}
			}
		})
	}
}

func TestConclude(t *testing.T) {
	node := func(name string, core bool, status health.Status, checks ...string) health.Node {
		n := health.Node{Name: name, Core: core, Told: health.Told{Status: status, Checks: map[string]health.Result{"clock": {Status: health.OK}}}}
		for _, c := range checks {
			n.Checks[c] = health.Result{Status: status, Detail: "why"}
		}
		return n
	}
	for name, tc := range map[string]struct {
		nodes   []health.Node
		cores   int
		unowned []uint16
		status  health.Status
		want    []string // node, check and status of the problems
	}{
		"alone and well": {nodes: []health.Node{node("", false, health.OK)}, status: health.OK},
		"alone and away": {nodes: []health.Node{node("", false, health.Unavailable, "journal")}, status: health.Unavailable, want: []string{" journal unavailable"}},
		"a node degraded, one stopping": {
			nodes: []health.Node{node("c", true, health.Unavailable, "drain"), node("b", true, health.OK), node("a", true, health.Degraded, "store", "memory")}, cores: 3,
			status: health.Degraded, want: []string{"c drain unavailable", "a memory degraded", "a store degraded"},
		},
		"a core node missing": {
			nodes: []health.Node{node("a", true, health.OK), node("b", true, health.OK), node("elastic", false, health.OK)}, cores: 3, unowned: []uint16{3},
			status: health.Degraded, want: []string{" nodes degraded", " shards degraded"},
		},
		"no majority": {
			nodes: []health.Node{node("a", true, health.Degraded, "cluster"), node("elastic", false, health.OK)}, cores: 3,
			status: health.Degraded, want: []string{" nodes unavailable", "a cluster degraded"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := health.Overview{Nodes: tc.nodes, Shards: 4, Unowned: tc.unowned}
			o.Conclude(tc.cores)
			var got []string
			for _, p := range o.Problems {
				got = append(got, p.Node+" "+p.Check+" "+string(p.Status))
				if p.Detail == "" || p.Advice == "" {
					t.Errorf("%s without a cause or advice: %+v", p.Check, p)
				}
			}
			if o.Status != tc.status || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%s with %q, want %s with %q", o.Status, got, tc.status, tc.want)
			}
			if first := o.Nodes[0].Name; len(o.Nodes) > 1 && first != "a" {
				t.Errorf("%s is the first", first)
			}
		})
	}
}
