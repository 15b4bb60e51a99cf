package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// topCmd shows how all nodes are.
type topCmd struct {
	operator
	Every time.Duration `default:"2s" help:"How often to look."`
	Once  bool          `help:"Print it once and end: with status 1 if no node can take requests."`
	JSON  bool          `name:"json" help:"Print the server's answer as a line of JSON; with --once."`
}

// Help is the longer text of --help.
func (c *topCmd) Help() string {
	return `Any node answers for all. FREE is the share of its capacity to accept; ACCEPTED, DELIVERED and REFUSED are
messages a second; DURABLE, ROUTED and STORED are mean times until a message is durable, from then until it is handed to a
device, and of a transaction of the store. QUEUE is recipients that wait for a turn, LAG how far the reading of the
journal is behind, UNSTORED journal entries that are read and not stored. Below stands what is not as it should be, and what to do.`
}

// Run shows it until ctx ends, or once.
func (c *topCmd) Run(ctx context.Context, std stdio) error {
	admin, _, done, err := c.dial(ctx) // each look has a time of its own
	if err != nil {
		return err
	}
	defer done()
	if c.Once || c.JSON {
		return c.once(ctx, admin, std.out)
	}
	const clear, home, clearLine, clearBelow = "\x1b[2J", "\x1b[H", "\x1b[K\n", "\x1b[J"
	fmt.Fprint(std.out, clear)
	tick := time.NewTicker(max(c.Every, 100*time.Millisecond))
	defer tick.Stop()
	for {
		var screen bytes.Buffer
		o, err := c.look(ctx, admin, max(c.Every, 5*time.Second))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			fmt.Fprintf(&screen, "%s: %s\n", clock(time.Now()), terminal(err.Error()))
		default:
			if err := showOverview(&screen, &o); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprint(std.out, home+strings.ReplaceAll(screen.String(), "\n", clearLine)+clearBelow); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *topCmd) once(ctx context.Context, admin *client.Admin, w io.Writer) error {
	o, err := c.look(ctx, admin, c.Timeout)
	if err != nil {
		return err
	}
	if c.JSON {
		err = json.NewEncoder(w).Encode(o)
	} else {
		err = showOverview(w, &o)
	}
	if err == nil && o.Status == "unavailable" {
		err = exitCode(1)
	}
	return err
}

func (c *topCmd) look(ctx context.Context, admin *client.Admin, limit time.Duration) (client.Overview, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return admin.Health(ctx)
}

// showOverview prints a table of the nodes, and below it what is wrong.
func showOverview(out io.Writer, o *client.Overview) error {
	name := "one server"
	if o.Cluster != "" {
		name = fmt.Sprintf("cluster %s  %d nodes", terminal(o.Cluster), len(o.Nodes))
	}
	fmt.Fprintf(out, "%s  %s  %d shards  %s\n\n", name, terminal(o.Status), o.Shards, clock(o.At))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "NODE\tSTATUS\tSHARDS\tFREE\tACCEPTED\tDELIVERED\tREFUSED\tDURABLE\tROUTED\tSTORED\tDEVICES\tQUEUE\tLAG\tUNSTORED\tBREAKER\tCPU\tMEMORY\t")
	var all client.NodeFigures
	for _, n := range o.Nodes {
		status := n.Status
		if n.Draining {
			status = "draining"
		}
		f := &n.Figures
		fmt.Fprintf(w, "%s\t%s\t%d\t%.0f%%\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%d\t%s\t%.2f\t%s\t\n", nodeTitle(&n), terminal(status), len(n.Shards), 100*n.Free,
			perSecond(f.Accepted), perSecond(f.Delivered), perSecond(f.Refused), meanTime(f.AcceptSeconds), meanTime(f.RouteSeconds), meanTime(f.CommitSeconds),
			f.Devices, f.DispatchQueue, meanTime(f.LagSeconds), f.Unstored, terminal(f.StoreBreaker), f.CPU, mebibytes(f.MemoryBytes))
		all.Accepted += f.Accepted
		all.Delivered += f.Delivered
		all.Refused += f.Refused
		all.Devices += f.Devices
		all.DispatchQueue += f.DispatchQueue
		all.LagSeconds = max(all.LagSeconds, f.LagSeconds)
		all.Unstored += f.Unstored
		all.CPU += f.CPU
		all.MemoryBytes += f.MemoryBytes
	}
	if len(o.Nodes) > 1 {
		fmt.Fprintf(w, "all\t\t%d\t\t%s\t%s\t%s\t\t\t\t%d\t%d\t%s\t%d\t\t%.2f\t%s\t\n", o.Shards-len(o.Unowned),
			perSecond(all.Accepted), perSecond(all.Delivered), perSecond(all.Refused), all.Devices, all.DispatchQueue, meanTime(all.LagSeconds), all.Unstored, all.CPU, mebibytes(all.MemoryBytes))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range o.Problems {
		where := p.Check
		if p.Node != "" {
			where = p.Node + ", " + p.Check
		}
		fmt.Fprintf(out, "\n%s: %s: %s\n    %s\n", terminal(p.Status), terminal(where), terminal(p.Detail), terminal(p.Advice))
	}
	return nil
}

// nodeTitle is a node's name, or its address if it has none.
func nodeTitle(n *client.Node) string {
	if n.Name == "" {
		return terminal(strings.TrimPrefix(n.Address, "http://"))
	}
	return terminal(n.Name)
}

func perSecond(v float64) string {
	if v > 0 && v < 10 {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

func meanTime(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return (time.Duration(seconds*1e6) * time.Microsecond).Round(10 * time.Microsecond).String()
}

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }
