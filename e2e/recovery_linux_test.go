package e2e

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	// The driver of the embedded store's file and that of PostgreSQL, to do to a database what its owner may.
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// execute runs a statement in a database that the server has open.
func execute(t *testing.T, driver, dsn, statement string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := db.ExecContext(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func sqliteDSN(dir string) string {
	return "file:" + filepath.Join(dir, "esh3ar.db") + "?_pragma=busy_timeout(10000)"
}

// TestStoreSetBack restores the store from a copy that was taken under load, as after the loss of its
// disk. Everything that was accepted since comes again from the journal, and in the end everything is
// accounted for.
func TestStoreSetBack(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		copied := filepath.Join(t.TempDir(), "copy.db")
		storeSetBack(t, dir, func() {
			execute(t, "sqlite", sqliteDSN(dir), "VACUUM INTO '"+copied+"'")
		}, func() {
			old, err := filepath.Glob(filepath.Join(dir, "esh3ar.db*"))
			if err != nil || len(old) == 0 {
				t.Fatalf("the store's files: %v, %v", old, err)
			}
			for _, path := range old {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(copied, filepath.Join(dir, "esh3ar.db")); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("postgres", func(t *testing.T) {
		pg, store := database(t)
		storeSetBack(t, t.TempDir(), func() {
			if err := pg.Backup(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := pg.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(pg.Restore(), pg.Resume()); err != nil {
				t.Fatal(err)
			}
		}, "--store", store)
	})
}

func storeSetBack(t *testing.T, dir string, backUp, restore func(), args ...string) {
	r := &crashRun{t: t, dir: dir, args: args, ledger: newLedger()}
	s := r.boot()
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	r.serve(s)
	load := r.load(3, 4, nil)
	grows := func(by int) {
		t.Helper()
		now := r.ledger.close(crashIsAway).accepted
		s.await("more to be accepted", func() bool { return r.ledger.close(crashIsAway).accepted >= now+by })
	}

	grows(500)
	backUp()
	atCopy := r.ledger.close(crashIsAway).accepted
	grows(1000)
	r.serve(nil)
	s.kill()

	restore()
	s = r.boot()
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d accepted before the copy, then: %s", atCopy, load.finish(60*time.Second, s))
	s.stop()
}

// TestPoison has the database refuse one recipient's rows for good. That message ends as undelivered, its
// record raw beside it, and the shard goes on; so do messages to others in the same transactions.
func TestPoison(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir)
		execute(t, "sqlite", sqliteDSN(dir), `CREATE TRIGGER poison BEFORE INSERT ON message WHEN NEW.recipient = 'poison'
			BEGIN SELECT RAISE(ABORT, 'this row is poison'); END`)
		poison(t, s, dir, "sqlite", sqliteDSN(dir), "+unstorable")
	})
	t.Run("postgres", func(t *testing.T) {
		_, store := database(t)
		dir := t.TempDir()
		s := start(t, dir, "--store", store)
		for _, statement := range []string{
			`CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'this row is poison' USING ERRCODE = '22000'; END $$`,
			`CREATE TRIGGER poison BEFORE INSERT ON queue FOR EACH ROW WHEN (NEW.recipient = 'poison') EXECUTE FUNCTION poison()`,
		} {
			execute(t, "pgx", store, statement)
		}
		// Where final messages lie nothing is refused but what they carry, for all that is known.
		poison(t, s, dir, "pgx", store, "poison")
	})
}

// poison expects that the message to the recipient poison is shown as one to the recipient to.
func poison(t *testing.T, s *server, dir, driver, dsn, to string) {
	a := s.api()
	// All in one request, so that they share transactions.
	batch := []outgoing{}
	for i := range 100 {
		batch = append(batch, outgoing{To: fmt.Sprint("healthy", i%10), Content: fmt.Sprint("number ", i)})
	}
	batch[37].To = "poison"
	results, err := a.sendBatch(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Problem != nil {
			t.Fatal(r.Problem)
		}
		if i != 37 {
			s.awaitStatus(a, r.ID, "queued")
		}
	}
	after := a.mustSend(t, outgoing{To: "healthy0", Content: "afterwards"})
	s.awaitStatus(a, after.ID, "queued")

	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var reason string
	var record []byte
	s.await("the raw dead letter", func() bool {
		return db.QueryRowContext(t.Context(), "SELECT reason, record FROM reject").Scan(&reason, &record) == nil
	})
	if reason != "refused_by_store" || !strings.Contains(string(record), "number 37") {
		t.Errorf("raw dead letter: %s, %q", reason, record)
	}

	// The operator can list it.
	raw := exec.CommandContext(t.Context(), program, "dlq", "raw", "--json", "--url", s.url, "--admin-key-file", filepath.Join(dir, "admin-key"))
	if out, err := raw.CombinedOutput(); err != nil || !strings.Contains(string(out), `"message_id":"`+results[37].ID+`"`) ||
		!strings.Contains(string(out), base64.StdEncoding.EncodeToString(record)) {
		t.Errorf("dlq raw: %v\n%s", err, out)
	}

	// Its client hears of it: by the status, in the dead-letter queue and among the events.
	id := results[37].ID
	d := s.awaitStatus(a, id, "undelivered")
	if last := d.Timeline[len(d.Timeline)-1]; last.Reason != "refused_by_store" || d.To != to {
		t.Errorf("the message's end is %+v, to %q", last, d.To)
	}
	dead, _, err := a.deadLetters(t.Context(), nil)
	if err != nil || len(dead) != 1 || dead[0].ID != id || dead[0].Reason != "refused_by_store" || !dead[0].PayloadUnavailable {
		t.Errorf("dead letters: %+v, %v", dead, err)
	}
	var events struct {
		Events []happening `json:"events"`
	}
	s.await("the event", func() bool {
		if _, err := a.call(t.Context(), http.MethodGet, "/v1/events?from=start&limit=500", "", nil, &events); err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Events {
			if e.Data.ID == id && e.Data.Status == "undelivered" && e.Data.Reason == "refused_by_store" {
				return true
			}
		}
		return false
	})
	_, err = a.call(t.Context(), http.MethodPost, "/v1/dead-letters/"+id+"/replay", "", nil, nil)
	refused(t, "replaying what has no payload", err, http.StatusConflict, "payload_unavailable")
	if _, err = a.call(t.Context(), http.MethodPost, "/v1/dead-letters/"+id+"/discard", "", nil, &d); err != nil {
		t.Error(err)
	}
	s.stop()
}

// mountSmall mounts a file system of that size until the end of the test.
func mountSmall(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("this test mounts a small tmpfs, which takes root (or CAP_SYS_ADMIN): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill fills the file system until so much is free, and returns what makes it free again.
func fill(t *testing.T, dir string, free int64) (empty func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		left := int64(fs.Bavail)*fs.Bsize - free
		if left <= 0 {
			break
		}
		if _, err := f.Write(chunk[:min(left, int64(len(chunk)))]); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// TestDiskFull fills the disk of the journal and the store under load, to the reserve and to the last
// byte. Accepting fails plainly, nothing that was not written is acknowledged, and it goes on when there is
// space again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		reserve string
	}{{"to the reserve", "16MiB"}, {"to the last byte", "0B"}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			disk := mountSmall(t, 128<<20)
			s := start(t, filepath.Join(disk, "data"), "--disk-reserve", test.reserve, "--journal-size", "64MiB", "--publish-timeout", "2s")
			a := s.api()
			var ids []string
			refusals := make(map[string]int)
			send := func() (ok bool) {
				m := outgoing{To: fmt.Sprint("u", len(ids)%5), Content: fmt.Sprintf("%d %s", len(ids), strings.Repeat("x", 8<<10))}
				var r receipt
				resp, err := a.call(t.Context(), http.MethodPost, "/v1/messages", "", m, &r)
				if err == nil {
					ids = append(ids, r.ID)
					return true
				}
				p, told := errors.AsType[*problem](err)
				if !told || p.HTTP != http.StatusInsufficientStorage && p.HTTP != http.StatusServiceUnavailable || p.Permanent || resp.Header.Get("Retry-After") == "" {
					t.Fatalf("a full disk is told as %v", err)
				}
				refusals[p.Code]++
				return false
			}
			for range 200 {
				send()
			}
			empty := fill(t, disk, 0)
			s.await("a refusal", func() bool { return !send() })
			for range 20 {
				send()
			}
			if refusals["journal_full"] == 0 {
				t.Errorf("no refusal says that the journal is full: %v", refusals)
			}
			empty()
			s.await("accepting to go on", send)
			for range 50 {
				if !send() {
					t.Error("refused again with space left")
					break
				}
			}
			// Everything that was accepted is there and arrives.
			got := make(chan string, 10000)
			for i := range 5 {
				d, err := dial(s.url, token(t, fmt.Sprint("u", i), time.Hour), func(m delivery) { got <- m.ID })
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(d.hangUp)
			}
			missing := make(map[string]bool)
			for _, id := range ids {
				missing[id] = true
			}
			deadline := time.After(60 * time.Second)
			for len(missing) > 0 {
				select {
				case id := <-got:
					delete(missing, id)
				case <-deadline:
					t.Fatalf("%d of %d accepted messages did not arrive", len(missing), len(ids))
				}
			}
			t.Logf("%d accepted and received; refusals: %v", len(ids), refusals)
			s.stop()
		})
	}
}

// TestGracefulStop stops the server with messages in flight, with a request that never ends and with a
// database that hangs. Devices are told to come back, what was in flight is handed back uncharged, and
// the end comes within the time for it.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	const drain = 4 * time.Second
	end := func(t *testing.T, s *server) time.Duration {
		t.Helper()
		began := time.Now()
		signal(t, s, syscall.SIGTERM)
		select {
		case <-s.gone:
		case <-time.After(drain + 10*time.Second):
			t.Fatalf("not gone %s after the signal", time.Since(began))
		}
		if s.err != nil {
			t.Errorf("the server ended with %v", s.err)
		}
		return time.Since(began)
	}
	t.Run("in flight", func(t *testing.T) {
		dir := t.TempDir()
		s := start(t, dir, "--drain-timeout", drain.String())
		a := s.api()
		p := newPhone(t, s, "mute", true)
		sent := []string{}
		for i := range 10 {
			sent = append(sent, a.mustSend(t, outgoing{To: "mute", Content: fmt.Sprint(i)}).ID)
		}
		for range sent {
			<-p.got
		}
		halfRequest(t, s) // which never ends
		took := end(t, s)
		<-p.closed
		if !p.reconnect {
			t.Errorf("the device was not told to reconnect: %v", p.why)
		}
		if took > drain+2*time.Second {
			t.Errorf("the stop took %s with a drain timeout of %s", took, drain)
		}

		s = start(t, dir)
		a = s.api()
		for _, id := range sent {
			d, err := a.message(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if last := d.Timeline[len(d.Timeline)-1]; d.Status != "queued" || last.Reason != "recipient_offline" {
				t.Errorf("handed back as %+v", last)
			}
		}
		again := newPhone(t, s, "mute", false)
		var order []string
		for range sent {
			m := <-again.got
			order = append(order, m.ID)
			if m.Attempt != 1 {
				t.Errorf("message %s comes as attempt %d: the stop was charged", m.Content, m.Attempt)
			}
		}
		if !slices.Equal(order, sent) {
			t.Errorf("after the restart: %q, want %q", order, sent)
		}
		s.stop()
	})
	t.Run("database hangs", func(t *testing.T) {
		pg, store := database(t)
		dir := t.TempDir()
		s := start(t, dir, "--store", store, "--drain-timeout", drain.String())
		a := s.api()
		newPhone(t, s, "live", false)
		// The key is known before the database hangs.
		s.awaitStatus(a, a.mustSend(t, outgoing{To: "live", Content: "before"}).ID, "delivered")
		if err := pg.Freeze(); err != nil {
			t.Fatal(err)
		}
		last := a.mustSend(t, outgoing{To: "live", Content: "not stored yet"})
		if took := end(t, s); took > drain+2*time.Second {
			t.Errorf("the stop took %s with a drain timeout of %s", took, drain)
		}
		if err := pg.Thaw(); err != nil {
			t.Fatal(err)
		}
		s = start(t, dir, "--store", store)
		newPhone(t, s, "live", false)
		s.awaitStatus(s.api(), last.ID, "delivered")
		s.stop()
	})
}
