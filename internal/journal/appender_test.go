package journal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an appender on a log in memory whose appends can be held and failed.
// It is used inside a synctest bubble.
type rig struct {
	*journal.Appender
	log  *memory.Log
	stop func() // ends Run and waits for it

	mu      sync.Mutex
	hold    chan struct{}    // appends wait until it is closed, unless nil
	errs    map[string]error // what the next operation of the name fails with
	batches []journal.BatchStats
}

func newRig(t *testing.T, o journal.AppenderOptions) *rig {
	t.Helper()
	b := new(rig)
	log, err := memory.Open(new(memory.Disk), memory.Options{Shards: 2, Fail: b.fail})
	if err != nil {
		t.Fatal(err)
	}
	b.log = log
	o.Shards, o.Tiers = 2, 2
	o.Observe = func(s journal.BatchStats) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.batches = append(b.batches, s)
	}
	if b.Appender, err = journal.NewAppender(b.log, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := log.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

func (r *rig) fail(op string, _ journal.Partition) error {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if op == memory.OpAppend && hold != nil {
		<-hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.errs[op]
	delete(r.errs, op)
	return err
}

// failOnce makes the next operation of the name fail.
func (r *rig) failOnce(op string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = map[string]error{op: err}
}

// holding makes appends wait until the returned function is called.
func (r *rig) holding() (release func()) {
	hold := make(chan struct{})
	r.mu.Lock()
	r.hold = hold
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.hold = nil
		r.mu.Unlock()
		close(hold)
	}
}

func (r *rig) seen() []journal.BatchStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.batches
}

// start begins an append and returns where its outcome will be.
func (r *rig) start(ctx context.Context, p journal.Partition, record string) <-chan error {
	outcome := make(chan error, 1)
	go func() { outcome <- r.Append(ctx, p, []byte(record)) }()
	synctest.Wait()
	return outcome
}

// stored returns the records of a partition in the log, in order.
func (r *rig) stored(t *testing.T, p journal.Partition) []string {
	t.Helper()
	last, err := r.log.Last(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := r.log.Read(t.Context(), p, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var all []string
	for seq := uint64(0); seq < last; {
		e, err := reader.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seq = e.Seq
		for record, err := range journal.Records(e.Data) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(record))
		}
	}
	return all
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantKind(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

var p0, p1 = journal.Partition{Shard: 0}, journal.Partition{Shard: 1, Tier: 1}

func TestBatchFillsWhileOneIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{})
		release := b.holding()
		first := b.start(t.Context(), p0, "a")
		var others []<-chan error
		for _, record := range []string{"b", "c", "d"} {
			others = append(others, b.start(t.Context(), p0, record))
		}
		select {
		case err := <-first:
			t.Fatalf("append returned %v before its batch was durable", err)
		default:
		}
		release()
		for _, outcome := range append(others, first) {
			if err := <-outcome; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		var sizes []int
		for _, s := range b.seen() {
			sizes = append(sizes, s.Records)
		}
		want(t, "records of the batches", sizes, []int{1, 3})
		want(t, "stored", b.stored(t, p0), []string{"a", "b", "c", "d"})
	})
}

func TestPartitionsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{})
		release := b.holding()
		held := b.start(t.Context(), p0, "held")
		b.mu.Lock()
		b.hold = nil // for what comes later
		b.mu.Unlock()
		if err := b.Append(t.Context(), p1, []byte("free")); err != nil {
			t.Error(err)
		}
		release()
		if err := <-held; err != nil {
			t.Error(err)
		}
	})
}

func TestBatchClosesBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Ten bytes a record: tag, length and eight more. Three make 30.
		b := newRig(t, journal.AppenderOptions{BatchBytes: 30})
		release := b.holding()
		var outcomes []<-chan error
		for i := range 8 {
			outcomes = append(outcomes, b.start(t.Context(), p0, fmt.Sprintf("record %d", i)))
		}
		release()
		for _, outcome := range outcomes {
			if err := <-outcome; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		var sizes []int
		for _, s := range b.seen() {
			sizes = append(sizes, s.Records)
		}
		want(t, "records of the batches", sizes, []int{1, 3, 3, 1})
		if all := b.stored(t, p0); len(all) != 8 || all[0] != "record 0" || all[7] != "record 7" {
			t.Errorf("stored %q", all)
		}
	})
}

func TestRecordTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{BatchBytes: 30})
		if err := b.Append(t.Context(), p0, make([]byte, 28)); err != nil {
			t.Errorf("a record that fills a batch: %v", err)
		}
		wantKind(t, "one byte more", b.Append(t.Context(), p0, make([]byte, 29)), journal.ErrTooLarge)
	})
}

func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{BatchBytes: 50, PendingBytes: 100})
		release := b.holding()
		a := b.start(t.Context(), p0, string(make([]byte, 48))) // 50 bytes, under way
		c := b.start(t.Context(), p1, string(make([]byte, 38))) // 40 bytes
		wantKind(t, "11 bytes over both partitions", b.Append(t.Context(), p0, make([]byte, 9)), journal.ErrOverloaded)
		d := b.start(t.Context(), p0, string(make([]byte, 8))) // 10 bytes: fits exactly
		wantKind(t, "the least record", b.Append(t.Context(), p0, nil), journal.ErrOverloaded)
		release()
		for _, outcome := range []<-chan error{a, c, d} {
			if err := <-outcome; err != nil {
				t.Error(err)
			}
		}
		if err := b.Append(t.Context(), p0, make([]byte, 48)); err != nil {
			t.Errorf("after the others are done: %v", err)
		}
	})
}

func TestFailureReachesExactlyTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{})
		for _, kind := range []error{journal.ErrFull, journal.ErrUnavailable, journal.ErrUnknown} {
			before := b.stored(t, p0)
			release := b.holding()
			first := b.start(t.Context(), p0, "first")
			second := []<-chan error{b.start(t.Context(), p0, "second"), b.start(t.Context(), p0, "third")}
			b.failOnce(memory.OpAppend, kind)
			release()
			wantKind(t, "record of the batch", <-first, kind)
			for _, outcome := range second {
				if err := <-outcome; err != nil {
					t.Errorf("record of the next batch: %v", err)
				}
			}
			want(t, "stored", b.stored(t, p0), append(before, "second", "third"))
		}
	})
}

// TestOrderAfterUnknown: what was stored without its caller learning it stays
// where it is in the order.
func TestOrderAfterUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{})
		for i := range 9 {
			if i%3 == 1 {
				b.failOnce(memory.OpAck, journal.ErrUnknown)
			}
			err := b.Append(t.Context(), p0, fmt.Append(nil, i))
			if i%3 == 1 {
				wantKind(t, "append without an answer", err, journal.ErrUnknown)
			} else if err != nil {
				t.Error(err)
			}
		}
		want(t, "stored", b.stored(t, p0), []string{"0", "1", "2", "3", "4", "5", "6", "7", "8"})
	})
}

// deaf is a log whose appends never get an answer.
type deaf struct{ journal.Log }

func (deaf) Append(ctx context.Context, _ journal.Partition, _ []byte) (uint64, error) {
	<-ctx.Done()
	return 0, fmt.Errorf("%w: %w", journal.ErrUnknown, ctx.Err())
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := journal.NewAppender(deaf{}, journal.AppenderOptions{Shards: 1, Tiers: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_ = a.Run(ctx) // always nil
		}()
		start := time.Now()
		wantKind(t, "append", a.Append(t.Context(), journal.Partition{}, []byte("x")), journal.ErrUnknown)
		want(t, "time until the error", time.Since(start), journal.DefaultTimeout)
		stop()
		<-stopped
	})
}

func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{})
		release := b.holding()
		ctx, cancel := context.WithCancel(t.Context())
		a := b.start(ctx, p0, "given up")
		c := b.start(t.Context(), p0, "kept")
		cancel()
		err := <-a
		wantKind(t, "append", err, journal.ErrUnknown)
		wantKind(t, "append", err, context.Canceled)
		release()
		if err := <-c; err != nil {
			t.Error(err)
		}
		want(t, "stored", b.stored(t, p0), []string{"given up", "kept"})
	})
}

func TestAppendAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{BatchBytes: 40})
		items := []journal.Item{
			{Partition: p0, Record: []byte("a")},
			{Partition: p1, Record: []byte("b")},
			{Partition: journal.Partition{Shard: 2}, Record: []byte("no such shard")},
			{Partition: p0, Record: make([]byte, 100)},
			{Partition: p0, Record: []byte("c")},
		}
		for i := range 50 { // over several batches
			items = append(items, journal.Item{Partition: p1, Record: fmt.Append(nil, i)})
		}
		b.AppendAll(t.Context(), items)
		for i, it := range items {
			switch i {
			case 2:
				wantKind(t, "item 2", it.Err, journal.ErrNoPartition)
			case 3:
				wantKind(t, "item 3", it.Err, journal.ErrTooLarge)
			default:
				if it.Err != nil {
					t.Errorf("item %d: %v", i, it.Err)
				}
			}
		}
		want(t, "stored", b.stored(t, p0), []string{"a", "c"})
		all := b.stored(t, p1)
		if len(all) != 51 || all[0] != "b" || all[50] != "49" {
			t.Errorf("stored %q", all)
		}
	})
}

func TestRunAppendsWhatItTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newRig(t, journal.AppenderOptions{BatchBytes: 30})
		release := b.holding()
		var outcomes []<-chan error
		for i := range 8 {
			outcomes = append(outcomes, b.start(t.Context(), p0, fmt.Sprintf("record %d", i)))
		}
		all := make(chan []string)
		go func() {
			synctest.Wait()
			release()
			for _, outcome := range outcomes {
				if err := <-outcome; err != nil {
					t.Error(err)
				}
			}
			all <- b.stored(t, p0)
		}()
		want(t, "stored", len(<-all), 8)
		b.stop()
		wantKind(t, "append after the end", b.Append(t.Context(), p0, nil), journal.ErrClosed)
	})
}

// TestRunGivesUpDraining: with a log that does not answer, Run still returns in
// the time for it, and what it never tried to append surely is not stored.
func TestRunGivesUpDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = time.Second
		a, err := journal.NewAppender(deaf{}, journal.AppenderOptions{Shards: 1, Tiers: 1, BatchBytes: 10, StopTimeout: most})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_ = a.Run(ctx) // always nil
		}()
		outcomes := make(chan error, 10)
		for range 10 {
			go func() { outcomes <- a.Append(t.Context(), journal.Partition{}, make([]byte, 8)) }()
		}
		synctest.Wait()
		began := time.Now()
		stop()
		<-stopped
		want(t, "time until the end", time.Since(began), most)
		unknown, closed := 0, 0
		for range 10 {
			switch err := <-outcomes; {
			case errors.Is(err, journal.ErrUnknown):
				unknown++
			case errors.Is(err, journal.ErrClosed):
				closed++
			default:
				t.Errorf("error %v", err)
			}
		}
		want(t, "tried", unknown, 1)
		want(t, "never tried", closed, 9)
	})
}

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = 10 * time.Millisecond
		b := newRig(t, journal.AppenderOptions{Linger: linger, BatchBytes: 30})
		begin := time.Now()
		if err := b.Append(t.Context(), p0, []byte("alone")); err != nil {
			t.Error(err)
		}
		want(t, "wait of a lone caller", time.Since(begin), time.Duration(0))

		release := b.holding()
		outcomes := []<-chan error{b.start(t.Context(), p0, "a"), b.start(t.Context(), p0, "b"), b.start(t.Context(), p0, "c")}
		release()
		for _, outcome := range outcomes {
			if err := <-outcome; err != nil {
				t.Error(err)
			}
		}
		begin = time.Now()
		if err := b.Append(t.Context(), p0, []byte("after company")); err != nil {
			t.Error(err)
		}
		want(t, "wait after a batch of several", time.Since(begin), linger)
	})
}

func TestAppenderOptions(t *testing.T) {
	log := openMemory(t)
	for name, o := range map[string]journal.AppenderOptions{
		"no shards":                 {Tiers: 1},
		"no tiers":                  {Shards: 1},
		"too many tiers":            {Shards: 1, Tiers: 257},
		"pending less than a batch": {Shards: 1, Tiers: 1, PendingBytes: 1000},
		"negative linger":           {Shards: 1, Tiers: 1, Linger: -1},
		"in flight without async":   {Shards: 1, Tiers: 1, InFlight: 2},
	} {
		if _, err := journal.NewAppender(log, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// openMemory opens an empty log of one shard until the end of the test.
func openMemory(t *testing.T) *memory.Log {
	t.Helper()
	log, err := memory.Open(new(memory.Disk), memory.Options{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return log
}

// TestAppendAllocates holds the cost of an append in the steady state: the
// record is copied into the batch, and nothing is allocated for it.
func TestAppendAllocates(t *testing.T) {
	log := openMemory(t)
	a, err := journal.NewAppender(discard{log}, journal.AppenderOptions{Shards: 1, Tiers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = a.Run(ctx) // always nil
	}()
	items := make([]journal.Item, 1000)
	for i := range items {
		items[i].Record = make([]byte, 170)
	}
	perCall := testing.AllocsPerRun(100, func() { a.AppendAll(ctx, items) })
	if perCall > 100 {
		t.Errorf("%v allocations for %d records", perCall, len(items))
	}
	stop()
	<-stopped
}

// discard is a log that stores nothing.
type discard struct{ journal.Log }

func (discard) Append(context.Context, journal.Partition, []byte) (uint64, error) { return 1, nil }
