package loadgen

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// testWorker runs the test binary as a worker; see TestMain.
func testWorker(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"=1")
	return cmd
}

// impatient gives up early on what will not come.
func impatient(o *Options) { o.Settle = 500 * time.Millisecond }

// testRun makes a short run against the platform.
func testRun(t *testing.T, p *platform, change func(*Options)) *Report {
	t.Helper()
	o := Options{
		Target: p.target(), Work: Workload{Clients: 6, Recipients: 4, Batch: 1, Rate: 600},
		Duration: 500 * time.Millisecond, Warmup: 100 * time.Millisecond, Settle: 10 * time.Second, Worker: testWorker,
	}
	if change != nil {
		change(&o)
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRunFindsPromisesKept(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"open loop":        nil,
		"closed loop":      func(o *Options) { o.Work.Rate = 0 },
		"batches":          func(o *Options) { o.Work.Batch, o.Work.Keys = 5, true },
		"keys":             func(o *Options) { o.Work.Keys = true },
		"many recipients":  func(o *Options) { o.Work.Clients, o.Work.Recipients = 3, 10 },
		"two devices":      func(o *Options) { o.Devices = 2 },
		"half offline":     func(o *Options) { o.Offline = 0.5 },
		"tokens by secret": func(o *Options) { o.Target.JWTSecret = platformSecret },
		"minimal devices":  func(o *Options) { o.Client, o.Devices, o.Offline = MinimalClient, 2, 0.5 },
	} {
		t.Run(name, func(t *testing.T) {
			r := testRun(t, startPlatform(t, faults{}), change)
			v := &r.Verdict
			if !v.OK() || v.Accepted == 0 || v.Received != v.Accepted || v.Repeated+v.Refused+v.Unknown > 0 || len(v.Notes) > 0 {
				t.Errorf("verdict: %v %q", v, v.Notes)
			}
			if len(r.Clients.Errors)+len(r.Phones.Errors) > 0 {
				t.Errorf("errors: %v %v", r.Clients.Errors, r.Phones.Errors)
			}
			if int64(v.Accepted) != r.Clients.Accepted || int64(v.Received) != r.Phones.Received {
				t.Errorf("the ledgers say %v; the counts %d and %d", v, r.Clients.Accepted, r.Phones.Received)
			}
			if r.Accept.Count == 0 || r.Accept.Count > r.Clients.Measured || r.Rate <= 0 || r.Total.Count == 0 ||
				r.Receive.Count != r.Total.Count || r.Receive.Max <= 0 || r.Receive.P50 > r.Total.Max {
				t.Errorf("latencies: %+v %+v %+v, rate %f", r.Accept, r.Receive, r.Total, r.Rate)
			}
			if c := r.Server; c.Devices < r.Devices/2 || c != (ServerCost{
				CPU: platformCPU, Unused: platformMemory, Connected: platformMemory + c.Devices*deviceMemory, Devices: c.Devices,
			}) {
				t.Errorf("server: %+v", c)
			}
			if len(r.Stages) != 1 || r.Stages[0].Name != "x" || r.Stages[0].P50 != Milliseconds(500*time.Millisecond) {
				t.Errorf("stages: %+v", r.Stages)
			}
		})
	}
}

func TestRunMeasuresIdling(t *testing.T) {
	p := startPlatform(t, faults{})
	p.look = 0.05
	r := testRun(t, p, func(o *Options) { o.Idle = 500 * time.Millisecond })
	if cpu := r.Server.IdleCPU; cpu < 0.0999 || cpu > 0.1001 {
		t.Errorf("%f of a processor while idle, want 0.1: one look in half a second", cpu)
	}
}

func TestRunFindsPromisesBroken(t *testing.T) {
	t.Run("lost", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{lose: 50}), impatient).Verdict
		if v.OK() || v.Lost == 0 || v.Waiting != v.Lost || v.Received+v.Lost != v.Accepted {
			t.Errorf("verdict: %v", &v)
		}
	})
	t.Run("out of order", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{reorder: 50}), func(o *Options) {
			impatient(o)
			o.Work.Clients, o.Work.Recipients = 2, 2
		}).Verdict
		if v.OK() || v.Disordered == 0 || v.Contradictions > 0 {
			t.Errorf("verdict: %v", &v)
		}
	})
	t.Run("delivered though refused", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{refuse: 50, deliverRefused: 1}), nil).Verdict
		if v.OK() || v.Contradictions != v.Refused || v.Refused == 0 {
			t.Errorf("verdict: %v", &v)
		}
	})
	t.Run("another id", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{otherID: 50}), nil).Verdict
		if v.OK() || v.Contradictions == 0 || !strings.Contains(strings.Join(v.Notes, " "), "received as") {
			t.Errorf("verdict: %v", &v)
		}
	})
}

func TestRunAllowsWhatThePromisesAllow(t *testing.T) {
	t.Run("repeats", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{repeat: 20}), nil).Verdict
		if !v.OK() || v.Repeated == 0 || v.Received != v.Accepted {
			t.Errorf("verdict: %v", &v)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		r := testRun(t, startPlatform(t, faults{refuse: 20}), nil)
		if v := &r.Verdict; !v.OK() || v.Refused == 0 || v.Received != v.Accepted {
			t.Errorf("verdict: %v", v)
		}
		if r.Clients.Errors["503 overloaded"] != r.Clients.Refused {
			t.Errorf("errors %v, refused %d", r.Clients.Errors, r.Clients.Refused)
		}
	})
	t.Run("refusals within batches", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{refuse: 20}), func(o *Options) { o.Work.Batch = 7 }).Verdict
		if !v.OK() || v.Refused == 0 || v.Received != v.Accepted {
			t.Errorf("verdict: %v", &v)
		}
	})
	t.Run("broken connections", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{hangUp: 30}), nil).Verdict
		if !v.OK() || v.Unknown == 0 || v.Received != v.Accepted {
			t.Errorf("verdict: %v", &v)
		}
	})
	t.Run("repeating until accepted", func(t *testing.T) {
		v := testRun(t, startPlatform(t, faults{hangUp: 30, refuse: 41}), func(o *Options) { o.Work.Retry = true }).Verdict
		if !v.OK() || v.Unknown+v.Refused > 0 || v.Received != v.Accepted {
			t.Errorf("verdict: %v", &v)
		}
	})
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	p := startPlatform(t, faults{})
	for name, tc := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no clients": {func(o *Options) { o.Work.Clients = 0 }, "client"},
		"batch":      {func(o *Options) { o.Work.Batch = 2000 }, "batch"},
		"secret":     {func(o *Options) { o.Target.JWTSecret = "another" }, "401"},
		"worker": {func(o *Options) {
			o.Worker = func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, "/bin/false") }
		}, "worker"},
		"target":       {func(o *Options) { o.Target.URL = "nowhere" }, "nowhere"},
		"client":       {func(o *Options) { o.Client = "pigeon" }, "pigeon"},
		"share":        {func(o *Options) { o.Offline = 2 }, "offline"},
		"no duration":  {func(o *Options) { o.Duration = 0 }, "duration"},
		"retry batch":  {func(o *Options) { o.Work.Batch, o.Work.Retry = 2, true }, "single"},
		"no recipient": {func(o *Options) { o.Work.Recipients = 0 }, "recipient"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{
				Target: p.target(), Work: Workload{Clients: 1, Recipients: 1, Batch: 1},
				Duration: time.Second, Settle: time.Second, Worker: testWorker,
			}
			tc.change(&o)
			if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	p := startPlatform(t, faults{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, Options{
		Target: p.target(), Work: Workload{Clients: 2, Recipients: 2, Batch: 1, Rate: 100},
		Duration: time.Hour, Settle: time.Second, Worker: testWorker,
		Progress: func(p Progress) {
			if p.Clients.Accepted > 10 {
				cancel()
			}
		},
	})
	if err == nil || ctx.Err() == nil {
		t.Errorf("error %v, want the context's", err)
	}
}

// Each server of a cluster gets its share of the clients and of the devices.
func TestPlanSpreadsOverNodes(t *testing.T) {
	o := Options{
		Target: Target{URL: "http://127.0.0.1:8080", APIKey: "key"}, Nodes: []string{"http://127.0.0.1:8081", "http://127.0.0.1:8082"},
		Work: Workload{Clients: 10, Recipients: 301},
	}
	jobs, err := o.plan(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	devices, clients := map[string]uint32{}, map[string]uint32{}
	for _, j := range jobs {
		if j.Target.APIKey != "key" {
			t.Errorf("a job without the key: %+v", j.Target)
		}
		clients[j.Target.URL] += j.Clients
		if a := j.Audience; a != nil {
			devices[j.Target.URL] += a.N
		}
	}
	if len(devices) != 3 || len(clients) != 3 {
		t.Errorf("devices at %v, clients at %v", devices, clients)
	}
	for _, of := range []map[string]uint32{devices, clients} {
		least, most := slices.Min(slices.Collect(maps.Values(of))), slices.Max(slices.Collect(maps.Values(of)))
		if most-least > 1 {
			t.Errorf("uneven: %v", of)
		}
	}
}

func TestPlanSpreadsOverProcesses(t *testing.T) {
	files, err := RaiseFileLimit()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Target: Target{URL: "http://127.0.0.1:8080"}, Offline: 0.25, Devices: 2,
		Work: Workload{Clients: uint32(2*files + 1), Recipients: uint32(files)},
	}
	jobs, err := o.plan(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var clients, recipients uint32
	sources := map[string]bool{}
	for _, j := range jobs {
		if sources[j.Target.Source] {
			t.Errorf("two processes connect from %q", j.Target.Source)
		}
		sources[j.Target.Source] = true
		if a := j.Audience; a != nil {
			if a.First != recipients || int(a.N*2) > files || float64(j.Online) > 0.75*float64(a.N*2)+2 || float64(j.Online) < 0.75*float64(a.N*2)-2 {
				t.Errorf("recipients %d from %d, %d devices online", a.N, a.First, j.Online)
			}
			recipients += a.N
			continue
		}
		if j.First != clients || int(j.Clients) > files {
			t.Errorf("%d clients from %d", j.Clients, j.First)
		}
		clients += j.Clients
	}
	if clients != o.Work.Clients || recipients != o.Work.Recipients {
		t.Errorf("%d clients and %d recipients, want %d and %d", clients, recipients, o.Work.Clients, o.Work.Recipients)
	}
}
