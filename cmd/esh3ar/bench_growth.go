package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/esh3artech/esh3ar/internal/growth"
)

// benchGrowthCmd fits the model of docs/benchmarks.md to what scripts/growth has measured.
type benchGrowthCmd struct {
	Files    []string `arg:"" type:"existingfile" help:"What scripts/growth has written."`
	Messages float64  `default:"100000" help:"Messages a second to say the model's word about."`
	Batch    float64  `default:"20" help:"Messages in a request of these."`
	Devices  float64  `default:"1000000" help:"Connected devices."`
	Core     int      `default:"3" help:"Nodes that keep the journal."`
	Elastic  int      `default:"0" help:"Nodes besides."`
	Shards   int      `default:"16" help:"Shards."`
}

// Run prints the model, how far it is from each run, and what it says of the load that the flags describe.
func (c *benchGrowthCmd) Run(std stdio) error {
	var runs []growth.Run
	for _, name := range c.Files {
		read, err := readRuns(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		runs = append(runs, read...)
	}
	shape, work := growth.Shape{Core: c.Core, Elastic: c.Elastic, Shards: c.Shards}, growth.Work{Messages: c.Messages, Batch: c.Batch, Devices: c.Devices}
	if c.Shards < 1 || c.Core < 0 || c.Elastic < 0 || c.Messages <= 0 || c.Batch < 1 || c.Devices < 0 {
		return fmt.Errorf("%d shards on %d and %d nodes, %g messages/s in batches of %g: nothing can be said", c.Shards, c.Core, c.Elastic, c.Messages, c.Batch)
	}
	model, err := growth.Fit(runs)
	if err != nil {
		return err
	}
	printModel(std.out, model)
	if err := printResiduals(std.out, model, runs); err != nil {
		return err
	}
	printMemory(std.out, runs)
	n := growth.Count(shape, work, model.Wait)
	const mib = 1 << 20
	fmt.Fprintf(std.out, "\n%.0f messages/s in requests of %g and %.0f devices, on %d nodes with %d shards (an extrapolation, if nothing like it was measured):\n"+
		"  %.0f journal entries/s, %.0f commits/s\n  all nodes together: %.1f processors, %.0f MiB without messages\n"+
		"  the database: %.1f processors, %.0f MiB/s of WAL\n",
		c.Messages, c.Batch, c.Devices, max(c.Core+c.Elastic, 1), c.Shards, n.Entries, n.Commits,
		model.Server.CPU(shape, n), model.Memory.Of(shape, c.Devices)/mib, model.Database.CPU(n), model.Database.WAL(n)/mib)
	return nil
}

// readRuns reads a file of runs.
func readRuns(name string) ([]growth.Run, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return growth.Read(f)
}

// printModel prints what was fitted.
func printModel(w io.Writer, m *growth.Model) {
	const micro = 1e6
	s, d := m.Server, m.Database
	fmt.Fprintf(w, "servers, processor time in µs:\n  idle, a second: %.0f a node, %.0f a shard of a cluster, %.1f a device\n"+
		"  %.1f a request, %.1f a message, %.0f a commit, %.0f a wake-up; awake for %.2f ms; an entry waits %.2f ms, %.2f ms more behind a shared one\n"+
		"  idle, memory: %.1f MiB a node, %.2f MiB a copy of a shard's journal, %.1f KiB a device\n"+
		"database: %.1f µs and %.0f bytes of WAL a message, %.0f µs and %.0f bytes a commit\n",
		s.Node*micro, s.Shard*micro, s.Device*micro, s.Request*micro, s.Message*micro, s.Commit*micro, s.Wake*micro, s.Awake*1e3, m.Wait.Alone*1e3, m.Wait.Joined*1e3,
		m.Memory.Node/(1<<20), m.Memory.Copy/(1<<20), m.Memory.Device/(1<<10),
		d.MessageCPU*micro, d.MessageWAL, d.CommitCPU*micro, d.CommitWAL)
}

// printResiduals prints each run with load beside what the model says of it.
func printResiduals(w io.Writer, m *growth.Model, runs []growth.Run) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\n\tstore\tnodes\tshards\tmessages/s\tbatch\tµs a message\tmodel\tby its own counts\tentries/s\tmodel\tcommits/s\tmodel\tdatabase µs\tmodel\tWAL bytes\tmodel\t")
	for _, kind := range []string{growth.Fitted, growth.Validated, growth.Full, growth.Rows} {
		for i := range runs {
			r := &runs[i]
			if r.Kind != kind {
				continue
			}
			h := m.Hold(r)
			per := 1 / h.Counts.Messages
			nodes := fmt.Sprint(max(r.Core, 1))
			if r.Elastic > 0 {
				nodes += fmt.Sprint("+", r.Elastic)
			}
			note := kind
			if !r.Undisturbed() {
				note += ", crowded" // and left out of the fit
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%.0f\t%d\t%.0f\t%+.0f %%\t%+.0f %%\t%.0f\t%+.0f %%\t%.0f\t%+.0f %%\t", note, r.Store, nodes, r.Shards,
				h.Counts.Messages, r.Load.Work.Batch, h.Work.Measured*per*1e6, 100*h.Work.Off(), 100*h.Server.Off(),
				h.Entries.Measured, 100*h.Entries.Off(), h.Commits.Measured, 100*h.Commits.Off())
			if h.Database.Measured > 0 {
				fmt.Fprintf(t, "%.0f\t%+.0f %%\t%.0f\t%+.0f %%\t", h.Database.Measured*per*1e6, 100*h.Database.Off(), h.WAL.Measured*per, 100*h.WAL.Off())
			}
			fmt.Fprintln(t)
		}
	}
	return t.Flush()
}

// printMemory prints what was measured of memory.
func printMemory(w io.Writer, runs []growth.Run) {
	fmt.Fprintln(w)
	for i := range runs {
		switch r := &runs[i]; r.Kind {
		case growth.Idle:
			fmt.Fprintf(w, "%s, %d nodes, %d shards, idle: %.0f MiB, %.0f goroutines, %.3f processors\n",
				r.Store, max(r.Core+r.Elastic, 1), r.Shards, r.Memory/(1<<20), r.Goroutines, r.CPU/r.Seconds)
		case growth.Connected:
			s := r.Load.Server
			fmt.Fprintf(w, "%s, %.0f devices, idle: %.0f MiB, %.0f before, %.3f processors\n",
				r.Store, s.Devices, s.Connected/(1<<20), s.Unused/(1<<20), s.IdleCPU)
		case growth.Waiting:
			fmt.Fprintf(w, "%s, %d messages wait for %d recipients who are away: %.0f MiB, a minute later %.0f MiB\n",
				r.Store, r.Messages, r.Recipients, r.Sent/(1<<20), r.Memory/(1<<20))
		}
	}
}
