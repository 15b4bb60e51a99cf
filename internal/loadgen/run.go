package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/client"
)

// Options says what Run does.
type Options struct {
	Target Target
	// Nodes are the base URLs of further servers that are one system with Target. Clients and devices are spread
	// over all.
	Nodes []string
	// Work is the workload; Run fills in its Run.
	Work Workload
	// Devices is how many devices each recipient has; 0 means 1.
	Devices int
	// Client is what the devices connect with; "" means GoClient.
	Client DeviceClient
	// Offline is the share of recipients, from 0 to 1, that connect only when all is sent.
	Offline float64
	// Idle is how long all devices are connected before anything is sent. In the end of it the servers' memory is
	// measured.
	Idle time.Duration
	// Warmup comes before Duration and is not measured.
	Warmup, Duration time.Duration
	// Settle is how long the run waits at the end without anything new arriving before it takes
	// what has not arrived for lost.
	Settle time.Duration
	// Worker returns the command of a process that calls ServeWorker on its standard streams.
	Worker func(ctx context.Context) *exec.Cmd
	// Progress is told the counts now and then. May be nil.
	Progress func(Progress)
	// Ledgers is the directory to keep the ledgers in; "" means one that is removed at the end.
	Ledgers string
}

// Progress is how far a run is.
type Progress struct {
	// Phase is what the run does: connecting, idling, sending, settling or accounting.
	Phase   string
	Elapsed time.Duration // of the phase
	Total   time.Duration // of the phase, 0 where that is open
	Clients ClientStats
	Devices DeviceStats
}

func (o *Options) validate() error {
	switch {
	case o.Work.Clients == 0:
		return errors.New("a run needs at least one client")
	case o.Work.Recipients == 0:
		return errors.New("a run needs at least one recipient")
	case o.Work.Rate < 0:
		return errors.New("the rate is negative")
	case o.Offline < 0 || o.Offline > 1:
		return errors.New("the share of offline recipients lies between 0 and 1")
	case o.Duration <= 0 || o.Warmup < 0 || o.Idle < 0 || o.Settle <= 0:
		return errors.New("the duration and the settle time must be positive")
	case o.Devices < 0:
		return errors.New("the number of devices is negative")
	}
	return nil
}

// resolveLimit bounds how many missing messages Run asks the server about.
const resolveLimit = 1000

// Run puts load on the server from processes of its own and reports. An error means that the run could
// not be made; what it found out about the server is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o.Work.Run = rand.Uint32()
	dir := o.Ledgers
	if dir == "" {
		d, err := os.MkdirTemp("", "esh3ar-ledgers-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(d)
		dir = d
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unused := memoryOf(scrape(ctx, o.targets()))
	jobs, err := o.plan(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &run{Options: o, cancel: cancel, changed: make(chan struct{}, 1), phase: "connecting", began: time.Now()}
	// The workers end with their standard input at the latest, so waiting for them ends.
	defer r.wg.Wait()
	defer cancel()
	for i := range jobs {
		if err := r.spawn(ctx, &jobs[i]); err != nil {
			return nil, fmt.Errorf("starting a worker process: %w", err)
		}
	}
	report, err := r.drive(ctx, unused)
	if ctx.Err() != nil {
		return nil, ctx.Err() // and whatever broke over it
	}
	if err != nil {
		return nil, err
	}
	r.enter("accounting", 0)
	paths := make([]string, len(jobs))
	for i := range jobs {
		paths[i] = jobs[i].Ledger
	}
	records, err := ReadLedgers(paths...)
	if err != nil {
		return nil, err
	}
	report.Verdict = Account(records)
	if report.Verdict.Lost > 0 {
		status, done, err := StatusOf(o.Target)
		if err != nil {
			return nil, err
		}
		defer done()
		if err := report.Verdict.Resolve(ctx, resolveLimit, status); err != nil {
			report.Verdict.note("%v", err)
		}
	}
	return report, nil
}

// StatusOf returns a function for Verdict.Resolve that asks the server, and one that ends its
// connections.
func StatusOf(t Target) (status func(context.Context, esh3ar.ID) (esh3ar.Status, error), done func(), err error) {
	c, err := client.New(t.URL, t.APIKey)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, id esh3ar.ID) (esh3ar.Status, error) {
		d, err := c.Message(ctx, id.String())
		var p *client.Problem
		switch {
		case errors.As(err, &p) && p.Status == 404:
			return 0, esh3ar.Errorf(esh3ar.KindNotFound, p.Code, "%s", p.Detail)
		case err != nil:
			return 0, err
		}
		return esh3ar.ParseStatus(string(d.Status))
	}, c.Close, nil
}

// The connections of one process. Beside the limit of open files, the ports of one local address are
// some 28,000 on Linux, of which some versions give connections to one server only every other.
const (
	spareFiles     = 200
	maxConnections = 12_000
)

// plan spreads the work over processes.
func (o *Options) plan(dir string) ([]job, error) {
	files, err := RaiseFileLimit()
	if err != nil {
		return nil, fmt.Errorf("the limit of open files: %w", err)
	}
	per := uint32(max(o.Devices, 1))
	room := uint32(max(min(files-spareFiles, maxConnections), 0))
	if room < per {
		return nil, fmt.Errorf("a process may have %d files open here, which is too few; raise it with ulimit -n", files)
	}
	var jobs []job
	targets := o.targets()
	add := func(j job) {
		j.Target, j.Work = targets[len(jobs)%len(targets)], o.Work
		j.Ledger = filepath.Join(dir, fmt.Sprintf("worker-%d-%08x.ledger", len(jobs), o.Work.Run))
		jobs = append(jobs, j)
	}
	// Each process has one server, so that there are as many for each.
	servers := uint32(len(targets))
	most := func(n, room uint32) uint32 {
		n = max((n+servers-1)/servers, 1)
		processes := (n + room - 1) / room
		return (n + processes - 1) / processes
	}
	for first, n := range spans(o.Work.Recipients, most(o.Work.Recipients, room/per)) {
		online := n - uint32(float64(n)*o.Offline+0.5)
		add(job{Audience: &Audience{First: first, N: n, Devices: per, Client: o.Client}, Online: int(online * per)})
	}
	for first, n := range spans(o.Work.Clients, most(o.Work.Clients, room)) {
		add(job{First: first, Clients: n})
	}
	// One local address has ports for one process's connections. On Linux all of 127/8 is local.
	if u, err := url.Parse(o.Target.URL); err == nil && runtime.GOOS == "linux" && isLoopback(u.Hostname()) {
		for i := range jobs[1:] {
			jobs[i+1].Target.Source = fmt.Sprintf("127.0.%d.%d", (i+2)>>8, (i+2)&0xff)
		}
	}
	return jobs, nil
}

// targets are all servers.
func (o *Options) targets() []Target {
	all := []Target{o.Target}
	for _, node := range o.Nodes {
		t := o.Target
		t.URL = node
		all = append(all, t)
	}
	return all
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip.To4() != nil && ip.IsLoopback()
}

// spans splits n into as few parts of about equal size as possible, none above most.
func spans(n, most uint32) func(func(first, n uint32) bool) {
	return func(yield func(first, n uint32) bool) {
		parts := (n + most - 1) / most
		for i := range parts {
			first := uint32(uint64(n) * uint64(i) / uint64(parts))
			end := uint32(uint64(n) * uint64(i+1) / uint64(parts))
			if !yield(first, end-first) {
				return
			}
		}
	}
}

// run is a Run under way.
type run struct {
	Options
	cancel  context.CancelFunc
	workers []*process
	wg      sync.WaitGroup
	changed chan struct{} // has room for one; something in the workers changed

	phase string
	began time.Time
	total time.Duration
}

// signal wakes the driver.
func (r *run) signal() {
	select {
	case r.changed <- struct{}{}:
	default: // it is awake
	}
}

func (r *run) enter(phase string, total time.Duration) {
	r.phase, r.began, r.total = phase, time.Now(), total
	r.show()
}

func (r *run) show() {
	if r.Progress != nil {
		p := r.progress()
		p.Phase, p.Elapsed, p.Total = r.phase, time.Since(r.began), r.total
		r.Progress(p)
	}
}

// progress sums up the workers' counts.
func (r *run) progress() (p Progress) {
	p.Clients.Errors, p.Devices.Errors = map[string]int64{}, map[string]int64{}
	merge := func(to, from map[string]int64) {
		for k, n := range from {
			to[k] += n
		}
	}
	for _, w := range r.workers {
		w.mu.Lock()
		if c := w.last.Clients; c != nil {
			t := &p.Clients
			t.Connected += c.Connected
			t.Accepted += c.Accepted
			t.Measured += c.Measured
			t.Refused += c.Refused
			t.Unknown += c.Unknown
			t.Unsent += c.Unsent
			merge(t.Errors, c.Errors)
		}
		if d := w.last.Devices; d != nil {
			t := &p.Devices
			t.Connected += d.Connected
			t.Receipts += d.Receipts
			t.Received += d.Received
			t.Foreign += d.Foreign
			t.Reconnects += d.Reconnects
			merge(t.Errors, d.Errors)
		}
		w.mu.Unlock()
	}
	return p
}

// await waits until done reports true, which it is asked whenever something changed, and shows the
// progress. It ends with the first worker's failure.
func (r *run) await(ctx context.Context, done func() bool) error {
	for {
		for _, w := range r.workers {
			w.mu.Lock()
			err := w.failed
			w.mu.Unlock()
			if err != nil {
				return err
			}
		}
		if done() {
			return nil
		}
		select {
		case <-r.changed:
			r.show()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// every reports whether f holds for all workers that g selects.
func (r *run) every(g, f func(*process) bool) bool {
	for _, w := range r.workers {
		w.mu.Lock()
		ok := !g(w) || f(w)
		w.mu.Unlock()
		if !ok {
			return false
		}
	}
	return true
}

func sends(w *process) bool    { return w.job.Audience == nil }
func receives(w *process) bool { return w.job.Audience != nil }
func anyone(*process) bool     { return true }

// tell gives an order to the workers that g selects.
func (r *run) tell(g func(*process) bool, o order) error {
	for _, w := range r.workers {
		if g(w) {
			if err := w.enc.Encode(o); err != nil {
				return fmt.Errorf("a worker process does not listen: %w", err)
			}
		}
	}
	return nil
}

// drive leads the workers through the run. Unused is the servers' memory before it, 0 if it is not known.
func (r *run) drive(ctx context.Context, unused int64) (*Report, error) {
	isReady := func(times int) func(*process) bool {
		return func(w *process) bool { return w.ready >= times }
	}
	r.enter("connecting", 0)
	if err := r.await(ctx, func() bool { return r.every(anyone, isReady(1)) }); err != nil {
		return nil, err
	}
	var idling samples // nil if nobody idles, or it is not known
	if r.Idle > 0 {
		r.enter("idling", r.Idle)
		idling, _ = scrape(ctx, r.targets()) // whoever does not tell it does not tell the rest either
		if !pause(ctx, r.Idle) {
			return nil, ctx.Err()
		}
	}
	before, stagesErr := scrape(ctx, r.targets())
	cost := ServerCost{Unused: unused, Connected: memoryOf(before, stagesErr), Devices: r.progress().Devices.Connected}
	if idling != nil && stagesErr == nil {
		cost.IdleCPU = (before[cpuSeconds] - idling[cpuSeconds]) / r.Idle.Seconds()
	}

	const headStart = 200 * time.Millisecond // for the order to reach everybody
	start := time.Now().Add(headStart)
	sched := Schedule{Start: start, Measure: start.Add(r.Warmup), End: start.Add(r.Warmup + r.Duration)}
	r.enter("sending", r.Warmup+r.Duration)
	// Devices first: they must know from when to measure before anything arrives.
	if err := errors.Join(r.tell(receives, order{Start: &sched}), r.tell(sends, order{Start: &sched})); err != nil {
		return nil, err
	}
	if err := r.await(ctx, func() bool { return r.every(sends, func(w *process) bool { return w.finished }) }); err != nil {
		return nil, err
	}
	elapsed := max(time.Since(sched.Measure), r.Duration)
	var stages []StageReport
	if stagesErr == nil {
		if after, err := scrape(ctx, r.targets()); err == nil {
			stages, cost.CPU = after.since(before), cpuOf(before, after)
		}
	}

	r.enter("settling", 0)
	settling := time.Now()
	if r.Offline > 0 {
		if err := r.tell(receives, order{Join: true}); err != nil {
			return nil, err
		}
		if err := r.await(ctx, func() bool { return r.every(receives, isReady(2)) }); err != nil {
			return nil, err
		}
	}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	settled := time.Since(settling)

	if err := r.tell(anyone, order{Stop: true}); err != nil {
		return nil, err
	}
	if err := r.await(ctx, func() bool { return r.every(anyone, func(w *process) bool { return w.bye }) }); err != nil {
		return nil, err
	}
	report, err := r.report(elapsed)
	if err != nil {
		return nil, err
	}
	report.Settled, report.Stages, report.Server = settled.Seconds(), stages, cost
	return report, nil
}

// quiet is how long nothing may arrive, when everything that must arrive has, before what merely may
// arrive is not waited for any longer.
const quiet = time.Second

// settle waits until everything accepted was received, or nothing arrives any more.
func (r *run) settle(ctx context.Context) error {
	var last int64
	since := time.Now()
	return r.await(ctx, func() bool {
		p := r.progress()
		if p.Devices.Received != last {
			last, since = p.Devices.Received, time.Now()
		}
		switch {
		case last >= p.Clients.Accepted+p.Clients.Unknown:
			return true
		case last >= p.Clients.Accepted && time.Since(since) > quiet:
			return true
		}
		return time.Since(since) > r.Settle
	})
}
