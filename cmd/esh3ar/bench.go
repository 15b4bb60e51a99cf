package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/loadgen"
)

// benchCmd puts load on a server and checks its promises.
type benchCmd struct {
	Load        benchLoadCmd    `cmd:"" default:"withargs" help:"Send and receive, and account for every message (the default)."`
	AcceptRatio benchRatioCmd   `cmd:"" name:"accept-ratio" help:"Compare durable accepting with a bare HTTP handler, using wrk."`
	Balance     benchBalanceCmd `cmd:"" help:"Compare the balancer with HAProxy, using wrk."`
	Growth      benchGrowthCmd  `cmd:"" help:"Fit the model of growth to what scripts/growth has measured."`
	Bare        benchBareCmd    `cmd:"" hidden:"" help:"Serve the bare handler."`
	Worker      benchWorkerCmd  `cmd:"" hidden:"" help:"Be a worker process of bench."`
}

// benchLoadCmd is the load from business clients and mobile users.
type benchLoadCmd struct {
	remote
	Nodes      []string      `name:"node" placeholder:"URL" help:"Base URLs of further nodes of the same cluster. Clients and devices are spread over all."`
	JWTSecret  string        `name:"jwt-secret" env:"ESH3AR_JWT_SECRET" placeholder:"SECRET" help:"Sign device tokens with this secret. Without it the server mints them."`
	Clients    uint32        `default:"100" help:"Business clients, each with a connection of its own."`
	Recipients uint32        `default:"100" help:"Recipients."`
	Devices    int           `default:"1" help:"Connected devices of each recipient."`
	Client     string        `name:"device-client" enum:"go,minimal" default:"go" help:"What devices connect with: the Go SignalR client, or a reader that costs least and shares no code with the server (${enum})."`
	Offline    float64       `default:"0" placeholder:"SHARE" help:"The share of recipients, from 0 to 1, that connect only when everything is sent."`
	Rate       float64       `default:"0" help:"Messages a second of all clients together, on a schedule that does not wait for answers. 0 means as many as are answered."`
	Idle       time.Duration `default:"0s" help:"How long all are connected before anything is sent. Then the servers' memory is measured."`
	MaxMemory  float64       `name:"max-device-memory" default:"0" placeholder:"KIB" help:"Fail if the servers take more memory than this for each connected device, in KiB. Needs --idle. 0 means no limit."`
	Duration   time.Duration `default:"10s" help:"How long to measure."`
	Warmup     time.Duration `default:"2s" help:"How long to send before that."`
	Settle     time.Duration `default:"10s" help:"How long nothing may arrive before what is missing counts as lost."`
	Size       int           `default:"100" help:"Bytes of a message's text."`
	Batch      int           `default:"1" help:"Messages in a request."`
	Keys       bool          `name:"idempotency" help:"Send an Idempotency-Key with every message."`
	Retry      bool          `help:"Repeat what is not accepted until it is."`
	Ledgers    string        `placeholder:"DIR" help:"Keep the ledgers of what was sent and received here."`
	JSON       bool          `name:"json" help:"Print one JSON object."`
	Quiet      bool          `short:"q" help:"Show no progress."`
}

// Run makes the run and prints its report. What was lost or out of order makes it fail.
func (c *benchLoadCmd) Run(ctx context.Context, std stdio) error {
	if c.Key == "" {
		return errors.New("give the API key with --key or ESH3AR_API_KEY")
	}
	if c.MaxMemory > 0 && c.Idle <= 0 {
		return errors.New("--max-device-memory needs --idle: memory is measured while all are connected and idle")
	}
	var progress func(loadgen.Progress)
	if f, ok := std.err.(*os.File); ok && !c.Quiet && isTerminal(f) {
		d := &display{out: f}
		progress = d.show
		defer d.end()
	}
	report, err := loadgen.Run(ctx, loadgen.Options{
		Target: loadgen.Target{URL: c.URL, APIKey: c.Key, JWTSecret: c.JWTSecret}, Nodes: c.Nodes,
		Work: loadgen.Workload{
			Clients: c.Clients, Recipients: c.Recipients, Size: c.Size, Batch: c.Batch, Keys: c.Keys, Rate: c.Rate, Retry: c.Retry,
		},
		Devices: c.Devices, Client: loadgen.DeviceClient(c.Client), Offline: c.Offline, Idle: c.Idle, Warmup: c.Warmup, Duration: c.Duration, Settle: c.Settle,
		Worker: benchWorker, Progress: progress, Ledgers: c.Ledgers,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		err = json.NewEncoder(std.out).Encode(report)
	} else {
		err = printReport(std.out, report)
	}
	switch {
	case err != nil:
		return err
	case report.Verdict.Accepted == 0:
		return errors.New("nothing was accepted")
	case !report.Verdict.OK():
		return exitCode(1)
	case c.MaxMemory > 0 && report.Server.DeviceKiB() <= 0:
		return errors.New("the servers did not tell how much memory they use")
	case c.MaxMemory > 0 && report.Server.DeviceKiB() > c.MaxMemory:
		return fmt.Errorf("the servers take %.1f KiB for each device, more than %.1f", report.Server.DeviceKiB(), c.MaxMemory)
	}
	return nil
}

// benchWorker is the command of a worker process: this program again.
func benchWorker(ctx context.Context) *exec.Cmd { return self(ctx, "bench", "worker") }

// self is the command of this program with other arguments.
func self(ctx context.Context, args ...string) *exec.Cmd {
	path, err := os.Executable()
	if err != nil {
		path = os.Args[0] // starting it reports what is wrong with that
	}
	return exec.CommandContext(ctx, path, args...)
}

// benchWorkerCmd is a worker process.
type benchWorkerCmd struct{}

// Run serves the parent process.
func (benchWorkerCmd) Run(ctx context.Context, std stdio) error {
	// The interrupt of a terminal goes to all its processes; the parent decides what it means.
	return loadgen.ServeWorker(context.WithoutCancel(ctx), std.in, std.out)
}

// benchBareCmd serves the handler that accepting is measured against.
type benchBareCmd struct {
	Listen string `default:"127.0.0.1:0" help:"The address to listen on."`
}

// Run serves until it is interrupted. It prints the address.
func (c *benchBareCmd) Run(ctx context.Context, std stdio) error {
	if _, err := loadgen.RaiseFileLimit(); err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(std.out, "http://%s\n", ln.Addr()); err != nil {
		return err
	}
	srv := &http.Server{Handler: loadgen.Bare(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve tells what there is to tell
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// display shows a run's progress in one line of a terminal.
type display struct {
	out  io.Writer
	last time.Time
	prev loadgen.Progress
	at   time.Time // of prev
}

// displayInterval is how often the line changes.
const displayInterval = 500 * time.Millisecond

func (d *display) show(p loadgen.Progress) {
	now := time.Now()
	if now.Sub(d.last) < displayInterval && p.Phase == d.prev.Phase {
		return
	}
	rate := func(n, before int64) float64 { return float64(n-before) / max(now.Sub(d.at).Seconds(), 0.001) }
	var b strings.Builder
	fmt.Fprintf(&b, "\r\x1b[K%s %.0f s", p.Phase, p.Elapsed.Seconds())
	if p.Total > 0 {
		fmt.Fprintf(&b, " of %.0f s", p.Total.Seconds())
	}
	switch p.Phase {
	case "connecting", "idling":
		fmt.Fprintf(&b, ": %d clients, %d devices", p.Clients.Connected, p.Devices.Connected)
	default:
		fmt.Fprintf(&b, ": accepted %d (%.0f/s), received %d (%.0f/s), on the way %d",
			p.Clients.Accepted, rate(p.Clients.Accepted, d.prev.Clients.Accepted),
			p.Devices.Received, rate(p.Devices.Received, d.prev.Devices.Received),
			max(p.Clients.Accepted-p.Devices.Received, 0)) // the counts come from several processes
	}
	var errs int64
	for _, n := range p.Clients.Errors {
		errs += n
	}
	for _, n := range p.Devices.Errors {
		errs += n
	}
	if errs > 0 {
		fmt.Fprintf(&b, ", errors %d", errs)
	}
	fmt.Fprint(d.out, b.String())
	d.last, d.prev, d.at = now, p, now
}

// end leaves the line.
func (d *display) end() { fmt.Fprint(d.out, "\r\x1b[K") }

// printReport shows a report to people.
func printReport(out io.Writer, r *loadgen.Report) error {
	var b strings.Builder
	how := "closed loop"
	if r.Work.Rate > 0 {
		how = fmt.Sprintf("open loop at %.0f messages/s", r.Work.Rate)
	}
	fmt.Fprintf(&b, "%d clients, %d recipients, %d devices, %s, %.1f s\n", r.Work.Clients, r.Work.Recipients, r.Devices, how, r.Seconds)
	row := func(name string, value any) { fmt.Fprintf(&b, "%-20s%v\n", name, value) }
	row("accepted", fmt.Sprintf("%.0f messages/s", r.Rate))
	row("accept latency", r.Accept)
	row("accept to receive", r.Receive)
	row("send to receive", r.Total)
	if r.Work.Rate > 0 {
		row("generator's lag", r.Lag)
	}
	if r.Clients.Unsent > 0 {
		row("not sent in time", r.Clients.Unsent)
	}
	for _, s := range r.Stages {
		row("server", fmt.Sprintf("%s  p50 ≤ %v  p99 ≤ %v  (%d)", s.Name, s.P50, s.P99, s.Count))
	}
	for _, errs := range []struct {
		who string
		n   map[string]int64
	}{{"client errors", r.Clients.Errors}, {"device errors", r.Phones.Errors}} {
		for _, what := range slices.Sorted(maps.Keys(errs.n)) {
			row(errs.who, fmt.Sprintf("%d × %s", errs.n[what], what))
		}
	}
	if r.Phones.Reconnects > 0 {
		row("reconnects", r.Phones.Reconnects)
	}
	row("generator", fmt.Sprintf("%.0f µs of CPU a message to send, %.0f µs to receive (%s client, %d KiB a device)",
		r.Cost.Send, r.Cost.Receive, r.Client, r.Cost.Device>>10))
	if r.Server.CPU > 0 {
		row("server's CPU", fmt.Sprintf("%.0f µs a message", r.Server.CPU))
	}
	if m := r.Server; m.Unused > 0 && m.Connected > 0 {
		row("server's memory", fmt.Sprintf("%d MiB before, %d MiB with all connected: %.1f KiB a device",
			m.Unused>>20, m.Connected>>20, m.DeviceKiB()))
	}
	if r.Server.IdleCPU > 0 {
		row("server's idle CPU", fmt.Sprintf("%.1f %% of a processor with all connected", 100*r.Server.IdleCPU))
	}
	row("settled in", fmt.Sprintf("%.1f s", r.Settled))
	verdict := "kept every promise"
	if !r.Verdict.OK() {
		verdict = "BROKE A PROMISE"
	}
	row("verdict", verdict+": "+r.Verdict.String())
	for _, n := range r.Verdict.Notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
