package jetstream_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// The environment that tells the test binary to be the process that is killed:
// where its journal is, and how many were killed before it.
const (
	crashDirEnv    = "ESH3AR_JOURNAL_CRASH_DIR"
	crashNumberEnv = "ESH3AR_JOURNAL_CRASH_NUMBER"
)

const (
	crashWriters = 40
	crashShards  = 2
	crashTiers   = 2
)

// crashPartition is where a writer writes.
func crashPartition(writer int) journal.Partition {
	return journal.Partition{Shard: uint16(writer % crashShards), Tier: uint8(writer / crashShards % crashTiers)}
}

// appendUntilKilled opens the journal in dir and appends records from several
// writers through the group commit. Each says on standard output what has been
// acknowledged. It does not return.
func appendUntilKilled(dir, number string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	process, err := strconv.Atoi(number)
	if err != nil {
		fail(err)
	}
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: crashShards})
	if err != nil {
		fail(err)
	}
	a, err := journal.NewAppender(l, journal.AppenderOptions{Shards: crashShards, Tiers: crashTiers, InFlight: 2})
	if err != nil {
		fail(err)
	}
	var mu sync.Mutex
	for w := range crashWriters {
		go func() {
			record := make([]byte, 200)
			binary.BigEndian.PutUint32(record, uint32(process))
			binary.BigEndian.PutUint32(record[4:], uint32(w))
			for n := 0; ; n++ {
				binary.BigEndian.PutUint32(record[8:], uint32(n))
				if err := a.Append(context.Background(), crashPartition(w), record[:12+n%188]); err != nil {
					fail(err)
				}
				mu.Lock()
				if _, err := fmt.Fprintln(os.Stdout, w, n); err != nil {
					fail(err)
				}
				mu.Unlock()
			}
		}()
	}
	_ = a.Run(context.Background()) // never ends
	os.Exit(1)
}

// TestKill kills a process that appends, at random moments, over one directory,
// and then looks for everything that was acknowledged.
func TestKill(t *testing.T) {
	const kills = 12
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acknowledged := make([][crashWriters]int, kills) // how many records, by kill and writer
	for kill := range kills {
		acknowledged[kill] = runAndKill(t, dir, kill, 1+random.IntN(4000))
		checkAcknowledged(t, dir, acknowledged[:kill+1])
	}
}

// runAndKill lets the process append until it has acknowledged so many records,
// kills it, and returns how many each writer got acknowledged.
func runAndKill(t *testing.T, dir string, number, records int) (acknowledged [crashWriters]int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, crashNumberEnv+"="+strconv.Itoa(number))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	seen := 0
	for lines.Scan() { // to the end: all that was acknowledged before the kill
		var w, n int
		if _, err := fmt.Sscan(lines.Text(), &w, &n); err != nil {
			break // the kill cut the line off
		}
		if n != acknowledged[w] {
			t.Errorf("writer %d: acknowledged record %d after %d", w, n, acknowledged[w]-1)
		}
		acknowledged[w] = n + 1
		if seen++; seen == records {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if seen < records {
		t.Fatalf("the process ended by itself: %v", err)
	}
	return acknowledged
}

// checkAcknowledged reads the whole journal: every process left each of its
// writers' records in order, from the first to at least the last one that was
// acknowledged.
func checkAcknowledged(t *testing.T, dir string, acknowledged [][crashWriters]int) {
	t.Helper()
	l, err := openIn(dir, quiet(), jetstream.Options{Shards: crashShards})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	found := make([][crashWriters]int, len(acknowledged))
	for i := range crashShards * crashTiers {
		for _, record := range allRecords(t, l, crashPartition(i)) {
			process, w, n := binary.BigEndian.Uint32(record), binary.BigEndian.Uint32(record[4:]), int(binary.BigEndian.Uint32(record[8:]))
			if n != found[process][w] {
				t.Fatalf("process %d, writer %d: record %d, want %d", process, w, n, found[process][w])
			}
			found[process][w]++
		}
	}
	for process := range acknowledged {
		for w, n := range acknowledged[process] {
			if found[process][w] < n {
				t.Errorf("process %d, writer %d: %d records are there, %d were acknowledged", process, w, found[process][w], n)
			}
		}
	}
}

// allRecords returns the records that a partition holds.
func allRecords(t *testing.T, l journal.Log, p journal.Partition) (all [][]byte) {
	t.Helper()
	for _, e := range allEntries(t, l, p) {
		for record, err := range journal.Records(e.Data) {
			if err != nil {
				t.Fatalf("%v: entry %d: %v", p, e.Seq, err)
			}
			all = append(all, record)
		}
	}
	return all
}

// allEntries returns the entries that a partition holds.
func allEntries(t *testing.T, l journal.Log, p journal.Partition) (all []journal.Entry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var (
		last uint64
		r    journal.Reader
	)
	for {
		// Servers that are electing who leads the stream say so.
		var err error
		if last, err = l.Last(ctx, p); err == nil {
			r, err = l.Read(ctx, p, 0)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, journal.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	defer r.Close()
	for seq := uint64(0); seq < last; {
		e, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("%v: entry after %d of %d: %v", p, seq, last, err)
		}
		seq = e.Seq
		all = append(all, e)
	}
	return all
}
