package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestFsyncBefore202 traces the system calls of the real program and checks for each accepted message
// that its bytes were written to a file of the journal, that a sync of that file began after this
// write and had come to its end before the first byte of the 202 went out.
func TestFsyncBefore202(t *testing.T) {
	t.Parallel()
	for id, err := range traceAccepts(t, program) {
		if err != nil {
			t.Errorf("message %s: %v", id, err)
		}
	}
}

// TestFsyncIsMissed shows that TestFsyncBefore202 would notice: a program that is built to answer before
// the sync does not pass.
func TestFsyncIsMissed(t *testing.T) {
	t.Parallel()
	hasty := filepath.Join(t.TempDir(), "esh3ar")
	if out, err := exec.Command("go", "build", "-tags", "mutation_no_sync", "-o", hasty, "../cmd/esh3ar").CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	for id, err := range traceAccepts(t, hasty) {
		if err == nil {
			t.Errorf("message %s passes though nothing is synced before its answer", id)
		}
	}
}

// traceAccepts runs that program under strace, has it accept messages of concurrent clients, and returns
// for each message's id what syncedBefore says.
func traceAccepts(t *testing.T, path string) map[string]error {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	dir := t.TempDir()
	s := prepare(t, []string{
		// -D keeps the program our child; -y names the file behind each descriptor.
		"strace", "-D", "-f", "-y", "-s", "100000", "-o", trace,
		"-e", "trace=write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync",
		path, "serve", "--listen", "127.0.0.1:0", "--data", dir,
	})
	s.launch()
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	contents := make(map[string]string) // by id
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			a := s.api()
			for n := range 5 {
				content := fmt.Sprintf("traced message %d of client %d.", n, c)
				r, err := a.send(t.Context(), outgoing{To: fmt.Sprintf("traced-%d", c), Content: content})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				contents[r.ID] = content
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	s.stop()
	if len(contents) == 0 {
		t.Fatal("nothing was accepted")
	}
	lines := readLines(t, trace)
	isJournal := func(path string) bool {
		return strings.HasPrefix(path, dir+"/") && !strings.Contains(filepath.Base(path), ".db")
	}
	results := make(map[string]error)
	for id, content := range contents {
		results[id] = syncedBefore(lines, isJournal, content, id)
	}
	return results
}

// syncedBefore checks in a trace that content, once written to a file that is one of the journal's, was
// synced before the answer with that id was sent.
func syncedBefore(lines []string, isJournal func(path string) bool, content, id string) error {
	calls := parseTrace(lines)
	answer := slices.IndexFunc(calls, func(c sysCall) bool {
		return strings.Contains(c.args, `"HTTP/1.1 202 `) && strings.Contains(c.args, id)
	})
	if answer < 0 {
		return fmt.Errorf("the trace has no answer with it")
	}
	written := 0
	for _, w := range calls {
		if w.sync || !isJournal(w.path) || !strings.Contains(w.args, content) {
			continue
		}
		written++
		if slices.ContainsFunc(calls, func(c sysCall) bool {
			return c.sync && c.path == w.path && c.ok && c.begin > w.end && c.end < calls[answer].begin
		}) {
			return nil
		}
	}
	return fmt.Errorf("%d writes to the journal hold it, but none was synced before the answer", written)
}

// sysCall is one call of a trace. Begin and end are the numbers of the lines that show them: a call
// that ran while others were seen has two lines, any other one.
type sysCall struct {
	sync       bool // fsync or fdatasync
	path       string
	args       string
	begin, end int
	ok         bool
}

var (
	traceCall    = regexp.MustCompile(`^(\d+) +(\w+)\((\d+)<([^>]*)>(.*)$`)
	traceResumed = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
)

// parseTrace reads the output of strace -f -y. Calls that never ended have no end.
func parseTrace(lines []string) []sysCall {
	const never = int(^uint(0) >> 1)
	var calls []sysCall
	open := make(map[string]int) // thread to its call under way
	for n, line := range lines {
		if m := traceCall.FindStringSubmatch(line); m != nil {
			c := sysCall{sync: m[2] == "fsync" || m[2] == "fdatasync", path: m[4], args: m[5], begin: n, end: n}
			if strings.HasSuffix(line, "<unfinished ...>") {
				c.end = never
				open[m[1]] = len(calls)
			} else {
				c.ok = succeeded(line)
			}
			calls = append(calls, c)
		} else if m := traceResumed.FindStringSubmatch(line); m != nil {
			if i, ok := open[m[1]]; ok {
				calls[i].end, calls[i].ok = n, succeeded(line)
				delete(open, m[1])
			}
		}
	}
	return calls
}

// succeeded reports whether a call's line ends in a result that is no error.
func succeeded(line string) bool {
	i := strings.LastIndex(line, " = ")
	return i >= 0 && !strings.HasPrefix(line[i+3:], "-")
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		lines = append(lines, in.Text())
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestSyncedBefore shows on small traces what the check takes for an answer, and what it does not.
func TestSyncedBefore(t *testing.T) {
	const (
		write    = `7 pwrite64(5</d/journal/1.blk>, "..hello..", 9, 0) = 9`
		answer   = `8 write(9<socket:[77]>, "HTTP/1.1 202 Accepted\r\n{id-1}", 30) = 30`
		fsync    = `7 fsync(5</d/journal/1.blk>) = 0`
		begin    = `7 fdatasync(5</d/journal/1.blk> <unfinished ...>`
		end      = `7 <... fdatasync resumed>) = 0`
		failed   = `7 <... fdatasync resumed>) = -1 EIO (Input/output error)`
		other    = `7 fsync(6</d/journal/2.blk>) = 0`
		database = `7 pwrite64(5</d/esh3ar.db-wal>, "..hello..", 9, 0) = 9`
		dbSync   = `7 fsync(5</d/esh3ar.db-wal>) = 0`
	)
	tests := []struct {
		name  string
		trace []string
		ok    bool
	}{
		{"in order", []string{write, fsync, answer}, true},
		{"in order, sync in two lines", []string{write, begin, end, answer}, true},
		{"written in two lines", []string{
			`7 pwrite64(5</d/journal/1.blk>, "..hello..", 9, 0 <unfinished ...>`, `7 <... pwrite64 resumed>) = 9`, fsync, answer,
		}, true},
		{"no sync", []string{write, answer}, false},
		{"sync after the answer", []string{write, answer, fsync}, false},
		{"sync ends after the answer", []string{write, begin, answer, end}, false},
		{"sync never ends", []string{write, begin, answer}, false},
		{"sync fails", []string{write, begin, failed, answer}, false},
		{"sync before the write", []string{fsync, write, answer}, false},
		{"sync begins before the write ends", []string{
			`6 pwrite64(5</d/journal/1.blk>, "..hello..", 9, 0 <unfinished ...>`, fsync, `6 <... pwrite64 resumed>) = 9`, answer,
		}, false},
		{"sync of another file", []string{write, other, answer}, false},
		{"the database alone", []string{database, dbSync, answer}, false},
		{"no write", []string{fsync, answer}, false},
		{"no answer", []string{write, fsync}, false},
	}
	isJournal := func(path string) bool { return strings.HasPrefix(path, "/d/journal/") }
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := syncedBefore(test.trace, isJournal, "hello", "id-1")
			if (err == nil) != test.ok {
				t.Errorf("syncedBefore = %v", err)
			}
		})
	}
}
