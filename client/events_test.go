package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// tell writes the events with these numbers to a stream, or only the place if there are none.
func tell(w http.ResponseWriter, numbers ...int) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, "retry: 1000\nid: c0\n\n")
	for _, n := range numbers {
		fmt.Fprintf(w, ": comment\nid: c%d\nevent: message.delivered\ndata: {\"id\":\"c%d\",\"type\":\"message.delivered\",\n"+
			"data: \"time\":\"2026-11-24T20:00:00Z\",\"data\":{\"id\":\"m%d\",\"to\":\"amina\",\"status\":\"delivered\",\"status_seq\":4,\"attempt\":1}}\n\n", n, n, n)
	}
	w.(http.Flusher).Flush()
}

func TestEventsGoOnBehindTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(n int, w http.ResponseWriter, r request) {
			switch n {
			case 1:
				tell(w, 1, 2) // and the end
			case 2:
				tell(w, 3)
				fmt.Fprint(w, "id: c4\nevent: message.delivered\ndata: {\"id\":") // cut off
				hangUp(w)
			case 3:
				refuse(w, client.Problem{Status: 503, Code: "stopping"})
			case 4:
				tell(w)
				time.Sleep(time.Minute) // a connection that is lost without a word
			default:
				tell(w, 4, 5)
			}
		})
		var got []string
		for e, err := range c.Events(t.Context(), client.EventQuery{FromStart: true, Statuses: []client.Status{"delivered", "read"}}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Type != "message.delivered" || e.Data.Status != client.StatusDelivered || e.Data.Seq != 4 || e.Data.Attempt != 1 || e.Data.To != "amina" || e.Time.IsZero() {
				t.Errorf("%+v", e)
			}
			if got = append(got, e.ID+e.Data.ID); len(got) == 5 {
				break
			}
		}
		time.Sleep(time.Minute) // until the handler of the lost connection has ended
		if !slices.Equal(got, []string{"c1m1", "c2m2", "c3m3", "c4m4", "c5m5"}) {
			t.Errorf("events %v", got)
		}
		var cursors []string
		for _, r := range s.requests() {
			q, _, _ := strings.Cut(r.Query, "&")
			cursors = append(cursors, q)
		}
		// The fourth stream said that c0 is where it is.
		if want := []string{"from=start", "cursor=c2", "cursor=c3", "cursor=c3", "cursor=c0"}; !slices.Equal(cursors, want) {
			t.Errorf("asked from %v, want %v", cursors, want)
		}
		if q := s.requests()[1].Query; q != "cursor=c2&status=delivered%2Cread" {
			t.Errorf("query %s", q)
		}
	})
}

func TestEventsEnd(t *testing.T) {
	gone := client.Problem{Status: 410, Code: "cursor_expired", Permanent: true, OldestCursor: "c9"}
	for name, script := range map[string]func(int, http.ResponseWriter, request){
		"refused": func(_ int, w http.ResponseWriter, _ request) { refuse(w, gone) },
		"in mid-stream": func(_ int, w http.ResponseWriter, _ request) {
			tell(w, 1)
			fmt.Fprint(w, "event: problem\ndata: {\"status\":410,\"code\":\"cursor_expired\",\"permanent\":true,\"oldest_cursor\":\"c9\"}\n\n")
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, c := serve(t, script)
			var last error
			for _, err := range c.Events(t.Context(), client.EventQuery{Cursor: "c1"}) {
				last = err
			}
			var p *client.Problem
			if !errors.As(last, &p) || p.Status != 410 || p.OldestCursor != "c9" {
				t.Errorf("%s: %v", name, last)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			answer(w, http.StatusOK, client.EventPage{Next: "c1"})
		})
		for _, err := range c.Events(t.Context(), client.EventQuery{}) {
			if err == nil || !strings.Contains(err.Error(), "no stream") {
				t.Errorf("a server without streams: %v", err)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) { hangUp(w) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for e, err := range c.Events(ctx, client.EventQuery{}) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

func TestEventPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			answer(w, http.StatusOK, client.EventPage{Events: []client.Event{{ID: "c1"}}, Next: "c1", More: true})
		})
		p, err := c.EventPage(t.Context(), client.EventQuery{Cursor: "c0"}, 7)
		if err != nil || len(p.Events) != 1 || p.Next != "c1" || !p.More {
			t.Errorf("%+v, %v", p, err)
		}
		if r := s.requests()[0]; r.Path != "/base/v1/events" || r.Query != "cursor=c0&limit=7" || r.Auth != "Bearer esh_key" {
			t.Errorf("%+v", r)
		}
	})
}
