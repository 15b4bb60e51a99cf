package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

var outage = flag.Duration("outage", 10*time.Second, "how long the database is away in the tests of that")

// database starts a PostgreSQL server that is the test's alone, for it is going to be ill-treated.
func database(t *testing.T) (pg *pgtest.Server, url string) {
	t.Helper()
	pg, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A frozen one would not hear that it is to end; one that runs takes no harm.
		_ = pg.Thaw()
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg, pg.URL("postgres")
}

// readiness asks /readyz and returns the status of the whole and of one check.
func (s *server) readiness(check string) (whole, part, detail string) {
	var report struct {
		Status string
		Checks map[string]struct{ Status, Detail string }
	}
	a := newAPI(s.url)
	defer a.close()
	// A refusal has the same body; what is not understood is no status.
	_, _ = a.call(s.t.Context(), http.MethodGet, "/readyz", "", nil, &report)
	return report.Status, report.Checks[check].Status, report.Checks[check].Detail
}

func TestDatabaseStops(t *testing.T) {
	t.Parallel()
	databaseAway(t, (*pgtest.Server).Stop, (*pgtest.Server).Resume)
}

func TestDatabaseHangs(t *testing.T) {
	t.Parallel()
	databaseAway(t, (*pgtest.Server).Freeze, (*pgtest.Server).Thaw)
}

// databaseAway takes the database away under load and gives it back. Meanwhile accepting goes on, and so
// does delivery to whom is connected; what needs the database says 503 and starts by itself afterwards.
// In the end everything is accounted for.
func databaseAway(t *testing.T, leave, comeBack func(*pgtest.Server) error) {
	pg, store := database(t)
	r := &crashRun{t: t, dir: t.TempDir(), ledger: newLedger()}
	s := start(t, r.dir, "--store", store, "--ack-timeout", "5s", "--backoff-base", "50ms", "--backoff-cap", "500ms",
		"--max-attempts", "1000", "--breaker-strikes", "0")
	r.serve(s)
	a := s.api()

	load := r.load(7, 4, nil)

	live := newPhone(t, s, "live", false)
	before := a.mustSend(t, outgoing{To: "live", Content: "before"})
	s.awaitStatus(a, before.ID, "delivered")
	waiting := a.mustSend(t, outgoing{To: "newcomer", Content: "waits"})
	s.awaitStatus(a, waiting.ID, "queued")
	<-live.got
	accepted := func() int { return r.ledger.close(crashIsAway).accepted }

	if err := leave(pg); err != nil {
		t.Fatal(err)
	}
	gone, atFirst := time.Now(), accepted()
	end := time.NewTimer(*outage)
	defer end.Stop()
	pace := time.NewTicker(200 * time.Millisecond)
	defer pace.Stop()

	// A device of the recipient who has a message waiting connects; it cannot be given it yet.
	newcomer := newPhone(t, s, "newcomer", false)
	patient := newPhone(t, s, "patient", false)
	var during, keyed []string
	var slowestAccept, slowestDelivery time.Duration
	unavailable := 0
	for away := true; away; {
		select {
		case <-end.C:
			away = false
			continue
		case <-pace.C:
		}
		began := time.Now()
		m := outgoing{To: "live", Content: fmt.Sprintf("during %d", len(during)), Key: uuid.Must(uuid.NewV7()).String()}
		id := a.mustSend(t, m).ID
		slowestAccept = max(slowestAccept, time.Since(began))
		if again := a.mustSend(t, m).ID; again != id {
			t.Errorf("a repetition during the outage is %s, not %s", again, id)
		}
		// A key that does not tell its age: its message waits for the database, and holds nobody else up.
		old := outgoing{To: "patient", Content: m.Content, Key: fmt.Sprintf("key of %d", len(during))}
		first := a.mustSend(t, old).ID
		if again := a.mustSend(t, old).ID; again != first {
			t.Errorf("a repetition during the outage is %s, not %s", again, first)
		}
		during = append(during, id)
		keyed = append(keyed, first)
		if time.Since(gone) < *outage/2 { // beyond, the memory of a minute's outage may be used up by the load
			select {
			case got := <-live.got:
				if got.ID != id {
					t.Errorf("delivered %s %q, want %s", got.ID, got.Content, id)
				}
				slowestDelivery = max(slowestDelivery, time.Since(began))
			case <-time.After(20 * time.Second):
				t.Fatalf("a message to a connected device is not delivered during the outage (%s after its begin)", time.Since(gone))
			}
		}
		var d details
		resp, err := a.call(t.Context(), http.MethodGet, "/v1/messages/"+before.ID, "", nil, &d)
		if p, ok := errors.AsType[*problem](err); !ok || p.HTTP != http.StatusServiceUnavailable || p.Permanent || resp.Header.Get("Retry-After") == "" {
			t.Errorf("a status during the outage: %v, %+v, want 503 with Retry-After", err, d)
		} else {
			unavailable++
		}
	}
	for _, path := range []string{"/v1/messages", "/v1/dead-letters"} {
		resp, err := a.call(t.Context(), http.MethodGet, path, "", nil, &struct{}{})
		if p, ok := errors.AsType[*problem](err); !ok || p.HTTP != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("GET %s during the outage: %v, want 503 with Retry-After", path, err)
		}
	}
	if whole, part, _ := s.readiness("store"); whole != "degraded" || part != "degraded" {
		t.Errorf("readiness during the outage: %s, the store %s; want degraded", whole, part)
	}
	stranger := *a
	stranger.key = "esh_a-key-that-nobody-has-used-so-far"
	_, err := stranger.send(t.Context(), outgoing{To: "live", Content: "who am I?"})
	refused(t, "a new key during the outage", err, http.StatusServiceUnavailable, "api_key_not_checked")
	if n := accepted() - atFirst; n < 20 {
		t.Errorf("only %d messages of the load were accepted during the outage", n)
	}
	select {
	case m := <-newcomer.got:
		t.Errorf("%q was delivered without the database", m.Content)
	default:
	}

	if err := comeBack(pg); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	select {
	case m := <-newcomer.got:
		if m.ID != waiting.ID {
			t.Errorf("the newcomer got %q", m.Content)
		}
	case <-time.After(30 * time.Second):
		t.Error("the newcomer's waiting message does not come by itself")
	}
	caughtUp := time.Since(back)
	for _, id := range append(during, keyed...) {
		s.awaitStatus(a, id, "delivered")
	}
	committed := time.Since(back)
	_, err = stranger.send(t.Context(), outgoing{To: "live", Content: "who am I?"})
	refused(t, "an unknown key afterwards", err, http.StatusUnauthorized, "api_key_unknown")

	// The messages of this test are not in the ledger; the others' statuses have to be right.
	account := load.finish(60*time.Second, s)
	// One delivery for each key, although every message was sent twice.
	for n := 0; len(patient.got) > 0; n++ {
		if m := <-patient.got; n >= len(keyed) || m.ID != keyed[n] {
			t.Fatalf("of the messages that were sent twice under one key, delivery %d is %q; want each once, in order", n, m.Content)
		}
	}
	seen := make(map[string]bool)
	for len(live.got) > 0 {
		if m := <-live.got; seen[m.ID] || slices.Index(during, m.ID) < 0 {
			t.Errorf("%q was delivered twice", m.Content)
		} else {
			seen[m.ID] = true
		}
	}
	t.Logf("away for %s: %s; slowest accept %s, slowest delivery %s, %d statuses refused; back: catch-up after %s, backlog committed after %s",
		back.Sub(gone).Round(time.Second), account, slowestAccept.Round(time.Millisecond), slowestDelivery.Round(time.Millisecond), unavailable,
		caughtUp.Round(time.Millisecond), committed.Round(time.Millisecond))
	s.stop()
}

// TestStartWithoutDatabase starts the server while its database is stopped. It accepts from whom the last run
// knew, says what is missing, and delivers when the database is back.
func TestStartWithoutDatabase(t *testing.T) {
	t.Parallel()
	pg, store := database(t)
	dir := t.TempDir()
	s := start(t, dir, "--store", store)
	p := newPhone(t, s, "live", false)
	before := s.api().mustSend(t, outgoing{To: "live", Content: "before"})
	s.awaitStatus(s.api(), before.ID, "delivered")
	<-p.got
	p.hangUp()
	s.stop()
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}

	s = start(t, dir, "--store", store)
	whole, part, detail := s.readiness("store")
	if whole != "degraded" || part != "degraded" || !strings.Contains(detail, "has not answered since the start") {
		t.Errorf("readiness: %s, store %s: %s", whole, part, detail)
	}
	resp, err := http.Get(s.url + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("health: %v, %v", resp, err)
	}
	resp.Body.Close()
	a := s.api()
	newPhone(t, s, "live", false)
	key := uuid.Must(uuid.NewV7()).String()
	var ids []string
	for i := range 20 {
		m := outgoing{To: "live", Content: fmt.Sprint(i)}
		if i == 7 {
			m.Key = key
		}
		ids = append(ids, a.mustSend(t, m).ID)
		if i == 7 {
			if again := a.mustSend(t, m).ID; again != ids[i] {
				t.Errorf("a repetition is %s, not %s", again, ids[i])
			}
		}
	}
	waiting := a.mustSend(t, outgoing{To: "away", Content: "waits"})
	resp, err = a.call(t.Context(), http.MethodGet, "/v1/messages/"+ids[0], "", nil, new(details))
	if refused(t, "asking for a message", err, http.StatusServiceUnavailable, "store_unavailable"); resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	stranger := newAPI(s.url)
	stranger.key = "esh_nobody-has-this-key"
	defer stranger.close()
	resp, err = stranger.call(t.Context(), http.MethodPost, "/v1/messages", "", outgoing{To: "live", Content: "who am I?"}, new(receipt))
	if refused(t, "an unknown key", err, http.StatusServiceUnavailable, "api_key_not_checked"); resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// What was accepted is not lost with the process either.
	s.kill()
	s = start(t, dir, "--store", store)
	a = s.api()
	p = newPhone(t, s, "live", false)

	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		s.awaitStatus(a, id, "delivered")
		if m := <-p.got; m.ID != id {
			t.Errorf("delivery %d is %q", i, m.Content)
		}
	}
	s.awaitStatus(a, waiting.ID, "queued")
	s.await("readiness", func() bool {
		whole, part, _ := s.readiness("store")
		return whole == "ok" && part == "ok"
	})
	stranger = newAPI(s.url)
	stranger.key = "esh_nobody-has-this-key"
	defer stranger.close()
	_, err = stranger.send(t.Context(), outgoing{To: "live", Content: "who am I?"})
	refused(t, "an unknown key afterwards", err, http.StatusUnauthorized, "api_key_unknown")
	s.stop()
}

// TestFirstStartWithoutDatabase starts a deployment whose database hangs: it waits for it, since nobody is known
// and where the journal begins is the database's to say.
func TestFirstStartWithoutDatabase(t *testing.T) {
	t.Parallel()
	pg, store := database(t)
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	s := launch(t, t.TempDir(), "--store", store)
	s.await("the server to wait", func() bool { return strings.Contains(s.tail(8<<10), "the start waits for the store") })
	if err := pg.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := s.ready(); err != nil {
		t.Fatal(err)
	}
	s.awaitStatus(s.api(), s.api().mustSend(t, outgoing{To: "live", Content: "hello"}).ID, "queued")
	s.stop()

	// One that waits ends when it is told to.
	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	s = launch(t, t.TempDir(), "--store", store)
	s.await("the server to wait", func() bool { return strings.Contains(s.tail(8<<10), "the start waits for the store") })
	signal(t, s, syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(stopLimit):
		t.Fatal("it waits on")
	}
}

// TestDatabaseThatWillNotDo shows that a start ends, and says why, where waiting would not help.
func TestDatabaseThatWillNotDo(t *testing.T) {
	t.Parallel()
	_, store := database(t)
	fails := func(what, store, why string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--store", store).CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), why) || strings.Contains(string(out), "goroutine ") {
			t.Errorf("%s: %v\n%s", what, err, out)
		} else {
			t.Logf("%s: %s", what, out)
		}
	}
	fails("no such database", strings.Replace(store, "/postgres?", "/missing?", 1), `"missing" does not exist`)
	fails("no such user", strings.Replace(store, "://esh3ar@", "://nobody@", 1), `"nobody" does not exist`)
	s := start(t, t.TempDir(), "--store", store)
	s.stop()
	execute(t, "pgx", store, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)")
	fails("a newer schema", store, "newer than this version of the program")
}
