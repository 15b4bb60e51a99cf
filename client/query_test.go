package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

func details(id string, statuses ...client.Status) client.Details {
	d := client.Details{ID: id, To: "amina", Status: statuses[len(statuses)-1]}
	for i, s := range statuses {
		d.Timeline = append(d.Timeline, client.Transition{Seq: uint32(i + 1), Status: s})
	}
	return d
}

func TestMessageIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			refuse(w, client.Problem{Status: 404, Code: "not_found", Permanent: true})
		})
		_, err := c.Message(t.Context(), "a/b")
		var p *client.Problem
		if !errors.As(err, &p) || p.Status != 404 {
			t.Errorf("error %v, want a 404", err)
		}
		if r := s.requests()[0]; r.Method != "GET" || r.Path != "/base/v1/messages/a/b" {
			t.Errorf("request %s %s", r.Method, r.Path)
		}
	})
}

func TestMessagesGoesThroughThePages(t *testing.T) {
	pages := map[string]map[string]any{
		"":   {"messages": []client.Details{details("5", "read"), details("4", "sent")}, "next_cursor": "c1"},
		"c1": {"messages": []client.Details{}, "next_cursor": "c2"},
		"c2": {"messages": []client.Details{details("3", "queued")}},
	}
	script := func(_ int, w http.ResponseWriter, r request) {
		q, _ := url.ParseQuery(r.Query)
		answer(w, http.StatusOK, pages[q.Get("cursor")])
	}
	query := client.Query{
		To: "+962 7", Status: client.StatusSent, PageSize: 2,
		From: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC),
	}
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, script)
		var ids []string
		for d, err := range c.Messages(t.Context(), query) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, d.ID)
		}
		if !slices.Equal(ids, []string{"5", "4", "3"}) {
			t.Errorf("messages %v", ids)
		}
		const want = "cursor=c1&from=2026-11-24T00%3A00%3A00Z&limit=2&status=sent&to=%2B962+7&until=2026-11-25T00%3A00%3A00Z"
		if got := s.requests()[1].Query; got != want {
			t.Errorf("query %s, want %s", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, script)
		for range c.Messages(t.Context(), query) {
			break
		}
		if n := len(s.requests()); n != 1 {
			t.Errorf("a loop that stops early fetched %d pages", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(n int, w http.ResponseWriter, r request) {
			if n == 2 {
				refuse(w, client.Problem{Status: 400, Code: "bad_cursor", Permanent: true})
				return
			}
			script(n, w, r)
		})
		var count int
		var last error
		for _, err := range c.Messages(t.Context(), query) {
			count, last = count+1, err
		}
		var p *client.Problem
		if count != 3 || !errors.As(last, &p) {
			t.Errorf("%d steps, the last with %v; want 2 messages and the error", count, last)
		}
	})
}

func TestWait(t *testing.T) {
	// The message's life, one status a look.
	life := []client.Status{"accepted", "queued", "sent", "delivered", "read"}
	living := func(n int, w http.ResponseWriter, _ request) {
		answer(w, http.StatusOK, details("id-1", life[:min(n, len(life))]...))
	}
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, living)
		if d, err := c.Wait(t.Context(), "id-1", client.StatusDelivered); err != nil || d.Status != client.StatusDelivered {
			t.Errorf("%s, %v", d.Status, err)
		}
		if d, err := c.Wait(t.Context(), "id-1", client.StatusRead); err != nil || d.Status != client.StatusRead {
			t.Errorf("%s, %v", d.Status, err)
		}
		if d, err := c.Wait(t.Context(), "id-1", client.StatusSent); err != nil || !d.Reached(client.StatusSent) {
			t.Errorf("a status that has passed: %s, %v", d.Status, err)
		}
		if n := len(s.requests()); n != 6 {
			t.Errorf("%d looks, want 6", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			answer(w, http.StatusOK, details("id-1", "accepted", "queued", "expired"))
		})
		d, err := c.Wait(t.Context(), "id-1", client.StatusDelivered)
		if !errors.Is(err, client.ErrNotReached) || d.Status != client.StatusExpired {
			t.Errorf("%s, %v; want expired and ErrNotReached", d.Status, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			answer(w, http.StatusOK, details("id-1", "accepted", "queued"))
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		d, err := c.Wait(ctx, "id-1", client.StatusDelivered)
		if !errors.Is(err, context.DeadlineExceeded) || d.Status != client.StatusQueued {
			t.Errorf("%s, %v; want queued and the deadline", d.Status, err)
		}
	})
}
