package loadgen

import (
	"bufio"
	"bytes"
	"context"
	_ "embed" // for the script
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed accept.lua
var acceptScript []byte

// RatioOptions says how AcceptRatio compares.
type RatioOptions struct {
	// Connections are the numbers of connections to compare at, one after the other.
	Connections []int
	// Duration is that of one round, Rounds how often both sides take their turn. The sides alternate,
	// so that a machine whose speed drifts treats them alike.
	Duration time.Duration
	Rounds   int
	// Size is the length of a message's text, Recipients to how many they go.
	Size       int
	Recipients int
	// Serve returns the command of a server that keeps its data in that directory, knows that API key
	// and writes its address to that file. Bare returns that of one which serves Bare and prints its
	// URL first.
	Serve func(ctx context.Context, data, key, addrFile string) *exec.Cmd
	Bare  func(ctx context.Context) *exec.Cmd
	// Data is where to make the server's data directory; "" means the system's temporary directory.
	Data string
	// Progress is told what is being done. May be nil.
	Progress func(string)
}

// RatioRound is what one round of wrk found.
type RatioRound struct {
	PerSecond float64      `json:"per_second"`
	P50       Milliseconds `json:"p50"`
	P99       Milliseconds `json:"p99"`
	// Failed counts answers that are no success, and broken connections.
	Failed int64 `json:"failed"`
}

// Burst is what the store did with one round of accepting.
type Burst struct {
	Accepted float64 `json:"accepted"`
	// Beside is how many messages a second the store kept up with while accepting went on.
	Beside float64 `json:"stored_per_second_beside"`
	// Drain is how long it took after the burst to store the rest, in seconds.
	Drain float64 `json:"drain_seconds"`
	// Sustained is the rate at which messages can arrive for ever: accepted over burst and drain.
	Sustained float64 `json:"sustained_per_second"`
}

// Ratio is the comparison at one number of connections.
type Ratio struct {
	Connections int          `json:"connections"`
	Bare        []RatioRound `json:"bare"`
	Durable     []RatioRound `json:"durable"`
	// Ratio is the median over the rounds of durable over bare.
	Ratio  float64 `json:"ratio"`
	Bursts []Burst `json:"bursts"`
}

// drainPatience is how long the store may take to store what one round accepted.
const drainPatience = 5 * time.Minute

// AcceptRatio measures with wrk how many messages a second a server accepts durably, against how many
// a bare HTTP handler answers that only decodes them. It starts both.
func AcceptRatio(ctx context.Context, o RatioOptions) ([]Ratio, error) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return nil, fmt.Errorf("this comparison needs wrk (apt-get install wrk): %w", err)
	}
	if o.Rounds < 1 || o.Duration < time.Second || o.Recipients < 1 || o.Size < 1 || len(o.Connections) == 0 {
		return nil, errors.New("the comparison needs connections, a round of a second or more, a recipient and a text")
	}
	files, err := RaiseFileLimit() // wrk inherits it
	if err != nil {
		return nil, err
	}
	if most := slices.Max(o.Connections); most > files-spareFiles {
		return nil, fmt.Errorf("%d connections need a higher limit of open files than the %d of this process; see ulimit -n", most, files)
	}
	dir, err := os.MkdirTemp(o.Data, "esh3ar-accept-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := comparison{RatioOptions: o, wrk: wrk, dir: dir, script: filepath.Join(dir, "accept.lua")}
	if err := os.WriteFile(c.script, acceptScript, 0o644); err != nil {
		return nil, err
	}
	bare, err := c.startBare(ctx)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	server, err := c.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	var all []Ratio
	for _, n := range o.Connections {
		r, err := c.compare(ctx, n, bare.url, server.url)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

type comparison struct {
	RatioOptions
	wrk, dir, script string
}

// benchKey is the API key of servers that AcceptRatio starts.
const benchKey = "esh_accept-ratio-benchmark-key"

func (c *comparison) say(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

// started is a process that serves.
type started struct {
	url  string
	stop func()
}

// start runs cmd, whose standard error is kept for when it fails.
func start(cmd *exec.Cmd) (stop func(), said func() string, err error) {
	stderr := &tail{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return func() {
		// A failure to signal means that it has ended already.
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}, stderr.String, nil
}

func (c *comparison) startBare(ctx context.Context) (started, error) {
	cmd := c.Bare(ctx)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return started{}, err
	}
	stop, said, err := start(cmd)
	if err != nil {
		return started{}, fmt.Errorf("starting the bare handler: %w", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return started{}, fmt.Errorf("the bare handler does not start: %w %s", err, said())
	}
	return started{strings.TrimSpace(line), stop}, nil
}

func (c *comparison) startServer(ctx context.Context) (started, error) {
	addrFile := filepath.Join(c.dir, "addr")
	stop, said, err := start(c.Serve(ctx, filepath.Join(c.dir, "data"), benchKey, addrFile))
	if err != nil {
		return started{}, fmt.Errorf("starting the server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if addr, err := os.ReadFile(addrFile); err == nil {
			s := started{"http://" + strings.TrimSpace(string(addr)), stop}
			if isReady(ctx, s.url) {
				return s, nil
			}
		}
		if !pause(ctx, 50*time.Millisecond) {
			stop()
			return started{}, fmt.Errorf("the server does not become ready: %s", said())
		}
	}
}

func isReady(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// compare takes turns at one number of connections.
func (c *comparison) compare(ctx context.Context, n int, bare, server string) (Ratio, error) {
	r := Ratio{Connections: n}
	for i := range c.Rounds {
		c.say("%d connections, round %d of %d: bare handler", n, i+1, c.Rounds)
		round, err := c.round(ctx, n, bare)
		if err != nil {
			return r, err
		}
		r.Bare = append(r.Bare, round)
		c.say("%d connections, round %d of %d: durable accept", n, i+1, c.Rounds)
		round, burst, err := c.burst(ctx, n, server)
		if err != nil {
			return r, err
		}
		r.Durable, r.Bursts = append(r.Durable, round), append(r.Bursts, burst)
	}
	// Each durable round is held against the bare one right before it.
	ratios := make([]float64, len(r.Bare))
	for i := range ratios {
		ratios[i] = r.Durable[i].PerSecond / r.Bare[i].PerSecond
	}
	r.Ratio = median(ratios)
	return r, nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// round runs wrk once.
func (c *comparison) round(ctx context.Context, n int, url string) (RatioRound, error) {
	cmd := exec.CommandContext(ctx, c.wrk, "-t1", "-c"+strconv.Itoa(n),
		"-d"+strconv.Itoa(int(math.Ceil(c.Duration.Seconds())))+"s", "--latency", "--timeout", "30s", "-s", c.script, url)
	cmd.Env = append(os.Environ(), "RECIPIENTS="+strconv.Itoa(c.Recipients), "API_KEY="+benchKey, "TEXT="+strings.Repeat("x", c.Size))
	out, err := cmd.CombinedOutput()
	_, line, ok := bytes.Cut(out, []byte("\nRESULT "))
	if err != nil || !ok {
		return RatioRound{}, fmt.Errorf("wrk: %w: %s", errors.Join(err, ctx.Err()), bytes.TrimSpace(out))
	}
	var res struct {
		Requests, Microseconds, Connect, Read, Write, Status, Timeout int64
		P50, P99                                                      int64
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &res); err != nil {
		return RatioRound{}, fmt.Errorf("wrk's result: %w", err)
	}
	good := res.Requests - res.Status
	return RatioRound{
		PerSecond: float64(good) / (float64(res.Microseconds) / 1e6),
		P50:       Milliseconds(time.Duration(res.P50) * time.Microsecond), P99: Milliseconds(time.Duration(res.P99) * time.Microsecond),
		Failed: res.Connect + res.Read + res.Write + res.Status + res.Timeout,
	}, nil
}

// burst runs wrk once on the server and waits until what it accepted is stored.
func (c *comparison) burst(ctx context.Context, n int, url string) (RatioRound, Burst, error) {
	target := Target{URL: url}
	accepted0, stored0, err := progressOf(ctx, target)
	if err != nil {
		return RatioRound{}, Burst{}, err
	}
	start := time.Now()
	round, err := c.round(ctx, n, url)
	if err != nil {
		return round, Burst{}, err
	}
	end := time.Now()
	c.say("%d connections: waiting for the store", n)
	var b Burst
	for first := true; ; first = false {
		accepted, stored, err := progressOf(ctx, target)
		if err != nil {
			return round, b, err
		}
		now := time.Now()
		if first {
			b.Beside = (stored - stored0) / end.Sub(start).Seconds()
		}
		b.Accepted, b.Drain = accepted-accepted0, now.Sub(end).Seconds()
		if stored-stored0 >= b.Accepted {
			b.Sustained = b.Accepted / now.Sub(start).Seconds()
			return round, b, nil
		}
		if now.Sub(end) > drainPatience {
			return round, b, fmt.Errorf("%.0f of %.0f messages are not stored %v after they were accepted",
				b.Accepted-(stored-stored0), b.Accepted, drainPatience)
		}
		if !pause(ctx, 50*time.Millisecond) {
			return round, b, ctx.Err()
		}
	}
}

// progressOf returns how many messages the server has accepted and how many of them it has stored.
func progressOf(ctx context.Context, t Target) (accepted, stored float64, err error) {
	s, err := scrapeOne(ctx, t)
	if err != nil {
		return 0, 0, err
	}
	// Read in this order so that a message accepted in between cannot count as stored alone.
	stored = s[`esh3ar_message_transitions_total{status="accepted"}`]
	accepted, ok := s.sum("esh3ar_messages_accepted_total")
	if !ok {
		return 0, 0, errors.New("the server's metrics do not tell how many messages it accepted")
	}
	return accepted, stored, nil
}
