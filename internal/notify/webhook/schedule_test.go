package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// pipes is a listener of in-memory connections, so that a receiver works inside a synctest bubble, where
// days pass at once.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// days runs a test in a bubble, with a world whose schedule is that of production, and a receiver.
func days(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request, g got), test func(w *world, r *receiver, h view), change ...func(*Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		r := &receiver{TB: t, answer: answer, url: "http://127.0.0.1:1/", news: make(chan struct{}, 1)}
		server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
		served := make(chan struct{})
		go func() {
			defer close(served)
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}()
		t.Cleanup(func() {
			server.Close()
			<-served
		})
		w := newWorld(t, func(o *Options) {
			o.Backoff, o.BreakerPause = Backoff{}, 0
			o.dial = l.dial
			for _, c := range change {
				c(o)
			}
		})
		h := w.create(r.url, "")
		r.knows(h.Secret)
		test(w, r, h)
	})
}

// rest lets that much time pass, and everything come to rest.
func rest(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

// TestBackoff: an event that the endpoint refuses is tried again less and less often, for a day here; then
// it is given up, and what waited behind it goes on.
func TestBackoff(t *testing.T) {
	var bad esh3ar.ID
	days(t, func(_ int, rw http.ResponseWriter, _ *http.Request, g got) {
		if e := g.events[0]; e.Data.ID == bad.String() && e.Data.Seq == 2 {
			rw.WriteHeader(http.StatusBadRequest)
		}
	}, func(w *world, r *receiver, h view) {
		bad = w.ids.New(time.Now(), 0)
		w.messageOf(bad, "c", life()...)
		rest(time.Second)
		var attempts []got
		for hour := range 30 {
			// A healthy endpoint has other events, too: it does not count as failing.
			w.message("c", esh3ar.StatusQueued)
			rest(time.Hour)
			if v := w.show(h.ID); v.Status != "enabled" || hour < 23 && v.Parked != 3 {
				t.Errorf("after hour %d: %+v", hour+1, v)
			}
		}
		released := 0
		for _, g := range r.requests() {
			switch e := g.events[0]; {
			case e.Data.ID != bad.String():
			case e.Data.Seq == 2:
				attempts = append(attempts, g)
			case g.at.Sub(attempts[0].at) < 24*time.Hour:
				t.Errorf("event %d after %s, although 2 was not given up", e.Data.Seq, g.at.Sub(attempts[0].at))
			default:
				released++
			}
		}
		span := attempts[len(attempts)-1].at.Sub(attempts[0].at)
		if len(attempts) < 11 || len(attempts) > 60 || span < 24*time.Hour || span > 25*time.Hour || released != 2 {
			t.Errorf("%d attempts in %s; then %d others", len(attempts), span, released)
		}
		for i := 1; i < len(attempts); i++ {
			most := min(5*time.Second<<(i-1), 6*time.Hour)
			if wait := attempts[i].at.Sub(attempts[i-1].at); wait > most+time.Second {
				t.Errorf("attempt %d after %s, at most %s", i+1, wait, most)
			}
		}
		var given int
		for _, d := range w.log(h.ID) {
			if d.Outcome == outcomeGivenUp {
				given++
			}
		}
		if given != 1 || w.show(h.ID).Parked != 0 {
			t.Errorf("%d given up, %d parked", given, w.show(h.ID).Parked)
		}
	}, func(o *Options) { o.Backoff = Backoff{Cap: 6 * time.Hour, Span: 24 * time.Hour} })
}

// TestSustainedFailureDisables: an endpoint that nothing succeeds at for half a day is called less and less
// often and then disabled, with a notice; enabled again, it gets everything.
func TestSustainedFailureDisables(t *testing.T) {
	var up atomic.Bool
	days(t, func(_ int, rw http.ResponseWriter, _ *http.Request, _ got) {
		if !up.Load() {
			rw.WriteHeader(http.StatusBadGateway)
		}
	}, func(w *world, r *receiver, h view) {
		began := time.Now()
		messages := 0
		more := func() {
			w.message("c", life()...)
			messages++
		}
		for range 11 {
			more()
			rest(time.Hour)
		}
		v := w.show(h.ID)
		if v.Status != "enabled" || v.FailingSince == "" || v.Parked > 20 {
			t.Fatalf("after 11 hours: %+v", v)
		}
		if failed := r.requests(); len(failed) > 11*12 {
			t.Errorf("%d requests to an endpoint that is down", len(failed))
		}
		w.restart() // which does not begin the time anew
		rest(2 * time.Hour)
		v = w.show(h.ID)
		if v.Status != "disabled" || v.DisabledReason != reasonFailing {
			t.Fatalf("after 13 hours: %+v", v)
		}
		at, err := time.Parse(time.RFC3339, v.DisabledAt)
		if err != nil || at.Sub(began) < 12*time.Hour {
			t.Errorf("disabled after %s, %v", at.Sub(began), err)
		}
		entries, err := w.store.Audited(w.Context(), store.AuditQuery{Action: "webhook.disable", Limit: 10})
		if err != nil || len(entries) != 1 || !strings.Contains(string(entries[0].Detail), `"reason":"failing"`) {
			t.Errorf("audit log: %+v, %v", entries, err)
		}
		calls := len(r.requests())
		more()
		rest(6 * time.Hour)
		if n := len(r.requests()); n != calls {
			t.Errorf("%d requests to a disabled endpoint", n-calls)
		}
		up.Store(true)
		w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/enable", "", nil)
		rest(time.Minute)
		seen := map[string]bool{}
		for _, g := range r.requests()[calls:] {
			seen[g.events[0].ID] = true
		}
		if len(seen) != 3*messages || w.show(h.ID).Parked != 0 {
			t.Errorf("%d events of %d, %d parked", len(seen), 3*messages, w.show(h.ID).Parked)
		}
		inOrder(t, r)
	}, func(o *Options) { o.DisableAfter = 12 * time.Hour })
}

// TestRetryAfter: an endpoint that asks for time gets it, over a restart too, and nothing counts as lost.
func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		code int
		wait func() string
	}{
		{http.StatusTooManyRequests, func() string { return "600" }},
		{http.StatusServiceUnavailable, func() string { return "600" }},
		{http.StatusTooManyRequests, func() string { return time.Now().Add(600 * time.Second).UTC().Format(http.TimeFormat) }},
	} {
		days(t, func(n int, rw http.ResponseWriter, _ *http.Request, _ got) {
			if n <= 2 {
				rw.Header().Set("Retry-After", test.wait())
				rw.WriteHeader(test.code)
			}
		}, func(w *world, r *receiver, h view) {
			w.message("c", life()...)
			rest(time.Second)
			w.message("c", life()...)
			rest(5 * time.Minute)
			v := w.show(h.ID)
			if n := len(r.requests()); n != 1 || v.ResumeAt == "" || v.Parked != 0 || w.log(h.ID)[0].Outcome != outcomeDeferred {
				t.Fatalf("%d requests, %+v, %+v", n, v, w.log(h.ID))
			}
			w.restart()
			rest(5 * time.Minute)
			if n := len(r.requests()); n != 2 {
				t.Fatalf("%d requests after ten minutes", n)
			}
			rest(11 * time.Minute)
			all := r.requests()
			if len(all) != 8 {
				t.Fatalf("%d requests", len(all))
			}
			for i := 1; i < 3; i++ {
				if wait := all[i].at.Sub(all[i-1].at); wait < 599*time.Second || wait > 602*time.Second {
					t.Errorf("request %d after %s", i+1, wait)
				}
			}
			if v := w.show(h.ID); v.ResumeAt != "" || v.FailingSince != "" {
				t.Errorf("webhook: %+v", v)
			}
			inOrder(t, r)
		})
	}
}

// TestBreaker: an endpoint that is down is left alone, tried now and then, and gets everything soon after
// it is up.
func TestBreaker(t *testing.T) {
	var up atomic.Bool
	days(t, func(_ int, rw http.ResponseWriter, _ *http.Request, _ got) {
		if !up.Load() {
			panic(http.ErrAbortHandler)
		}
	}, func(w *world, r *receiver, h view) {
		for range 60 {
			w.messages("c", 10, life()...)
			rest(time.Minute)
		}
		down := len(r.requests())
		if down > 40 {
			t.Errorf("%d requests in an hour to an endpoint that is down", down)
		}
		if v := w.show(h.ID); v.Parked > 15 { // five messages of three events
			t.Errorf("%d events parked for an endpoint that is down", v.Parked)
		}
		up.Store(true)
		rest(12 * time.Minute)
		seen := map[string]bool{}
		for _, g := range r.requests()[down:] {
			seen[g.events[0].ID] = true
		}
		if len(seen) != 1800 || w.show(h.ID).Parked != 0 {
			t.Errorf("%d events of 1800, %d parked", len(seen), w.show(h.ID).Parked)
		}
		inOrder(t, r)
	})
}

// TestForgottenEvents: when the retention has taken events that were not posted, posting goes on with those
// that are left, and says so.
func TestForgottenEvents(t *testing.T) {
	days(t, nil, func(w *world, r *receiver, h view) {
		w.ask(http.MethodPatch, "/v1/webhooks/"+h.ID, `{"enabled":false}`, nil)
		rest(time.Second)
		w.message("c", life()...)
		w.message("c", life()...)
		rest(3 * time.Hour)
		id := w.message("c", life()...)
		w.message("c", life()...)
		for more := true; more; {
			p, err := w.store.Prune(w.Context(), store.Cutoffs{Events: time.Now().Add(-w.opts.Retention)})
			if err != nil {
				t.Fatal(err)
			}
			more = p.More
		}
		if _, err := w.call("c", http.MethodPost, "/v1/webhooks/"+h.ID+"/replay", `{"cursor":"`+h.Cursor+`"}`); codeOf(err) != "cursor_expired" {
			t.Errorf("replay of what is gone: %v", err)
		}
		w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/enable", "", nil)
		rest(time.Minute)
		if all := r.requests(); len(all) != 6 || all[0].events[0].Data.ID != id.String() && all[3].events[0].Data.ID != id.String() {
			t.Errorf("%d requests", len(all))
		}
		v := w.show(h.ID)
		entries, err := w.store.Audited(w.Context(), store.AuditQuery{Action: "webhook.events_lost", Limit: 10})
		if err != nil || len(entries) != 1 || v.LostAt == "" {
			t.Errorf("%+v, audit log: %+v, %v", v, entries, err)
		}
	}, func(o *Options) { o.Retention = 2 * time.Hour })
}
