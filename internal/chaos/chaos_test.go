//go:build unix

package chaos_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/chaos"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

var seed = flag.Uint64("chaos-seed", 1, "first seed of TestPromises")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program builds the program with these build tags.
func program(t *testing.T, tags string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "esh3ar")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", tags, "-o", path, "github.com/esh3artech/esh3ar/cmd/esh3ar").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// report makes one run and fails the test if it cannot be made.
func report(t *testing.T, o chaos.Options) *chaos.Report {
	t.Helper()
	var log strings.Builder
	o.Log = &log
	r, err := chaos.Run(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return r
}

// database starts a PostgreSQL for the test.
func database(t *testing.T) chaos.Database {
	t.Helper()
	db, err := pgtest.Start("shared_buffers=64MB", "max_connections=300")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// TestPromises is the short set of runs for every change: a few seeds over each store, and over a cluster.
func TestPromises(t *testing.T) {
	exe := program(t, "")
	for n, run := range []struct {
		postgres bool
		nodes    int
		duration time.Duration
	}{
		{false, 1, 22 * time.Second},
		{false, 1, 22 * time.Second},
		{false, 1, 22 * time.Second},
		{true, 1, 22 * time.Second},
		{true, 3, 40 * time.Second},
	} {
		o := chaos.DefaultOptions()
		o.Seed, o.Program, o.Nodes = *seed+uint64(n), exe, run.nodes
		// Two processors and many timeouts: the runs mostly wait, so two at a time are no slower.
		o.Duration, o.Rate = run.duration, 100
		t.Run(fmt.Sprintf("seed=%d,postgres=%v,nodes=%d", o.Seed, run.postgres, run.nodes), func(t *testing.T) {
			t.Parallel()
			if run.postgres {
				o.Database = database(t)
			}
			if run.nodes > 1 {
				o.Elastic = 1
			}
			r := report(t, o)
			t.Logf("\n%s", r)
			if !r.OK() {
				t.Error("a promise was broken")
			}
			if r.Accepted < 500 || r.Received < 300 || r.Accepted == r.Received || len(r.Faults) < 3 {
				t.Error("too little happened to prove anything")
			}
		})
	}
}

// TestBrokenProgramsAreCaught shows that the laboratory finds what it is there to find: programs that
// are broken on purpose lose messages, and it says so.
func TestBrokenProgramsAreCaught(t *testing.T) {
	for _, test := range []struct {
		tag      string
		nodes    int
		duration time.Duration
		settle   time.Duration
		faults   []string
	}{
		// Acknowledged before it is written: a killed process is enough.
		{"mutation_ack_early", 1, 10 * time.Second, 5 * time.Second, []string{"kill"}},
		// Written before it is acknowledged, and not synced: only a disk that forgets shows it.
		{"mutation_no_sync", 1, 10 * time.Second, 5 * time.Second, []string{"power-cut"}},
		// And three copies that none has synced are none when the power is gone everywhere.
		{"mutation_no_sync", 3, 12 * time.Second, 8 * time.Second, []string{"power-cut-all"}},
		// Synced, and by one node alone: what it accepted last goes with its disk. One server cannot show that.
		{"mutation_one_copy", 3, 12 * time.Second, 5 * time.Second, []string{"lose-disk"}},
		// Read from the journal and not stored: whether a device has received it or not, the server knows
		// nothing of it any more.
		{"mutation_position_early", 1, 10 * time.Second, 5 * time.Second, []string{"kill"}},
	} {
		t.Run(fmt.Sprintf("%s,nodes=%d", test.tag, test.nodes), func(t *testing.T) {
			t.Parallel()
			o := chaos.DefaultOptions()
			o.Seed, o.Program, o.Faults = 1, program(t, test.tag), test.faults
			o.Duration, o.Settle, o.Rate = test.duration, test.settle, 150
			if o.Nodes = test.nodes; o.Nodes > 1 {
				o.Database = database(t)
			}
			r := report(t, o)
			t.Logf("accepted %d, lost %d, forgotten %d", r.Accepted, r.Lost, r.Forgotten)
			for _, name := range test.faults {
				if why := r.Unavailable[name]; why != "" {
					t.Fatalf("%s: %s", name, why)
				}
			}
			if r.OK() || r.Lost+r.Forgotten == 0 {
				t.Errorf("the laboratory does not notice:\n%s", r)
			}
			if err := os.RemoveAll(r.Dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPlan shows that a schedule depends on its arguments alone, fits, and never has two faults at a time
// that work on the same thing.
func TestPlan(t *testing.T) {
	for seed := range uint64(200) {
		length := time.Duration(5+seed) * time.Second
		plan := chaos.Plan(seed, length, chaos.Faults())
		if again := chaos.Plan(seed, length, chaos.Faults()); !slices.Equal(plan, again) {
			t.Fatalf("seed %d: two schedules", seed)
		}
		busy := make(map[string]chaos.Step)
		for i, s := range plan {
			if i > 0 && s.At < plan[i-1].At || s.At < 0 || s.For <= 0 || s.At+s.For > length {
				t.Fatalf("seed %d: step %d, %s, does not fit", seed, i, s)
			}
			for _, what := range works(s.Fault) {
				if last, ok := busy[what]; ok && s.At < last.At+last.For {
					t.Fatalf("seed %d: %s while %s", seed, s, last)
				}
				busy[what] = s
			}
		}
		if length > 3*time.Minute {
			for _, name := range chaos.Faults() {
				if !slices.ContainsFunc(plan, func(s chaos.Step) bool { return s.Fault == name }) {
					t.Errorf("seed %d: %s never comes", seed, name)
				}
			}
		}
	}
}

// works says what some of the faults work on.
func works(fault string) []string {
	switch fault {
	case "kill", "pause", "terminate", "clock-jump":
		return []string{"process"}
	case "power-cut", "fsync-error":
		return []string{"process", "disk"}
	case "disk-full", "slow-disk":
		return []string{"disk"}
	case "store-down", "store-hang":
		return []string{"store"}
	case "store-set-back":
		return []string{"store", "process", "disk"}
	}
	return nil
}
