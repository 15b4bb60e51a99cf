//go:build unix

// Package chaos is the laboratory that breaks the server and counts what is lost: nothing may be.
//
// It runs the real program under load, injects faults by a schedule that is a pure function of a seed,
// and keeps a ledger of every 202 and every receipt outside of it. In the end it heals everything, lets
// every device connect and acknowledge, and accounts for every message ever accepted.
//
//	senders ── HTTP ──────────► server ◄── signals, cgroup ── faults
//	   │                        │ │ ▲                          │ ▲
//	   │ 202        data on     │ │ └── frames ── proxy ◄──────┤ │ Plan(seed)
//	   ▼            faultfs ◄───┘ ▼               ▲            │
//	  book ◄──────────────── PostgreSQL ◄─────────┼────────────┘
//	   ▲                                          │
//	   └───────────────── receipts ────────── devices
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/devicetoken"
	"github.com/esh3artech/esh3ar/internal/freeport"
	"github.com/esh3artech/esh3ar/internal/loadgen"
)

// Options says what Run does. DefaultOptions returns some that work.
type Options struct {
	// Seed decides the schedule, and what load, devices and faults leave to chance.
	Seed uint64
	// Program is the server's program, run as "Program serve …".
	Program string
	// Nodes is how many servers there are. Several, which need a Database, are a cluster, whose nodes the laboratory
	// also cuts off from each other. 0 means 1.
	Nodes int
	// Elastic is how many further nodes there are, which keep no journal.
	Elastic int
	// Balancer puts one between the servers and all that talk to them.
	Balancer bool
	// Database is a PostgreSQL for the server to store in; nil means SQLite. Its database "postgres" has
	// to be empty. Run breaks it and leaves it running.
	Database Database
	// Duration is how long load and faults go on, Settle how long what is left may take to arrive.
	Duration, Settle time.Duration
	// Faults are the names of those to inject; nil means all.
	Faults []string
	// Clients is how many business clients send, Rate how many requests they make in a second together.
	Clients int
	Rate    float64
	// Recipients is how many there are; the last Away of them never have a device.
	Recipients, Away int
	// Dir keeps the run's files: the ledger, the server's log and its data. "" means a directory that is
	// removed at the end unless a promise was broken.
	Dir string
	// Log is told what happens. nil means nobody.
	Log io.Writer
}

// Database is a PostgreSQL server that can be broken.
type Database interface {
	// URL returns the connection string of one of its databases.
	URL(database string) string
	// Stop ends it at once, without a checkpoint, and Resume starts it again.
	Stop() error
	Resume() error
	// Freeze lets it answer nothing and keep its connections, until Thaw.
	Freeze() error
	Thaw() error
	// Backup copies it while it runs, and Restore sets it back to the copy while it is stopped.
	Backup() error
	Restore() error
}

// DefaultOptions returns options for a run of half a minute over SQLite.
func DefaultOptions() Options {
	return Options{Duration: 30 * time.Second, Settle: time.Minute, Clients: 8, Rate: 150, Recipients: 24, Away: 3}
}

func (o *Options) validate() error {
	for _, name := range o.Faults {
		if !slices.Contains(Faults(), name) {
			return fmt.Errorf("there is no fault %q; there are %s", name, strings.Join(Faults(), ", "))
		}
	}
	switch {
	case o.Program == "":
		return errors.New("the laboratory needs a program to run")
	case o.Nodes < 0 || o.Elastic < 0 || o.Elastic > 0 && o.Nodes < 2:
		return errors.New("elastic nodes are those of a cluster")
	case o.Nodes > 1 && o.Database == nil:
		return errors.New("several servers need a database that all of them use")
	case o.Duration <= 0 || o.Settle <= 0:
		return errors.New("the duration and the settle time must be positive")
	case o.Clients < 1 || o.Rate <= 0 || o.Recipients <= o.Away || o.Away < 0:
		return errors.New("a run needs a client, a rate, and a recipient who is not away")
	}
	return nil
}

// What the server of a run is told. Attempts are plenty, so that devices that are cut off again and
// again do not use a message's up; a message that does is accounted for by its reason.
const (
	diskReserve = 4 << 20
	maxAttempts = 50
	apiKey      = "esh_the-chaos-laboratory-uses-this-key"
	jwtSecret   = "the chaos laboratory signs device tokens with this"
)

// lab is one run.
type lab struct {
	opts     Options
	dir      string
	book     *book
	machines []*machine
	balancer *supervisor // nil if there is none
	links    *links      // between the nodes of a cluster, nil if there is one server
	streams  *streams    // of a cluster's journal
	proxy    *proxy
	api      *api
	tokens   *devicetoken.HS256

	silence   atomic.Bool // some devices do not acknowledge
	doubled   atomic.Bool // devices acknowledge twice
	noCancel  atomic.Bool // the server does not know how to cancel
	settling  atomic.Bool
	settleCtx context.Context // ends when settling begins
	settle    context.CancelFunc
	// sending ends when the senders have to give up what they repeat, ctx with the run.
	sending, ctx context.Context
	endSending   context.CancelFunc

	logging sync.Mutex
	working sync.WaitGroup // faults that go on by themselves until they are healed or ctx ends

	mu     sync.Mutex
	active map[string]time.Time // faults, and those healed a moment ago
	exits  int                  // ends of the server that a fault explains
}

// Run makes one run. An error means that it could not be made; what it found out about the server is in
// the report.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	l := &lab{opts: o, active: make(map[string]time.Time)}
	var cancel context.CancelFunc
	l.ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	l.sending, l.endSending = context.WithCancel(l.ctx)
	defer l.endSending()
	l.settleCtx, l.settle = context.WithCancel(context.WithoutCancel(ctx))
	defer l.settle()
	keep := o.Dir != ""
	if l.dir = o.Dir; !keep {
		if l.dir, err = os.MkdirTemp("", "esh3ar-chaos-"); err != nil {
			return nil, err
		}
	} else if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, err
	}
	if l.dir, err = filepath.Abs(l.dir); err != nil {
		return nil, err
	}
	report, err := l.run()
	if keep || err == nil && !report.OK() {
		if report != nil {
			report.Dir = l.dir
		}
		return report, err
	}
	return report, errors.Join(err, os.RemoveAll(l.dir))
}

// run sets the laboratory up, makes the run and takes it down again.
func (l *lab) run() (report *Report, err error) {
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.open(); err != nil {
		return nil, err
	}
	report = &Report{Seed: l.opts.Seed, Nodes: len(l.machines), Balancer: l.opts.Balancer, Store: "sqlite", Duration: l.opts.Duration, Unavailable: make(map[string]string), Faults: make(map[string]int)}
	if l.opts.Database != nil {
		report.Store = "postgres"
	}
	var names []string
	for _, name := range l.opts.faults() {
		if why := l.unavailable(name); why != "" {
			report.Unavailable[name] = why
			continue
		}
		names = append(names, name)
	}
	report.Schedule = Plan(l.opts.Seed, l.opts.Duration, names)
	l.say("seed %d, %s, %s:\n%s", l.opts.Seed, report.Store, l.opts.Duration, strings.TrimSuffix(table(report.Schedule), "\n"))
	for _, name := range slices.Sorted(maps.Keys(report.Unavailable)) {
		l.say("  not available: %s: %s", name, report.Unavailable[name])
	}
	if err := each(l.machines, func(m *machine) error { return m.server.launch() }); err != nil {
		return report, err
	}
	if err := each(l.machines, l.await); err != nil {
		return report, err
	}
	if l.balancer != nil {
		if err := l.startBalancer(); err != nil {
			return report, err
		}
	}

	loadCtx, endLoad := context.WithCancel(l.ctx)
	defer endLoad()
	deviceCtx, endDevices := context.WithCancel(l.ctx)
	defer endDevices()
	var load, phones sync.WaitGroup
	dice := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(l.opts.Seed, stream)) }
	l.book.begins()
	for i := range l.opts.Clients {
		load.Go(func() { l.sender(loadCtx, dice(1000+uint64(i))) })
	}
	load.Go(func() { l.asker(loadCtx, dice(2)) })
	for i, recipient := range l.probes() {
		load.Go(func() { l.probe(loadCtx, recipient, dice(3000+uint64(i))) })
		phones.Go(func() { l.device(deviceCtx, recipient, 0, dice(4000+uint64(i))) })
	}
	for i := range l.opts.Recipients - l.opts.Away {
		for n := range 1 + (i%3)/2 { // every third recipient has two devices
			phones.Go(func() { l.device(deviceCtx, uint32(i), n, dice(2000+uint64(2*i+n))) })
		}
	}
	defer func() {
		endLoad()
		endDevices()
		l.endSending()
		load.Wait()
		phones.Wait()
	}()
	if err := l.inject(report); err != nil {
		return report, err
	}
	l.book.ends(report)
	endLoad()
	if err := l.settleDown(report, load.Wait); err != nil {
		return report, err
	}
	if report.Forgotten == 0 { // else they have to differ from what they said
		l.agree(l.ctx)
	}
	endDevices()
	phones.Wait()
	if l.balancer != nil {
		l.stopBalancer()
	}
	// One while the others go on, then all that are left.
	l.machines[0].stop()
	_ = each(l.machines[1:], func(m *machine) error { m.stop(); return nil })
	return report, l.account(report)
}

// open makes what a run needs. What it has made when it fails is closed by close.
func (l *lab) open() (err error) {
	ledger, err := loadgen.CreateLedger(filepath.Join(l.dir, "ledger"))
	if err != nil {
		return err
	}
	l.book = newBook(ledger, l.shards())
	if l.opts.Nodes > 1 {
		err = l.openCluster()
	} else {
		err = l.openSingle()
	}
	if err != nil {
		return err
	}
	if l.opts.Balancer {
		if err := l.openBalancer(); err != nil {
			return err
		}
	}
	if l.proxy, err = newProxy(l.ctx, l.dial, rand.New(rand.NewPCG(l.opts.Seed, 1))); err != nil {
		return err
	}
	if l.tokens, err = devicetoken.NewHS256([]byte(jwtSecret), nil); err != nil {
		return err
	}
	l.api = newAPI(apiKey, l.dial, l.opts.Nodes > 1 && !l.opts.Balancer)
	return nil
}

// openSingle makes the one server.
func (l *lab) openSingle() error {
	free, err := freeport.Take(l.ctx, "127.0.0.1", 1)
	if err != nil {
		return err
	}
	_, err = l.newMachine("the server", free[0], l.dir)
	return err
}

// await waits until a server serves: one of a cluster, until it is ready.
func (l *lab) await(m *machine) error {
	if len(l.machines) == 1 {
		return m.server.up(l.ctx)
	}
	ctx, cancel := context.WithTimeout(l.ctx, bootLimit)
	defer cancel()
	return m.ready(ctx)
}

// close releases everything that open has made.
func (l *lab) close() error {
	var errs []error
	l.working.Wait()
	if l.balancer != nil {
		l.balancer.close()
	}
	errs = append(errs, each(l.machines, (*machine).close))
	if l.links != nil {
		l.links.close()
	}
	if l.streams != nil {
		l.streams.close()
	}
	if l.api != nil {
		l.api.close()
	}
	if l.proxy != nil {
		l.proxy.close()
	}
	if l.book != nil {
		errs = append(errs, l.book.close())
	}
	return errors.Join(errs...)
}

// promptly is how long a fault's injection or healing may take without moving the rest of the schedule.
const promptly = time.Second

// inject carries the schedule out. Everything is healed when it returns without an error. What takes its time, such as a
// server that ends slowly, moves all that comes after it, which would be no fault any more if it were made up for.
func (l *lab) inject(report *Report) error {
	start := time.Now()
	began := start
	timed := func(do func(context.Context) error) error {
		at := time.Now()
		err := do(l.ctx)
		if took := time.Since(at); took > promptly {
			began = began.Add(took)
		}
		return err
	}
	type open struct {
		fault Fault
		until time.Duration
	}
	var healing []open
	steps := report.Schedule
	for len(steps) > 0 || len(healing) > 0 {
		slices.SortStableFunc(healing, func(a, b open) int { return int(a.until - b.until) })
		var step *Step
		due := time.Duration(0)
		if len(healing) > 0 {
			due = healing[0].until
		}
		if len(steps) > 0 && (len(healing) == 0 || steps[0].At < due) {
			step, due = &steps[0], steps[0].At
		}
		if !pause(l.ctx, due-time.Since(began)) {
			return context.Cause(l.ctx)
		}
		at := time.Since(start).Seconds()
		if step == nil {
			f := healing[0].fault
			healing = healing[1:]
			l.say("%6.2fs   %s is healed", at, f.Name())
			l.mark(f.Name(), true)
			if err := timed(f.Heal); err != nil {
				return fmt.Errorf("healing %s: %w", f.Name(), err)
			}
			l.mark(f.Name(), true)
			continue
		}
		i := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == step.Fault })
		f := kinds()[i].build(l, rand.New(rand.NewPCG(step.Seed, 0)))
		l.say("%6.2fs %s", at, f.Name())
		if p, ok := f.(prepared); ok {
			if err := timed(p.Prepare); err != nil {
				l.say("         left out: %v", err)
				steps = steps[1:]
				continue
			}
		}
		l.mark(f.Name(), false)
		l.book.injected(f.Name())
		if err := timed(f.Inject); err != nil {
			return fmt.Errorf("injecting %s: %w", f.Name(), err)
		}
		report.Faults[f.Name()]++
		healing = append(healing, open{f, step.At + step.For})
		steps = steps[1:]
	}
	if !pause(l.ctx, l.opts.Duration-time.Since(began)) {
		return context.Cause(l.ctx)
	}
	return nil
}

// aftermath is how long a healed fault still explains what the server does.
const aftermath = 3 * time.Second

// mark notes that a fault begins, or has ended.
func (l *lab) mark(name string, healed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active[name] = time.Time{}
	if healed {
		l.active[name] = time.Now().Add(aftermath)
	}
}

// healing reports whether one of the faults is there, or was a moment ago.
func (l *lab) healing(names ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		if until, ok := l.active[name]; ok && (until.IsZero() || time.Now().Before(until)) {
			return true
		}
	}
	return false
}

// say tells the log.
func (l *lab) say(format string, args ...any) {
	if l.opts.Log != nil {
		l.logging.Lock()
		defer l.logging.Unlock()
		fmt.Fprintf(l.opts.Log, format+"\n", args...)
	}
}
