package growth_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar/internal/growth"
)

// truth is a model that runs are made of.
func truth() growth.Model {
	return growth.Model{
		Wait: growth.Wait{Alone: 0.0004, Joined: 0.002},
		Server: growth.Server{
			Node: 0.01, Shard: 0.002, Device: 5e-6, Request: 60e-6, Message: 25e-6, Commit: 300e-6, Wake: 700e-6, Awake: 0.0015,
		},
		Database: growth.Database{MessageCPU: 15e-6, CommitCPU: 450e-6, MessageWAL: 700, CommitWAL: 450},
		Memory:   growth.Memory{Node: 40 << 20, Copy: 1 << 19, Device: 12 << 10},
	}
}

// line is what scripts/growth would write of a load if the model were true, its counts included.
func line(kind string, m growth.Model, s growth.Shape, rate, batch float64, change func(line string) string) string {
	const seconds = 10
	n := growth.Count(s, growth.Work{Messages: rate, Batch: batch}, m.Wait)
	l := fmt.Sprintf(`{"kind":%q,"core":%d,"elastic":%d,"shards":%d,"store":"postgres","database":{"cpu_seconds":%g,"wal_bytes":%g},"load":{`+
		`"workload":{"batch":%g,"rate":%g},"warmup_seconds":1,"measured_seconds":%d,"verdict":{"accepted":%.0f},"accept_latency_ms":{"p99":20},`+
		`"server_cost":{"cpu_us":%g},"server_stages":[{"name":"esh3ar_journal_append","count":%g},{"name":"esh3ar_store_commit","count":%g}]}}`,
		kind, s.Core, s.Elastic, s.Shards, m.Database.CPU(n)*seconds, m.Database.WAL(n)*seconds, batch, rate, seconds-1, rate*seconds,
		m.Server.CPU(s, n)/rate*1e6, n.Entries*seconds, n.Commits*seconds)
	if change != nil {
		l = change(l)
	}
	return l + "\n"
}

// idle is the same of nodes without load.
func idle(m growth.Model, s growth.Shape) string {
	return fmt.Sprintf(`{"kind":"idle","core":%d,"elastic":%d,"shards":%d,"store":"postgres","seconds":10,"cpu_seconds":%g,"memory":%g}`+"\n",
		s.Core, s.Elastic, s.Shards, 10*m.Server.CPU(s, growth.Counts{}), m.Memory.Of(s, 0))
}

// connected is the same of a server with devices.
func connected(m growth.Model, devices float64) string {
	s := growth.Shape{Shards: 2}
	return fmt.Sprintf(`{"kind":"connected","shards":2,"store":"sqlite","load":{"workload":{"batch":1},"measured_seconds":1,"verdict":{"accepted":1},`+
		`"server_cost":{"devices":%g,"idle_cpu":%g,"connected_bytes":%g}}}`+"\n",
		devices, m.Server.CPU(s, growth.Counts{Devices: devices}), m.Memory.Of(s, devices))
}

func read(t *testing.T, text string) []growth.Run {
	t.Helper()
	runs, err := growth.Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// measured are the lines of enough runs for a fit.
func measured(m growth.Model) string {
	var b strings.Builder
	b.WriteString(connected(m, 3000) + connected(m, 15000))
	for _, s := range []growth.Shape{{Shards: 2}, {Core: 1, Shards: 6}, {Core: 1, Elastic: 1, Shards: 6}, {Core: 3, Shards: 6}, {Core: 3, Shards: 32}} {
		b.WriteString(idle(m, s))
		for _, rate := range []float64{250, 1000, 4000} {
			b.WriteString(line(growth.Fitted, m, s, rate, 1, nil))
			b.WriteString(line(growth.Fitted, m, s, rate*5, 20, nil))
		}
	}
	return b.String()
}

func near(a, b, within float64) bool { return math.Abs(a-b) <= within*math.Abs(b) }

func TestFitFindsTheModel(t *testing.T) {
	want := truth()
	got, err := growth.Fit(read(t, measured(want)))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string][2]float64{
		"wait": {got.Wait.Alone, want.Wait.Alone}, "longer wait": {got.Wait.Joined, want.Wait.Joined}, "awake": {got.Server.Awake, want.Server.Awake},
		"node": {got.Server.Node, want.Server.Node}, "shard": {got.Server.Shard, want.Server.Shard},
		"device": {got.Server.Device, want.Server.Device}, "memory of a node": {got.Memory.Node, want.Memory.Node},
		"memory of a copy": {got.Memory.Copy, want.Memory.Copy}, "memory of a device": {got.Memory.Device, want.Memory.Device},
		"request": {got.Server.Request, want.Server.Request}, "message": {got.Server.Message, want.Server.Message},
		"commit": {got.Server.Commit, want.Server.Commit}, "wake": {got.Server.Wake, want.Server.Wake},
		"database message": {got.Database.MessageCPU, want.Database.MessageCPU}, "database commit": {got.Database.CommitCPU, want.Database.CommitCPU},
		"wal message": {got.Database.MessageWAL, want.Database.MessageWAL}, "wal commit": {got.Database.CommitWAL, want.Database.CommitWAL},
	} {
		if !near(v[0], v[1], 0.03) {
			t.Errorf("%s: %g, want %g", name, v[0], v[1])
		}
	}
}

func TestFitLeavesOut(t *testing.T) {
	m := truth()
	clean, err := growth.Fit(read(t, measured(m)))
	if err != nil {
		t.Fatal(err)
	}
	shape := growth.Shape{Core: 3, Shards: 6}
	for name, l := range map[string]string{
		"what is for validation": line(growth.Validated, m, shape, 100, 1, func(l string) string { return strings.Replace(l, `"cpu_us":`, `"cpu_us":9`, 1) }),
		"a crowded machine": line(growth.Fitted, m, shape, 100, 1, func(l string) string {
			return strings.Replace(strings.Replace(l, `"cpu_us":`, `"cpu_us":9`, 1), `"p99":20`, `"p99":101`, 1)
		}),
		"what was not sent": line(growth.Fitted, m, shape, 100, 1, func(l string) string {
			return strings.Replace(strings.Replace(l, `"cpu_us":`, `"cpu_us":9`, 1), `"rate":100`, `"rate":103`, 1)
		}),
		"SQLite": line(growth.Fitted, m, growth.Shape{Shards: 2}, 100, 1, func(l string) string {
			return strings.Replace(strings.Replace(l, `"cpu_us":`, `"cpu_us":9`, 1), `"store":"postgres"`, `"store":"sqlite"`, 1)
		}),
	} {
		got, err := growth.Fit(read(t, measured(m)+l))
		if err != nil {
			t.Fatal(err)
		}
		if *got != *clean {
			t.Errorf("%s changed the model", name)
		}
	}
	noisy := line(growth.Fitted, m, shape, 100, 1, func(l string) string { return strings.Replace(l, `"cpu_us":`, `"cpu_us":9`, 1) })
	if got, err := growth.Fit(read(t, measured(m)+noisy)); err != nil || *got == *clean {
		t.Errorf("another run did not change the model: %v", err)
	}
}

func TestFitNeedsEnough(t *testing.T) {
	m := truth()
	for name, text := range map[string]string{
		"nothing":   "",
		"no load":   idle(m, growth.Shape{Shards: 2}) + idle(m, growth.Shape{Core: 1, Shards: 6}) + idle(m, growth.Shape{Core: 3, Shards: 6}),
		"no idling": strings.Repeat(line(growth.Fitted, m, growth.Shape{Core: 3, Shards: 6}, 100, 1, nil), 9),
	} {
		if _, err := growth.Fit(read(t, text)); !errors.Is(err, growth.ErrTooFew) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":           "x\n",
		"no shards":         `{"kind":"idle","seconds":1}`,
		"an idle moment":    `{"kind":"idle","shards":2}`,
		"a load of nothing": `{"kind":"fit","shards":2,"load":{"workload":{"batch":1},"measured_seconds":1}}`,
		"no batch":          `{"kind":"fit","shards":2,"load":{"measured_seconds":1,"verdict":{"accepted":1}}}`,
		"no time":           `{"kind":"fit","shards":2,"load":{"workload":{"batch":1},"verdict":{"accepted":1}}}`,
	} {
		if _, err := growth.Read(strings.NewReader(idle(truth(), growth.Shape{Shards: 2}) + text)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: %v, want an error of line 2", name, err)
		}
	}
}

// TestReference checks what docs/benchmarks.md says of the model beside the reference machine's runs.
func TestReference(t *testing.T) {
	f, err := os.Open("testdata/reference.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	runs, err := growth.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	m, err := growth.Fit(runs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range runs {
		r := &runs[i]
		if r.Kind != growth.Fitted && r.Kind != growth.Validated || r.Store != "postgres" || !r.Undisturbed() {
			continue
		}
		if off := m.Hold(r).Work.Off(); math.Abs(off) > 0.21 {
			t.Errorf("%+v at %g/s: the model is off by %+.0f %%", r.Shape, r.Load.Work.Rate, 100*off)
		}
	}
}
