package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/loadgen"
)

// benchBalanceCmd compares the balancer with HAProxy.
type benchBalanceCmd struct {
	Connections []int         `default:"100,1000" help:"Numbers of connections to compare at."`
	Duration    time.Duration `default:"5s" help:"How long a round is."`
	Rounds      int           `default:"3" help:"How often all sides take their turn."`
	Rate        int           `default:"2000" help:"Requests a second at which latencies are compared."`
	MinRatio    float64       `default:"0" placeholder:"SHARE" help:"Fail if the balancer reaches less than this share of HAProxy's throughput at any number of connections."`
	MaxAdded    time.Duration `default:"0s" help:"Fail if the balancer adds more than this to the median latency. 0 means no limit."`
	JSON        bool          `name:"json" help:"Print JSON."`
}

// Run measures and prints. It fails if the balancer is slower than asked for.
func (c *benchBalanceCmd) Run(ctx context.Context, std stdio) error {
	progress, end := std.progress()
	result, err := loadgen.BalanceRatio(ctx, loadgen.BalanceOptions{
		Connections: c.Connections, Duration: c.Duration, Rounds: c.Rounds, Rate: c.Rate,
		Bare: func(ctx context.Context) *exec.Cmd { return self(ctx, "bench", "bare") },
		Balance: func(ctx context.Context, node, addrFile string) *exec.Cmd {
			return self(ctx, "balance", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--addr-file", addrFile, "--node", node)
		},
		Progress: progress,
	})
	end()
	if err != nil {
		return err
	}
	if c.JSON {
		err = json.NewEncoder(std.out).Encode(result)
	} else {
		err = printBalance(std.out, result)
	}
	if err != nil {
		return err
	}
	return c.judge(result)
}

// judge returns an error for the first limit that result does not keep.
func (c *benchBalanceCmd) judge(result loadgen.BalanceResult) error {
	for _, r := range result.Ratios {
		if r.OfHAProxy < c.MinRatio {
			return fmt.Errorf("at %d connections the balancer reaches %.0f %% of HAProxy, less than %.0f %%", r.Connections, 100*r.OfHAProxy, 100*c.MinRatio)
		}
	}
	if added := result.Latency.Added; c.MaxAdded > 0 && time.Duration(added) > c.MaxAdded {
		return fmt.Errorf("at %d requests/s the balancer adds %v to the median, more than %v", result.Latency.Rate, added, c.MaxAdded)
	}
	return nil
}

func printBalance(out io.Writer, result loadgen.BalanceResult) error {
	var b strings.Builder
	for _, r := range result.Ratios {
		fmt.Fprintf(&b, "%d connections: esh3ar balance reaches %.0f %% of HAProxy, %.0f %% of the bare handler\n", r.Connections, 100*r.OfHAProxy, 100*r.OfBare)
		for i := range r.Ours {
			for _, side := range []struct {
				name  string
				round loadgen.BalanceRound
			}{{"bare", r.Bare[i]}, {"HAProxy", r.HAProxy[i]}, {"ours", r.Ours[i]}} {
				fmt.Fprintf(&b, "  %-8s%7.0f/s  p50 %v  p99 %v", side.name, side.round.PerSecond, side.round.P50, side.round.P99)
				if side.round.CPU > 0 {
					fmt.Fprintf(&b, "  %.1f µs of processor time a request", side.round.CPU)
				}
				fmt.Fprintln(&b, failures(side.round.RatioRound))
			}
		}
	}
	l := result.Latency
	fmt.Fprintf(&b, "%d requests/s: p50 %v bare, %v through HAProxy, %v through esh3ar balance, which adds %v\n", l.Rate, l.Bare, l.HAProxy, l.Ours, l.Added)
	_, err := io.WriteString(out, b.String())
	return err
}
