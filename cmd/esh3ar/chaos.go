//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/esh3artech/esh3ar/internal/chaos"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

// chaosCmd runs a server of its own under load and breaks it.
type chaosCmd struct {
	Seed       uint64        `help:"Seed of the schedule; 0 draws one. With --runs the next runs have the next seeds."`
	Runs       int           `default:"1" help:"How many runs to make, one after the other."`
	For        time.Duration `placeholder:"DURATION" help:"Make runs until that much time has passed, instead of a number of them."`
	Store      string        `default:"sqlite" enum:"sqlite,postgres,both" help:"Store of the server: sqlite, postgres (a throw-away cluster), or both in turn."`
	Nodes      int           `default:"1" enum:"1,3,5" help:"How many servers: 1, or a cluster of 3 or 5 over PostgreSQL."`
	Elastic    int           `default:"0" help:"Nodes of a cluster that keep no journal, beside those."`
	Balancer   bool          `help:"Put 'esh3ar balance' between the servers and all that talk to them."`
	Duration   time.Duration `default:"30s" help:"How long load and faults of a run go on."`
	Settle     time.Duration `default:"1m" help:"How long what is left may take to arrive."`
	Faults     []string      `placeholder:"NAME" help:"Inject these alone. 'esh3ar chaos --list' names all."`
	List       bool          `help:"Name the faults, and do nothing else."`
	Plan       bool          `help:"Print the schedule of the seed, and do nothing else."`
	Clients    int           `default:"8" help:"Business clients."`
	Rate       float64       `default:"150" help:"Requests a second of all clients together."`
	Recipients int           `default:"24" help:"Recipients, the last three of whom never have a device."`
	Dir        string        `placeholder:"DIR" help:"Keep the files of the run here: the ledger, the server's log and its data."`
	JSON       bool          `name:"json" help:"Print one JSON object for each run."`
	Quiet      bool          `short:"q" help:"Do not say what happens."`
}

// Run makes the runs and prints a report of each. It fails at the first broken promise.
func (c *chaosCmd) Run(ctx context.Context, std stdio) error {
	if c.List {
		for _, name := range chaos.Faults() {
			fmt.Fprintln(std.out, name)
		}
		return nil
	}
	for c.Seed == 0 {
		c.Seed = rand.Uint64N(1 << 32)
	}
	if c.Plan {
		o, end, err := c.options(0)
		if err != nil {
			return err
		}
		for _, step := range o.Plan() {
			fmt.Fprintln(std.out, step)
		}
		return end()
	}
	if c.Dir != "" && (c.Runs != 1 || c.For != 0) {
		return errors.New("--dir takes the files of one run")
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	var log io.Writer
	if !c.Quiet {
		log = std.err
	}
	var felt []chaos.Felt
	runs := 0
	defer func() {
		if runs > 1 && !c.JSON {
			fmt.Fprintf(std.out, "all %d runs\n%s", runs, chaos.FeltTable(felt))
		}
	}()
	began := time.Now()
	for n := 0; c.For > 0 && time.Since(began) < c.For || c.For == 0 && n < c.Runs; n++ {
		o, end, err := c.options(n)
		if err != nil {
			return err
		}
		o.Program, o.Log = program, log
		report, err := chaos.Run(ctx, o)
		if err := errors.Join(err, end()); err != nil {
			return fmt.Errorf("the run with seed %d: %w", o.Seed, err)
		}
		runs++
		felt = append(felt, report.Felt...)
		if c.JSON {
			err = json.NewEncoder(std.out).Encode(report)
		} else {
			_, err = fmt.Fprintln(std.out, report)
		}
		if err != nil {
			return err
		}
		if !report.OK() {
			return exitCode(1)
		}
	}
	return nil
}

// options are those of the run with that number. What it needs is there until end is called.
func (c *chaosCmd) options(n int) (o chaos.Options, end func() error, err error) {
	o, end = chaos.DefaultOptions(), func() error { return nil }
	o.Seed, o.Dir, o.Faults = c.Seed+uint64(n), c.Dir, c.Faults
	o.Duration, o.Settle = c.Duration, c.Settle
	o.Clients, o.Rate, o.Recipients = c.Clients, c.Rate, c.Recipients
	o.Balancer = c.Balancer
	if o.Nodes, o.Elastic = c.Nodes, c.Elastic; c.Nodes > 1 || c.Store == "postgres" || c.Store == "both" && n%2 == 1 {
		db, err := pgtest.Start("shared_buffers=64MB", "max_connections=300")
		if err != nil {
			return o, end, err
		}
		o.Database, end = db, db.Close
	}
	return o, end, nil
}
