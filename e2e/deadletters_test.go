package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// deadLetter is an entry of the dead-letter queue's listing.
type deadLetter struct {
	ID            string    `json:"id"`
	Status        string    `json:"status"`
	To            string    `json:"to"`
	Type          string    `json:"type"`
	Reason        string    `json:"reason"`
	Attempts      int       `json:"attempts"`
	UndeliveredAt time.Time `json:"undelivered_at"`

	PayloadUnavailable bool `json:"payload_unavailable"`
}

// deadLetters lists what the query selects, page by page, newest first.
func (a *api) deadLetters(ctx context.Context, query url.Values) (all []deadLetter, pages int, err error) {
	for q := query; ; {
		var page struct {
			DeadLetters []deadLetter `json:"dead_letters"`
			Next        string       `json:"next_cursor"`
		}
		if _, err := a.call(ctx, http.MethodGet, "/v1/dead-letters?"+q.Encode(), "", nil, &page); err != nil {
			return all, pages, err
		}
		pages++
		all = append(all, page.DeadLetters...)
		if page.Next == "" {
			return all, pages, nil
		}
		q = cloneValues(q)
		q.Set("cursor", page.Next)
	}
}

func cloneValues(v url.Values) url.Values {
	out := make(url.Values, len(v)+1)
	for name, values := range v {
		out[name] = slices.Clone(values)
	}
	return out
}

// refused checks that err is a problem with that status and code, and returns it.
func refused(t *testing.T, what string, err error, status int, code string) *problem {
	t.Helper()
	p, ok := errors.AsType[*problem](err)
	if !ok || p.HTTP != status || p.Code != code {
		t.Errorf("%s: %v, want HTTP %d %s", what, err, status, code)
		return &problem{}
	}
	return p
}

// phone is a device whose user can be told to stop acknowledging.
type phone struct {
	*device
	silent atomic.Bool
	got    chan delivery // everything that arrives; nobody need listen
}

func newPhone(t *testing.T, s *server, who string, silent bool) *phone {
	t.Helper()
	p := &phone{got: make(chan delivery, 1000)}
	p.silent.Store(silent)
	ready := make(chan struct{})
	d, err := dial(s.url, token(t, who, time.Hour), func(m delivery) {
		<-ready
		select {
		case p.got <- m:
		default:
		}
		if !p.silent.Load() {
			// An error means that the connection has ended, which its closed channel tells.
			_ = p.acknowledge(m.ID)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.device = d
	close(ready)
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		p.stayAlive()
	}()
	t.Cleanup(func() {
		p.hangUp()
		<-idle
	})
	return p
}

// stayAlive sends what SignalR clients send so that the server does not take them for gone, until the
// connection ends.
func (d *device) stayAlive() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			// An error means that the connection has ended.
			_ = d.write(map[string]int{"type": 6})
		case <-d.closed:
			return
		}
	}
}

// impatient makes the server give a message up within a second.
var impatient = []string{"--ack-timeout", "300ms", "--max-attempts", "2", "--backoff-base", "10ms", "--backoff-cap", "20ms", "--breaker-strikes", "0"}

// TestDeadLetters takes messages that nobody acknowledges into the dead-letter queue, and from there
// every way out of it.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), impatient...)
	a := s.api()
	mute := newPhone(t, s, "mute", true)
	newPhone(t, s, "deaf", true)

	before := time.Now()
	news := a.mustSend(t, outgoing{To: "mute", Content: "news", Type: "news"})
	var bills []string
	for i := range 3 {
		bills = append(bills, a.mustSend(t, outgoing{To: "mute", Content: fmt.Sprint("bill ", i), Type: "bill"}).ID)
	}
	other := a.mustSend(t, outgoing{To: "deaf", Content: "other", Type: "bill"})
	everything := append([]string{news.ID, other.ID}, bills...)
	for _, id := range everything {
		d := s.awaitStatus(a, id, "undelivered")
		attempts := 0
		for _, tr := range d.Timeline {
			if tr.Status == "sent" {
				attempts++
			}
		}
		if last := d.Timeline[len(d.Timeline)-1]; last.Reason != "attempts_exhausted" || attempts < 2 {
			t.Errorf("message %s ends with %+v after %d sends", id, last, attempts)
		}
	}

	for name, test := range map[string]struct {
		query url.Values
		want  []string
	}{
		"all":          {nil, everything},
		"recipient":    {url.Values{"to": {"deaf"}}, []string{other.ID}},
		"type":         {url.Values{"type": {"news"}}, []string{news.ID}},
		"reason":       {url.Values{"reason": {"attempts_exhausted"}}, everything},
		"other reason": {url.Values{"reason": {"undecodable"}}, nil},
		"from":         {url.Values{"from": {before.UTC().Format(time.RFC3339Nano)}}, everything},
		"until":        {url.Values{"until": {before.UTC().Format(time.RFC3339Nano)}}, nil},
		"both":         {url.Values{"to": {"mute"}, "type": {"bill"}}, bills},
	} {
		found, _, err := a.deadLetters(t.Context(), test.query)
		var ids []string
		for _, d := range found {
			ids = append(ids, d.ID)
			if d.Status != "undelivered" || d.Reason != "attempts_exhausted" || d.Attempts != 2 || d.UndeliveredAt.Before(before) {
				t.Errorf("%s: %+v", name, d)
			}
		}
		slices.Sort(ids)
		slices.Sort(test.want)
		if err != nil || !slices.Equal(ids, test.want) {
			t.Errorf("%s: %v, %q, want %q", name, err, ids, test.want)
		}
	}
	if found, pages, err := a.deadLetters(t.Context(), url.Values{"limit": {"2"}}); err != nil || len(found) != 5 || pages < 3 {
		t.Errorf("page by page: %v, %d messages on %d pages", err, len(found), pages)
	}
	_, _, err := a.deadLetters(t.Context(), url.Values{"limit": {"0"}})
	refused(t, "a page of nothing", err, http.StatusBadRequest, "bad_limit")
	_, _, err = a.deadLetters(t.Context(), url.Values{"status": {"sent"}})
	refused(t, "a filter that there is not", err, http.StatusBadRequest, "unknown_parameter")

	// Discarded: it stays undelivered, with the reason, and is in the queue no more.
	var d details
	if _, err := a.call(t.Context(), http.MethodPost, "/v1/dead-letters/"+news.ID+"/discard", "", map[string]string{"reason": "old news"}, &d); err != nil {
		t.Fatal(err)
	}
	if last := d.Timeline[len(d.Timeline)-1]; d.Status != "undelivered" || last.Reason != "discarded: old news" {
		t.Errorf("discarded: %s, %+v", d.Status, last)
	}
	if found, _, err := a.deadLetters(t.Context(), url.Values{"type": {"news"}}); err != nil || len(found) != 0 {
		t.Errorf("a discarded message is listed: %v, %+v", err, found)
	}

	// Replayed one by one and all at once; now there is somebody who acknowledges.
	mute.silent.Store(false)
	if _, err := a.call(t.Context(), http.MethodPost, "/v1/dead-letters/"+bills[0]+"/replay", "", nil, &d); err != nil {
		t.Fatal(err)
	}
	if words := d.statuses(); !slices.Contains(words[slices.Index(words, "undelivered"):], "queued") {
		t.Errorf("replayed: %q", words)
	}
	s.awaitStatus(a, bills[0], "delivered")
	_, err = a.call(t.Context(), http.MethodPost, "/v1/dead-letters/"+bills[0]+"/replay", "", nil, &d)
	refused(t, "replaying a delivered message", err, http.StatusConflict, "not_undelivered")
	_, err = a.call(t.Context(), http.MethodPost, "/v1/dead-letters/"+bills[0]+"/discard", "", nil, &d)
	refused(t, "discarding a delivered message", err, http.StatusConflict, "not_undelivered")

	var bulk struct {
		Replayed, Skipped int
		Next              string `json:"next_cursor"`
	}
	if _, err := a.call(t.Context(), http.MethodPost, "/v1/dead-letters/replay?to=mute&type=bill", "", nil, &bulk); err != nil || bulk.Replayed != 2 || bulk.Skipped != 0 {
		t.Errorf("bulk replay: %v, %+v", err, bulk)
	}
	for _, id := range bills {
		s.awaitStatus(a, id, "delivered")
	}
	if found, _, err := a.deadLetters(t.Context(), nil); err != nil || len(found) != 1 || found[0].ID != other.ID {
		t.Errorf("what is left: %v, %+v", err, found)
	}
	s.stop()
}

// TestCancel withdraws messages in every state that they can be in.
func TestCancel(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	a := s.api()
	cancel := func(id string) (d details, resp *http.Response, err error) {
		resp, err = a.call(t.Context(), http.MethodDelete, "/v1/messages/"+id, "", nil, &d)
		return d, resp, err
	}
	waiting := a.mustSend(t, outgoing{To: "away", Content: "never mind"})
	s.awaitStatus(a, waiting.ID, "queued")
	for range 2 { // repeating it is no error
		d, _, err := cancel(waiting.ID)
		if err != nil || d.Status != "canceled" {
			t.Errorf("a waiting message: %v, %+v", err, d)
		}
	}

	p := newPhone(t, s, "away", true)
	flying := a.mustSend(t, outgoing{To: "away", Content: "on its way"})
	if got := <-p.got; got.ID != flying.ID {
		t.Errorf("the device got %q, want only what was not canceled", got.Content)
	}
	s.awaitStatus(a, flying.ID, "sent")
	_, resp, err := cancel(flying.ID)
	if problem := refused(t, "a message in flight", err, http.StatusConflict, "in_flight"); problem.Permanent || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a message in flight: %+v, Retry-After %q", problem, resp.Header.Get("Retry-After"))
	}
	if err := p.acknowledge(flying.ID); err != nil {
		t.Fatal(err)
	}
	s.awaitStatus(a, flying.ID, "delivered")
	_, _, err = cancel(flying.ID)
	refused(t, "a delivered message", err, http.StatusConflict, "already_delivered")

	_, _, err = cancel("0198c0de-7a1b-7c3d-8e4f-012345670001")
	refused(t, "a message that there is not", err, http.StatusNotFound, "message_not_found")
	s.stop()
}

// TestDeadLetterCommands works on the dead-letter queue with the program's own commands.
func TestDeadLetterCommands(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), impatient...)
	a := s.api()
	p := newPhone(t, s, "mute", true)
	run := func(want int, args ...string) (out string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"dlq"}, args...)...)
		cmd.Env = append(os.Environ(), "ESH3AR_URL="+s.url, "ESH3AR_API_KEY="+apiKey)
		raw, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("dlq %s: exit status %d (%v)\n%s", strings.Join(args, " "), code, err, raw)
		}
		return string(raw)
	}
	var ids []string
	for i := range 4 {
		ids = append(ids, a.mustSend(t, outgoing{To: "mute", Content: fmt.Sprint("bill ", i), Type: "bill"}).ID)
	}
	for _, id := range ids {
		s.awaitStatus(a, id, "undelivered")
	}
	has := func(what, out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s lacks %q:\n%s", what, w, out)
			}
		}
	}
	has("ls", run(0, "ls", "--to", "mute", "--type", "bill"), append(ids, "mute", "attempts_exhausted")...)
	has("ls --json", run(0, "ls", "--json"), `"reason":"attempts_exhausted"`, `"undelivered_at":`)
	has("ls --limit", run(0, "ls", "--limit", "1"), ids[3], "more than 1")
	if out := run(0, "ls", "--reason", "undecodable"); strings.Contains(out, ids[0]) {
		t.Errorf("ls does not filter:\n%s", out)
	}
	has("show", run(0, "show", ids[0]), ids[0], "bill 0", "sent", "attempt 2", "attempts_exhausted")
	has("discard", run(0, "discard", ids[0], "--reason", "wrong number"), ids[0]+" undelivered")
	has("show", run(0, "show", ids[0]), "discarded: wrong number")
	has("discard without a reason", run(2, "discard", ids[1]), "--reason")
	has("replay of nothing", run(1, "replay"), "--all")
	has("replay by filter", run(1, "replay", "--type", "bill"), "--all")

	p.silent.Store(false)
	has("replay", run(0, "replay", ids[1]), ids[1])
	s.awaitStatus(a, ids[1], "delivered")
	has("replay of a delivered message", run(1, "replay", ids[1]), "not_undelivered")
	has("replay --all", run(0, "replay", "--all", "--type", "bill"), "replayed 2, skipped 0")
	s.awaitStatus(a, ids[2], "delivered")
	s.awaitStatus(a, ids[3], "delivered")
	s.stop()
}
