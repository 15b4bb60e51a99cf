package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
)

// asUsersRunIt has a benchmark measure the program that users run, without the race detector.
func asUsersRunIt(b *testing.B) {
	b.Helper()
	if os.Getenv("E2E_PROGRAM") != "" {
		return
	}
	raced := program
	program = filepath.Join(b.TempDir(), "esh3ar")
	b.Cleanup(func() { program = raced })
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/esh3ar").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

// floodSize is how many messages the flood has.
const floodSize = 100_000

// BenchmarkFlood measures what one client's flood of 100,000 messages costs others: the time from the
// acceptance of a message until its device has it, for a client of each tier that sends 100 messages/s,
// before the flood and while it is accepted and delivered. The flood is of the silver tier. Server,
// devices and clients share the machine.
func BenchmarkFlood(b *testing.B) {
	b.Run("connected", func(b *testing.B) { benchmarkFlood(b, 1000, true) })
	b.Run("absent", func(b *testing.B) { benchmarkFlood(b, 1000, false) })
}

func benchmarkFlood(b *testing.B, recipients int, connected bool) {
	asUsersRunIt(b)
	dir := b.TempDir()
	start(b, dir).stop()
	key := func(name string) string { return "esh_key-of-" + name + "-for-benchmarks" }
	quiet := []*quietClient{{tier: esh3ar.TierGold}, {tier: esh3ar.TierSilver}, {tier: esh3ar.TierBronze}}
	for _, q := range quiet {
		addClient(b, dir, q.tier.String(), key(q.tier.String()), q.tier)
	}
	addClient(b, dir, "flood", key("flood"), esh3ar.TierSilver)
	s := start(b, dir)

	f := startFlood(b, floodOrders{
		URL: s.url, Key: key("flood"), Messages: floodSize * b.N, Recipients: recipients, Connected: connected,
	})
	for _, q := range quiet {
		for i := range quietRecipients {
			acking(b, s, q.recipient(i), q.receive)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	var sending sync.WaitGroup
	for _, q := range quiet {
		sending.Go(func() { q.send(ctx, b, s.url, key(q.tier.String())) })
	}
	wait := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
	}
	wait(time.Second) // warms up
	for _, q := range quiet {
		q.take()
	}
	wait(5 * time.Second)
	before, during := make([][]time.Duration, len(quiet)), make([][]time.Duration, len(quiet))
	for i, q := range quiet {
		before[i] = q.take()
	}

	b.ResetTimer()
	f.tell("flood")
	rate := func(took time.Duration) float64 { return floodSize * float64(b.N) / took.Seconds() }
	report := func(phase string) {
		for i, q := range quiet {
			took := q.take()
			b.Logf("%s, %s: %d messages, p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, most %.1f ms", phase, q.tier, len(took),
				milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.9)), milliseconds(quantile(took, 0.99)), milliseconds(quantile(took, 1)))
			during[i] = append(during[i], took...)
		}
	}
	b.ReportMetric(rate(f.hear("accepted")), "flood-accepted/s")
	report("while the flood is accepted")
	if connected {
		b.ReportMetric(rate(f.hear("delivered")), "flood-delivered/s")
	} else {
		wait(3 * time.Second)
	}
	report("then")
	for i, q := range quiet {
		b.ReportMetric(milliseconds(quantile(before[i], 0.99)), q.tier.String()+"-before-ms-p99")
		b.ReportMetric(milliseconds(quantile(during[i], 0.99)), q.tier.String()+"-during-ms-p99")
	}
	b.StopTimer()
	b.ReportMetric(0, "ns/op")
	cancel()
	sending.Wait()
	f.end()
	s.stop()
}

// acking connects a device that acknowledges what it gets.
func acking(b *testing.B, s *server, to string, receive func(delivery)) {
	b.Helper()
	d, err := dialAcking(s.url, token(b, to, time.Hour), receive)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.hangUp)
}

func dialAcking(url, token string, receive func(delivery)) (*device, error) {
	var d *device
	ready := make(chan struct{})
	d, err := dial(url, token, func(m delivery) {
		<-ready
		_ = d.acknowledge(m.ID) // an error shows as a message that comes again
		receive(m)
	})
	if err == nil {
		close(ready)
	}
	return d, err
}

// quietClient sends little and notes how long it takes.
type quietClient struct {
	tier esh3ar.Tier

	mu   sync.Mutex
	took []time.Duration
}

const (
	quietRecipients = 20
	quietEvery      = 10 * time.Millisecond
)

func (q *quietClient) recipient(i int) string { return fmt.Sprint(q.tier, i) }

func (q *quietClient) receive(m delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.took = append(q.took, time.Since(m.AcceptedAt))
}

// take returns what was noted since the last time.
func (q *quietClient) take() []time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	took := q.took
	q.took = nil
	return took
}

// send sends until ctx ends. Several senders take turns, so that one slow answer does not hold up the pace.
func (q *quietClient) send(ctx context.Context, b *testing.B, url, key string) {
	tick := time.NewTicker(quietEvery)
	defer tick.Stop()
	slots := make(chan *api, 16)
	for range cap(slots) {
		one := newAPI(url)
		one.key = key
		slots <- one
	}
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			for range cap(slots) {
				(<-slots).close()
			}
			return
		case <-tick.C:
		}
		one := <-slots
		go func() {
			defer func() { slots <- one }()
			if _, err := one.send(context.Background(), outgoing{To: q.recipient(i % quietRecipients), Content: "a quiet message"}); err != nil {
				b.Error(err)
			}
		}()
	}
}

// floodOrder is the environment variable that makes the test program flood a server instead of testing it:
// the flood needs a process of its own, so that its devices do not hold up those that are measured.
const floodOrder = "E2E_FLOOD"

// floodOrders are what a flood is to be, as the environment variable has it.
type floodOrders struct {
	URL, Key   string
	Messages   int
	Recipients int
	Connected  bool     // so are the recipients
	Tokens     []string // of the recipients, if they are connected
}

// flooding is the process of a flood.
type flooding struct {
	b     *testing.B
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

// startFlood returns a process that is ready to flood.
func startFlood(b *testing.B, o floodOrders) *flooding {
	b.Helper()
	if o.Connected {
		for i := range o.Recipients {
			o.Tokens = append(o.Tokens, token(b, floodRecipient(i), time.Hour))
		}
	}
	orders, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "orders")
	if err := os.WriteFile(file, orders, 0o600); err != nil {
		b.Fatal(err)
	}
	f := &flooding{b: b, cmd: exec.Command(self)}
	f.cmd.Env = append(os.Environ(), floodOrder+"="+file)
	f.cmd.Stderr = b.Output()
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	f.lines = bufio.NewScanner(out)
	if err := f.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		f.in.Close()
		_ = f.cmd.Wait() // end has told of an error
	})
	f.hear("ready")
	return f
}

func (f *flooding) tell(word string) {
	f.b.Helper()
	if _, err := fmt.Fprintln(f.in, word); err != nil {
		f.b.Fatal(err)
	}
}

// hear waits for the process to say that word, and returns the time that it tells with it.
func (f *flooding) hear(word string) time.Duration {
	f.b.Helper()
	if !f.lines.Scan() {
		f.b.Fatalf("the flood ended before it was %s", word)
	}
	said, took, _ := strings.Cut(f.lines.Text(), " ")
	if said != word {
		f.b.Fatalf("the flood says %q, not %s", f.lines.Text(), word)
	}
	d, _ := time.ParseDuration(took)
	return d
}

func (f *flooding) end() {
	f.b.Helper()
	f.in.Close()
	if err := f.cmd.Wait(); err != nil {
		f.b.Errorf("the flood: %v", err)
	}
}

func floodRecipient(i int) string { return fmt.Sprint("flooded", i) }

// flood is the other side of flooding. It returns the process's exit status.
func flood(file string) int {
	if err := carryOut(file); err != nil {
		fmt.Fprintln(os.Stderr, "flood:", err)
		return 1
	}
	return 0
}

func carryOut(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o floodOrders
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	var received atomic.Int64
	delivered := make(chan struct{})
	for _, token := range o.Tokens {
		d, err := dialAcking(o.URL, token, func(delivery) {
			if received.Add(1) == int64(o.Messages) {
				close(delivered)
			}
		})
		if err != nil {
			return err
		}
		defer d.hangUp()
	}
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	if !orders.Scan() {
		return orders.Err()
	}

	began := time.Now()
	batches := make(chan []outgoing)
	posting, ctx := errgroup.WithContext(context.Background())
	for range 20 {
		a := newAPI(o.URL)
		a.key = o.Key
		defer a.close()
		posting.Go(func() error {
			for batch := range batches {
				results, err := a.sendBatch(ctx, batch)
				if err != nil {
					return err
				}
				for _, r := range results {
					if r.ID == "" {
						return r.Problem
					}
				}
			}
			return nil
		})
	}
	for n := 0; n < o.Messages && ctx.Err() == nil; {
		batch := make([]outgoing, 0, esh3ar.MaxBatch)
		for ; len(batch) < esh3ar.MaxBatch && n < o.Messages; n++ {
			batch = append(batch, outgoing{To: floodRecipient(n % o.Recipients), Content: "a message of the flood"})
		}
		select {
		case batches <- batch:
		case <-ctx.Done():
		}
	}
	close(batches)
	if err := posting.Wait(); err != nil {
		return err
	}
	fmt.Println("accepted", time.Since(began))
	if o.Connected {
		<-delivered
		fmt.Println("delivered", time.Since(began))
	}
	orders.Scan() // until the other side hangs up
	return orders.Err()
}
