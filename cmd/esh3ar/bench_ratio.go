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

// benchRatioCmd compares durable accepting with a bare HTTP handler.
type benchRatioCmd struct {
	Connections []int         `default:"1000,10000" help:"Numbers of connections to compare at."`
	Duration    time.Duration `default:"10s" help:"How long a round is."`
	Rounds      int           `default:"3" help:"How often both sides take their turn."`
	Size        int           `default:"95" help:"Bytes of a message's text. The default makes bodies of 130 bytes."`
	Recipients  int           `default:"1000" help:"To how many recipients the messages go in turn."`
	Data        string        `placeholder:"DIR" help:"Where to make the server's data directory: the disk to measure."`
	JSON        bool          `name:"json" help:"Print JSON."`
}

// Run measures and prints.
func (c *benchRatioCmd) Run(ctx context.Context, std stdio) error {
	progress, end := std.progress()
	ratios, err := loadgen.AcceptRatio(ctx, loadgen.RatioOptions{
		Connections: c.Connections, Duration: c.Duration, Rounds: c.Rounds, Size: c.Size, Recipients: c.Recipients, Data: c.Data,
		Serve: func(ctx context.Context, data, key, addrFile string) *exec.Cmd {
			return self(ctx, "serve", "--listen", "127.0.0.1:0", "--addr-file", addrFile, "--data", data, "--bootstrap-key", key)
		},
		Bare:     func(ctx context.Context) *exec.Cmd { return self(ctx, "bench", "bare") },
		Progress: progress,
	})
	end()
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(std.out).Encode(ratios)
	}
	return printRatios(std.out, ratios)
}

func printRatios(out io.Writer, ratios []loadgen.Ratio) error {
	var b strings.Builder
	for _, r := range ratios {
		fmt.Fprintf(&b, "%d connections: durable accepts reach %.0f %% of the bare handler\n", r.Connections, 100*r.Ratio)
		for i := range r.Durable {
			bare, durable, burst := r.Bare[i], r.Durable[i], r.Bursts[i]
			fmt.Fprintf(&b, "  bare    %7.0f/s  p50 %v  p99 %v%s\n", bare.PerSecond, bare.P50, bare.P99, failures(bare))
			fmt.Fprintf(&b, "  durable %7.0f/s  p50 %v  p99 %v%s\n", durable.PerSecond, durable.P50, durable.P99, failures(durable))
			fmt.Fprintf(&b, "    store: %.0f messages; %.0f/s beside the burst, drained %.1f s after it, sustained %.0f/s\n",
				burst.Accepted, burst.Beside, burst.Drain, burst.Sustained)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func failures(r loadgen.RatioRound) string {
	if r.Failed == 0 {
		return ""
	}
	return fmt.Sprintf("  FAILED %d", r.Failed)
}
