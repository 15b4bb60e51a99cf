package client_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

func dead(id string) map[string]any {
	return map[string]any{"id": id, "status": "undelivered", "to": "amina", "reason": "attempts_exhausted", "undelivered_at": "2026-11-24T20:00:00Z"}
}

func TestDeadLettersGoesThroughThePages(t *testing.T) {
	pages := map[string]map[string]any{
		"":   {"dead_letters": []any{dead("3")}, "next_cursor": "c1"},
		"c1": {"dead_letters": []any{}, "next_cursor": "c2"},
		"c2": {"dead_letters": []any{dead("2"), dead("1")}},
	}
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(_ int, w http.ResponseWriter, r request) {
			q, _ := url.ParseQuery(r.Query)
			answer(w, http.StatusOK, pages[q.Get("cursor")])
		})
		var ids []string
		for d, err := range c.DeadLetters(t.Context(), client.DeadLetterQuery{
			To: "amina", Type: "bill", Reason: "attempts_exhausted", PageSize: 2, From: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
		}) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Reason != "attempts_exhausted" || d.UndeliveredAt.IsZero() || d.Status != client.StatusUndelivered {
				t.Errorf("dead letter %+v", d)
			}
			ids = append(ids, d.ID)
		}
		if !slices.Equal(ids, []string{"3", "2", "1"}) {
			t.Errorf("dead letters %v", ids)
		}
		const want = "cursor=c1&from=2026-11-24T00%3A00%3A00Z&limit=2&reason=attempts_exhausted&to=amina&type=bill"
		if r := s.requests()[1]; r.Query != want || r.Method != "GET" || r.Path != "/base/v1/dead-letters" {
			t.Errorf("request %s %s?%s, want the query %s", r.Method, r.Path, r.Query, want)
		}
	})
}

func TestReplayAllAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(n int, w http.ResponseWriter, _ request) {
			switch n {
			case 1:
				answer(w, http.StatusOK, map[string]any{"replayed": 3, "skipped": 1, "next_cursor": "c1"})
			case 2:
				refuse(w, client.Problem{Status: 503, Code: "store_unavailable"})
			default:
				answer(w, http.StatusOK, map[string]any{"replayed": 2, "skipped": 0})
			}
		})
		got, err := c.ReplayAll(t.Context(), client.DeadLetterQuery{Type: "bill"})
		if err != nil || got != (client.Replayed{Replayed: 5, Skipped: 1}) {
			t.Errorf("%+v, %v", got, err)
		}
		if r := s.requests()[2]; r.Method != "POST" || r.Path != "/base/v1/dead-letters/replay" || r.Query != "cursor=c1&type=bill" {
			t.Errorf("request %s %s?%s", r.Method, r.Path, r.Query)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(n int, w http.ResponseWriter, _ request) {
			if n == 1 {
				answer(w, http.StatusOK, map[string]any{"replayed": 3, "skipped": 0, "next_cursor": "c1"})
				return
			}
			refuse(w, client.Problem{Status: 400, Code: "bad_cursor", Permanent: true})
		})
		got, err := c.ReplayAll(t.Context(), client.DeadLetterQuery{})
		var p *client.Problem
		if !errors.As(err, &p) || got.Replayed != 3 {
			t.Errorf("%+v, %v; want what was done and the problem", got, err)
		}
	})
}

func TestChangesOfOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(n int, w http.ResponseWriter, _ request) {
			switch n {
			case 1:
				answer(w, http.StatusOK, details("7", client.StatusQueued, client.StatusCanceled))
			case 2:
				answer(w, http.StatusOK, details("7", client.StatusUndelivered, client.StatusQueued))
			case 3:
				answer(w, http.StatusOK, details("7", client.StatusUndelivered))
			default:
				refuse(w, client.Problem{Status: 409, Code: client.CodeInFlight})
			}
		})
		if d, err := c.Cancel(t.Context(), "7"); err != nil || d.Status != client.StatusCanceled {
			t.Errorf("cancel: %+v, %v", d, err)
		}
		if d, err := c.Replay(t.Context(), "7"); err != nil || d.Status != client.StatusQueued {
			t.Errorf("replay: %+v, %v", d, err)
		}
		if d, err := c.Discard(t.Context(), "7", "wrong number"); err != nil || d.Status != client.StatusUndelivered {
			t.Errorf("discard: %+v, %v", d, err)
		}
		_, err := c.Cancel(t.Context(), "7")
		var p *client.Problem
		if !errors.As(err, &p) || p.Code != client.CodeInFlight {
			t.Errorf("a refusal: %v", err)
		}
		for i, want := range []string{"DELETE /base/v1/messages/7 ", "POST /base/v1/dead-letters/7/replay ", `POST /base/v1/dead-letters/7/discard {"reason":"wrong number"}`} {
			if r := s.requests()[i]; r.Method+" "+r.Path+" "+string(r.Body) != want {
				t.Errorf("request %d: %s %s %s, want %s", i, r.Method, r.Path, r.Body, want)
			}
		}
	})
}
