package loadgen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// BalanceOptions says how BalanceRatio compares.
type BalanceOptions struct {
	// Connections are the numbers of connections to compare at, one after the other.
	Connections []int
	// Duration is that of one round, Rounds how often all sides take their turn.
	Duration time.Duration
	Rounds   int
	// Rate is the number of requests a second at which latencies are compared.
	Rate int
	// Bare returns the command of a server that serves Bare and prints its URL first. Balance returns that of a
	// balancer in front of a node, which writes its address to that file first.
	Bare    func(ctx context.Context) *exec.Cmd
	Balance func(ctx context.Context, node, addrFile string) *exec.Cmd
	// Progress is told what is being done. May be nil.
	Progress func(string)
}

// BalanceRound is what one round found.
type BalanceRound struct {
	RatioRound
	// CPU is the processor time that the proxy took for a request, in microseconds; 0 where it cannot be
	// known.
	CPU float64 `json:"cpu_microseconds"`
}

// BalanceComparison is the comparison at one number of connections.
type BalanceComparison struct {
	Connections int            `json:"connections"`
	Bare        []BalanceRound `json:"bare"`
	HAProxy     []BalanceRound `json:"haproxy"`
	Ours        []BalanceRound `json:"ours"`
	// OfHAProxy and OfBare are the medians over the rounds of ours over the others.
	OfHAProxy float64 `json:"of_haproxy"`
	OfBare    float64 `json:"of_bare"`
}

// BalanceLatency is the comparison at a set rate, by medians over the rounds of the rounds' medians.
type BalanceLatency struct {
	Rate    int          `json:"rate"`
	Bare    Milliseconds `json:"bare_p50"`
	HAProxy Milliseconds `json:"haproxy_p50"`
	Ours    Milliseconds `json:"ours_p50"`
	// Added is what ours adds to a bare request, by the median of neighbours.
	Added Milliseconds `json:"added_p50"`
}

// BalanceResult is what BalanceRatio found.
type BalanceResult struct {
	Ratios  []BalanceComparison `json:"ratios"`
	Latency BalanceLatency      `json:"latency"`
}

// latencyConnections carry the requests at a set rate.
const latencyConnections = 32

// BalanceRatio measures with wrk how many requests a second pass through a balancer, beside HAProxy with
// kept connections and beside the bare handler that is behind both, and what the balancer adds to the latency at a
// set rate. It starts all three. The sides alternate, so that a machine whose speed drifts treats them alike.
func BalanceRatio(ctx context.Context, o BalanceOptions) (BalanceResult, error) {
	var result BalanceResult
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return result, fmt.Errorf("this comparison needs wrk (apt-get install wrk): %w", err)
	}
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		return result, fmt.Errorf("this comparison needs HAProxy (apt-get install haproxy): %w", err)
	}
	if o.Rounds < 1 || o.Duration < time.Second || o.Rate < 1 || len(o.Connections) == 0 {
		return result, errors.New("the comparison needs connections, a rate, and a round of a second or more")
	}
	files, err := RaiseFileLimit()
	if err != nil {
		return result, err
	}
	if most := slices.Max(o.Connections); 4*most > files-spareFiles {
		return result, fmt.Errorf("%d connections need a higher limit of open files than the %d of this process; see ulimit -n", most, files)
	}
	dir, err := os.MkdirTemp("", "esh3ar-balance-")
	if err != nil {
		return result, err
	}
	defer os.RemoveAll(dir)
	c := comparison{
		RatioOptions: RatioOptions{Duration: o.Duration, Rounds: o.Rounds, Size: 95, Recipients: 1000, Bare: o.Bare, Progress: o.Progress},
		wrk:          wrk, dir: dir, script: filepath.Join(dir, "accept.lua"),
	}
	if err := os.WriteFile(c.script, acceptScript, 0o644); err != nil {
		return result, err
	}
	bare, err := c.startBare(ctx)
	if err != nil {
		return result, err
	}
	defer bare.stop()
	theirs, err := startHAProxy(ctx, haproxy, dir, bare.url, files/2-spareFiles)
	if err != nil {
		return result, err
	}
	defer theirs.stop()
	ours, err := startBalancer(ctx, o.Balance, dir, bare.url)
	if err != nil {
		return result, err
	}
	defer ours.stop()
	sides := []side{{"bare handler", bare.url, 0}, {"HAProxy", theirs.url, theirs.pid}, {"esh3ar balance", ours.url, ours.pid}}
	for _, n := range o.Connections {
		r, err := c.balance(ctx, n, sides)
		if err != nil {
			return result, err
		}
		result.Ratios = append(result.Ratios, r)
	}
	result.Latency, err = c.latency(ctx, o.Rate, sides)
	return result, err
}

// side is one of those that are compared; pid is 0 where its processor time is of no interest.
type side struct {
	name, url string
	pid       int
}

// balance lets the sides take turns at one number of connections.
func (c *comparison) balance(ctx context.Context, n int, sides []side) (BalanceComparison, error) {
	r := BalanceComparison{Connections: n}
	into := []*[]BalanceRound{&r.Bare, &r.HAProxy, &r.Ours}
	for i := range c.Rounds {
		for j, s := range sides {
			c.say("%d connections, round %d of %d: %s", n, i+1, c.Rounds, s.name)
			before, _ := processorTime(s.pid)
			round, err := c.round(ctx, n, s.url)
			if err != nil {
				return r, err
			}
			out := BalanceRound{RatioRound: round}
			if after, ok := processorTime(s.pid); ok && round.PerSecond > 0 {
				out.CPU = float64((after - before).Microseconds()) / (round.PerSecond * c.Duration.Seconds())
			}
			*into[j] = append(*into[j], out)
		}
	}
	ofHAProxy, ofBare := make([]float64, c.Rounds), make([]float64, c.Rounds)
	for i := range c.Rounds {
		ofHAProxy[i] = r.Ours[i].PerSecond / r.HAProxy[i].PerSecond
		ofBare[i] = r.Ours[i].PerSecond / r.Bare[i].PerSecond
	}
	r.OfHAProxy, r.OfBare = median(ofHAProxy), median(ofBare)
	return r, nil
}

// latency lets the sides take turns at a set rate.
func (c *comparison) latency(ctx context.Context, rate int, sides []side) (BalanceLatency, error) {
	p50 := make([][]float64, len(sides))
	for i := range c.Rounds {
		for j, s := range sides {
			c.say("%d requests a second, round %d of %d: %s", rate, i+1, c.Rounds, s.name)
			v, err := pacedMedian(ctx, s.url, rate, c.Duration)
			if err != nil {
				return BalanceLatency{}, fmt.Errorf("%s: %w", s.name, err)
			}
			p50[j] = append(p50[j], v.Seconds())
		}
	}
	added := make([]float64, c.Rounds)
	for i := range added {
		added[i] = p50[2][i] - p50[0][i]
	}
	ms := func(v []float64) Milliseconds { return Milliseconds(time.Duration(median(v) * float64(time.Second))) }
	return BalanceLatency{Rate: rate, Bare: ms(p50[0]), HAProxy: ms(p50[1]), Ours: ms(p50[2]), Added: ms(added)}, nil
}

// pacedMedian sends requests on a schedule and returns their median latency.
func pacedMedian(ctx context.Context, url string, rate int, d time.Duration) (time.Duration, error) {
	target := Target{URL: url}
	e, err := target.endpoint()
	if err != nil {
		return 0, err
	}
	body := `{"to":"+962790000001","content":"` + strings.Repeat("x", 95) + `"}`
	request := []byte("POST /v1/messages HTTP/1.1\r\nHost: " + e.host + "\r\nAuthorization: Bearer " + benchKey +
		"\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	seen := newLatency()
	start := time.Now().Add(10 * time.Millisecond)
	step := time.Duration(latencyConnections) * time.Second / time.Duration(rate)
	var wg sync.WaitGroup
	errs := make(chan error, latencyConnections)
	for i := range latencyConnections {
		wg.Go(func() {
			conn, err := e.dial(ctx)
			if err != nil {
				errs <- err
				return
			}
			defer conn.Close()
			w := newWire(conn)
			for due := start.Add(step * time.Duration(i) / latencyConnections); due.Before(start.Add(d)); due = due.Add(step) {
				if !pause(ctx, time.Until(due)) {
					errs <- ctx.Err()
					return
				}
				began := time.Now()
				a, err := w.exchange(request)
				if err == nil && a.status != http.StatusAccepted {
					err = fmt.Errorf("answered with status %d", a.status)
				}
				if err != nil {
					errs <- err
					return
				}
				seen.record(uint32(i), time.Since(began))
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
	}
	return time.Duration(seen.histogram().ValueAtQuantile(50)) * time.Microsecond, nil
}

// proxy is a process that serves.
type proxy struct {
	url  string
	pid  int
	stop func()
}

// haproxyConfig has HAProxy keep connections on both sides, share those to the node among clients, and use
// every processor. The limit of connections is to be high: HAProxy derives from it how many files it may have, and from a
// quarter of those on it closes idle connections rather than to keep them.
const haproxyConfig = `global
  maxconn %[1]d
  nbthread %[4]d
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  option http-keep-alive
  http-reuse always
  option forwardfor
frontend clients
  bind %[2]s
  default_backend nodes
backend nodes
  server one %[3]s maxconn %[1]d pool-max-conn %[1]d
`

// startHAProxy has it take at most so many connections; it needs two files for each.
func startHAProxy(ctx context.Context, haproxy, dir, node string, most int) (proxy, error) {
	// HAProxy cannot say which port it took, so one is found for it.
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return proxy{}, err
	}
	addr := l.Addr().String()
	l.Close()
	config := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, most, addr, strings.TrimPrefix(node, "http://"), runtime.NumCPU()), 0o644); err != nil {
		return proxy{}, err
	}
	cmd := exec.CommandContext(ctx, haproxy, "-db", "-f", config)
	stop, said, err := start(cmd)
	if err != nil {
		return proxy{}, fmt.Errorf("starting HAProxy: %w", err)
	}
	p := proxy{"http://" + addr, cmd.Process.Pid, stop}
	if err := p.await(ctx); err != nil {
		stop()
		return proxy{}, fmt.Errorf("HAProxy does not start: %w %s", err, said())
	}
	return p, nil
}

func startBalancer(ctx context.Context, command func(context.Context, string, string) *exec.Cmd, dir, node string) (proxy, error) {
	addrFile := filepath.Join(dir, "balancer")
	cmd := command(ctx, node, addrFile)
	stop, said, err := start(cmd)
	if err != nil {
		return proxy{}, fmt.Errorf("starting the balancer: %w", err)
	}
	p := proxy{pid: cmd.Process.Pid, stop: stop}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for p.url == "" {
		if b, err := os.ReadFile(addrFile); err == nil {
			addr, _, _ := strings.Cut(string(b), "\n")
			p.url = "http://" + addr
		} else if !pause(wait, 20*time.Millisecond) {
			stop()
			return proxy{}, fmt.Errorf("the balancer does not start: %s", said())
		}
	}
	if err := p.await(ctx); err != nil {
		stop()
		return proxy{}, fmt.Errorf("the balancer does not answer: %w %s", err, said())
	}
	return p, nil
}

// await waits until the process passes a request on.
func (p proxy) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := pacedMedian(ctx, p.url, latencyConnections, 50*time.Millisecond)
		if err == nil {
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

// processorTime returns what a process has used of the processors, where the system has /proc.
func processorTime(pid int) (time.Duration, bool) {
	if pid == 0 {
		return 0, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The command's name, in parentheses, may hold blanks.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, false
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, err1 == nil && err2 == nil
}
