package growth

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// Shape is how a deployment is built.
type Shape struct {
	// Core is the number of nodes that keep the journal, 0 for a server that is alone. Elastic is how many nodes there are
	// besides.
	Core    int `json:"core"`
	Elastic int `json:"elastic"`
	Shards  int `json:"shards"`
}

// nodes is the number of nodes of any kind.
func (s Shape) nodes() float64 { return float64(max(s.Core+s.Elastic, 1)) }

// replicated says whether the journal is on several disks.
func (s Shape) replicated() bool { return s.Core >= 3 }

// clustered is the number of shards that move between nodes.
func (s Shape) clustered() float64 {
	if s.Core == 0 {
		return 0
	}
	return float64(s.Shards)
}

// copies is the number of copies of the shards' journals.
func (s Shape) copies() float64 {
	if s.replicated() {
		return 3 * float64(s.Shards)
	}
	return float64(s.Shards)
}

// Kinds of runs.
const (
	Idle      = "idle"      // nothing is connected or sent
	Fitted    = "fit"       // load that the model is fitted to
	Validated = "validate"  // load that it is held against
	Full      = "full"      // as much load as is answered
	Rows      = "rows"      // load on a table that has rows already, in turn right after a checkpoint and not
	Connected = "connected" // devices that idle
	Waiting   = "waiting"   // messages that wait for recipients who are away
)

// Run is one measurement, a line of what scripts/growth writes.
type Run struct {
	Kind string `json:"kind"`
	Shape
	Store string `json:"store"` // sqlite or postgres

	// Of idle runs, over all nodes.
	Seconds    float64 `json:"seconds"`
	CPU        float64 `json:"cpu_seconds"`
	Memory     float64 `json:"memory"` // resident, in bytes; also of waiting ones, a minute after all was sent
	Goroutines float64 `json:"goroutines"`

	// Of waiting ones.
	Recipients int     `json:"recipients"`
	Messages   int     `json:"messages"`
	Sent       float64 `json:"sent_memory"` // resident when all was sent

	// Of the others. Database is what the run made PostgreSQL do.
	Database struct {
		CPU          float64 `json:"cpu_seconds"` // 0 if it was not measured
		WAL          float64 `json:"wal_bytes"`
		Transactions float64 `json:"transactions"`
		Bytes        float64 `json:"bytes"`
	} `json:"database"`
	Load *Report `json:"load"`
}

// Report is what the model needs of the report of `esh3ar bench load`.
type Report struct {
	Work struct {
		Batch int     `json:"batch"`
		Rate  float64 `json:"rate"`
	} `json:"workload"`
	Warmup  float64 `json:"warmup_seconds"`
	Seconds float64 `json:"measured_seconds"`
	Verdict struct {
		Accepted int `json:"accepted"`
	} `json:"verdict"`
	Accept struct {
		P99 float64 `json:"p99"`
	} `json:"accept_latency_ms"`
	Server struct {
		CPU       float64 `json:"cpu_us"`
		Unused    float64 `json:"unused_bytes"`
		Connected float64 `json:"connected_bytes"`
		Devices   float64 `json:"devices"`
		IdleCPU   float64 `json:"idle_cpu"`
	} `json:"server_cost"`
	Stages []struct {
		Name  string  `json:"name"`
		Count float64 `json:"count"`
	} `json:"server_stages"`
}

// maxLine bounds a run's line.
const maxLine = 1 << 20

// Read reads runs, one JSON object a line.
func Read(r io.Reader) ([]Run, error) {
	var runs []Run
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var run Run
		if err := json.Unmarshal(lines.Bytes(), &run); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch {
		case run.Shards < 1 || run.Core < 0 || run.Elastic < 0:
			return nil, fmt.Errorf("line %d: %d shards on %d and %d nodes", n, run.Shards, run.Core, run.Elastic)
		case run.Kind == Idle && run.Seconds <= 0:
			return nil, fmt.Errorf("line %d: an idle run without a time", n)
		case run.Kind != Idle && run.Kind != Waiting && (run.Load == nil || run.Load.Verdict.Accepted == 0 || run.Load.Work.Batch < 1 || run.sending() <= 0):
			return nil, fmt.Errorf("line %d: a load of nothing", n)
		}
		runs = append(runs, run)
	}
	return runs, lines.Err()
}

// sending is how long the run's load lasted, in seconds.
func (r *Run) sending() float64 { return r.Load.Warmup + r.Load.Seconds }

// postgres is the Store of a Run with PostgreSQL.
const postgres = "postgres"

// work is the load that the nodes had.
func (r *Run) work() Work {
	return Work{
		Messages: float64(r.Load.Verdict.Accepted) / r.sending(), Batch: float64(r.Load.Work.Batch), Devices: r.Load.Server.Devices,
	}
}

// counts are what the nodes noted themselves.
func (r *Run) counts() Counts {
	w := r.work()
	c := Counts{Messages: w.Messages, Requests: w.Messages / w.Batch, Devices: w.Devices}
	for _, s := range r.Load.Stages {
		switch s.Name {
		case "esh3ar_journal_append":
			c.Entries = s.Count / r.sending()
		case "esh3ar_store_commit":
			c.Commits = s.Count / r.sending()
		}
	}
	return c
}

// serverCPU is the processor time that the nodes took in a second.
func (r *Run) serverCPU() float64 { return r.Load.Server.CPU / 1e6 * r.work().Messages }

// databaseCPU is the same of the database. It was measured over the whole run, and is therefore taken for its messages.
func (r *Run) databaseCPU() float64 { return r.Database.CPU / r.sending() }

// wal is how many bytes of WAL were written in a second.
func (r *Run) wal() float64 { return r.Database.WAL / r.sending() }

// Beyond these a run says more of a machine that has too much to do than of the server.
const (
	slowest = 100  // milliseconds to accept, at the 99th percentile
	fewest  = 0.98 // of the messages that were to be sent
)

// Undisturbed says whether the model is fitted to the run.
func (r *Run) Undisturbed() bool {
	return r.Load.Accept.P99 <= slowest && r.work().Messages >= fewest*r.Load.Work.Rate
}
