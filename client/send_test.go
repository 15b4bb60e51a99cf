package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar/client"
)

func TestSendAsksForWhatTheAPISpells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(_ int, w http.ResponseWriter, _ request) { accepted(w, "id-1") })
		got, err := c.Send(t.Context(), client.Message{
			To: "amina", Data: map[string]int{"order": 7}, Type: "order", Metadata: map[string]string{"k": "v"},
			TTL: 1500 * time.Millisecond, SendAt: time.Date(2026, 12, 1, 8, 0, 0, 0, time.FixedZone("", 3*3600)),
		})
		if err != nil {
			t.Fatal(err)
		}
		want := client.Receipt{
			ID: "id-1", Status: client.StatusAccepted, To: "amina",
			AcceptedAt:     time.Date(2026, 11, 24, 20, 0, 0, 5e8, time.UTC),
			IdempotencyKey: got.IdempotencyKey,
		}
		if got != want {
			t.Errorf("receipt %+v, want %+v", got, want)
		}
		r := s.requests()[0]
		const body = `{"to":"amina","data":{"order":7},"type":"order","metadata":{"k":"v"},"ttl":2,"send_at":"2026-12-01T05:00:00Z"}`
		if string(r.Body) != body {
			t.Errorf("body %s, want %s", r.Body, body)
		}
		if r.Method != "POST" || r.Path != "/base/v1/messages" || r.Auth != "Bearer esh_key" {
			t.Errorf("request %s %s with %q", r.Method, r.Path, r.Auth)
		}
		if id, err := uuid.Parse(r.Key); err != nil || id.Version() != 7 || r.Key != got.IdempotencyKey {
			t.Errorf("idempotency key %q is not the UUIDv7 of the receipt, %q", r.Key, got.IdempotencyKey)
		}
	})
}

func TestSendRepeatsWithTheSameKey(t *testing.T) {
	failures := map[string]func(http.ResponseWriter){
		"overload":        func(w http.ResponseWriter) { refuse(w, client.Problem{Status: 503, Code: "overloaded"}) },
		"own limit":       func(w http.ResponseWriter) { refuse(w, client.Problem{Status: 429, Code: "rate_limited"}) },
		"disk reserve":    func(w http.ResponseWriter) { refuse(w, client.Problem{Status: 507}) },
		"outcome unknown": func(w http.ResponseWriter) { refuse(w, client.Problem{Status: 503, Code: "outcome_unknown"}) },
		"proxy":           func(w http.ResponseWriter) { http.Error(w, "<html>", http.StatusBadGateway) },
		"broken":          hangUp,
	}
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := serve(t, func(n int, w http.ResponseWriter, _ request) {
					if n < 4 {
						fail(w)
						return
					}
					accepted(w, "id-1")
				})
				if _, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"}); err != nil {
					t.Fatal(err)
				}
				seen := s.requests()
				if len(seen) != 4 {
					t.Fatalf("%d requests, want 4", len(seen))
				}
				for _, r := range seen {
					if r.Key == "" || r.Key != seen[0].Key || string(r.Body) != string(seen[0].Body) {
						t.Errorf("a repetition differs: key %q body %s", r.Key, r.Body)
					}
				}
			})
		})
	}
}

func TestSendHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		_, c := serve(t, func(n int, w http.ResponseWriter, _ request) {
			times = append(times, time.Now())
			switch n {
			case 1:
				w.Header().Set("Retry-After", "7")
				refuse(w, client.Problem{Status: 503})
			case 2:
				w.Header().Set("Retry-After", time.Now().Add(5*time.Second).UTC().Format(http.TimeFormat))
				refuse(w, client.Problem{Status: 429})
			default:
				accepted(w, "id-1")
			}
		})
		if _, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"}); err != nil {
			t.Fatal(err)
		}
		// The date has no fraction of a second, so it may ask for up to a second less.
		if first, second := times[1].Sub(times[0]), times[2].Sub(times[1]); first < 7*time.Second || second < 4*time.Second {
			t.Errorf("waited %v and %v, want at least 7 s and 4 s", first, second)
		}
	})
}

func TestSendDoesNotRepeatWhatIsRefusedForGood(t *testing.T) {
	refusal := client.Problem{
		Type: "https://esh3ar.dev/problems/invalid", Title: "Invalid request", Status: 400, Code: "invalid",
		Detail: "the request has 1 fault", Permanent: true,
		Errors: []client.FieldError{{Pointer: "/to", Code: "recipient_empty", Detail: "the recipient is empty"}},
	}
	for _, status := range []int{400, 401, 403, 404, 409, 413, 415, 422} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := refusal
				p.Status = status
				s, c := serve(t, func(_ int, w http.ResponseWriter, _ request) { refuse(w, p) })
				_, err := c.Send(t.Context(), client.Message{Content: "hello"})
				var got *client.Problem
				if !errors.As(err, &got) {
					t.Fatalf("error %v is not a problem", err)
				}
				if got.Status != status || got.Code != p.Code || got.Detail != p.Detail || !got.Permanent ||
					len(got.Errors) != 1 || got.Errors[0] != p.Errors[0] {
					t.Errorf("problem %+v, want %+v", got, p)
				}
				var send *client.SendError
				if !errors.As(err, &send) || send.Unknown || send.Attempts != 1 || send.IdempotencyKey == "" {
					t.Errorf("error %+v should say: surely not accepted, one attempt", send)
				}
				if n := len(s.requests()); n != 1 {
					t.Errorf("%d requests, want 1", n)
				}
			})
		})
	}
}

func TestSendGivesUpAtOnceWhenTheDeadlineComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			w.Header().Set("Retry-After", "10")
			refuse(w, client.Problem{Status: 503, Code: "overloaded"})
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Send(ctx, client.Message{To: "amina", Content: "hello"})
		var p *client.Problem
		if !errors.As(err, &p) || p.RetryAfter != 10*time.Second {
			t.Errorf("error %v, want the server's with its 10 s", err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("gave up after %v, want at once", d)
		}
	})
}

func TestSendIsBoundedByItsPolicy(t *testing.T) {
	down := func(_ int, w http.ResponseWriter, _ request) { refuse(w, client.Problem{Status: 503}) }
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, down, client.WithRetry(client.RetryPolicy{Attempts: 3, Base: time.Second, Max: time.Second}))
		_, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"})
		var send *client.SendError
		if !errors.As(err, &send) || send.Attempts != 3 || len(s.requests()) != 3 {
			t.Errorf("error %v after %d requests, want 3 attempts", err, len(s.requests()))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, down)
		start := time.Now()
		_, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"})
		if d := time.Since(start); err == nil || d > time.Minute || d < 50*time.Second {
			t.Errorf("gave up after %v with %v, want nearly the default minute", d, err)
		}
		// With waits of 2.5 s on average a minute holds some twenty; a storm would be far more.
		if n := len(s.requests()); n < 8 || n > 80 {
			t.Errorf("%d requests in a minute", n)
		}
	})
}

func TestSendSaysWhenTheOutcomeIsUnknown(t *testing.T) {
	once := client.WithRetry(client.RetryPolicy{Attempts: 2})
	for name, script := range map[string]func(n int, w http.ResponseWriter){
		"said by the server": func(_ int, w http.ResponseWriter) { refuse(w, client.Problem{Status: 503, Code: "outcome_unknown"}) },
		"broken, then overload": func(n int, w http.ResponseWriter) {
			if n == 1 {
				hangUp(w)
			}
			refuse(w, client.Problem{Status: 503})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, c := serve(t, func(n int, w http.ResponseWriter, _ request) { script(n, w) }, once)
				_, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"})
				var send *client.SendError
				if !errors.As(err, &send) || !send.Unknown {
					t.Errorf("error %v does not say that the outcome is unknown", err)
				}
			})
		})
	}
}

func TestSendTimesOutAnAttemptThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		_, c := serve(t, func(n int, w http.ResponseWriter, _ request) {
			if n == 1 {
				<-release
			}
			accepted(w, "id-1")
		})
		defer close(release)
		start := time.Now()
		if _, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 20*time.Second || d > 21*time.Second {
			t.Errorf("took %v, want one attempt's 20 s and a short wait", d)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			answer(w, http.StatusAccepted, strings.Repeat("x", 1<<20))
		})
		if _, err := c.Send(t.Context(), client.Message{To: "amina", Content: "hello"}); err == nil || !strings.Contains(err.Error(), "longer") {
			t.Errorf("error %v, want one about the length", err)
		}
	})
}

// batchServer accepts every message of a batch but those for which refusal returns a problem.
func batchServer(t *testing.T, refusal func(n int, to string) *client.Problem) func(int, http.ResponseWriter, request) {
	return func(n int, w http.ResponseWriter, r request) {
		var in struct {
			Messages []struct {
				To  string `json:"to"`
				Key string `json:"idempotency_key"`
			} `json:"messages"`
		}
		if err := json.Unmarshal(r.Body, &in); err != nil {
			t.Errorf("the batch does not decode: %v", err)
		}
		results := []any{}
		for _, m := range in.Messages {
			if m.Key == "" {
				t.Errorf("the message to %s has no key", m.To)
			}
			if p := refusal(n, m.To); p != nil {
				results = append(results, map[string]any{"status": p.Status, "problem": p})
				continue
			}
			results = append(results, map[string]any{"id": "id-of-" + m.To, "status": 202, "to": m.To})
		}
		answer(w, http.StatusOK, map[string]any{"results": results})
	}
}

func TestSendBatchRepeatsOnlyWhatMaySucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, batchServer(t, func(n int, to string) *client.Problem {
			switch {
			case to == "bad":
				return &client.Problem{Status: 400, Code: "recipient_bad", Permanent: true}
			case to == "later" && n < 3:
				return &client.Problem{Status: 503, Code: "overloaded"}
			}
			return nil
		}))
		got, err := c.SendBatch(t.Context(), []client.Message{
			{To: "one", Content: "1"}, {To: "bad", Content: "2"}, {To: "later", Content: "3"},
		})
		if err == nil || !strings.Contains(err.Error(), "1 of 3") {
			t.Errorf("error %v, want one about 1 of 3", err)
		}
		if got[0].Receipt.ID != "id-of-one" || got[0].Err != nil || got[2].Receipt.ID != "id-of-later" || got[2].Err != nil {
			t.Errorf("results %+v", got)
		}
		var send *client.SendError
		var p *client.Problem
		if !errors.As(got[1].Err, &send) || send.Unknown || !errors.As(got[1].Err, &p) || p.Code != "recipient_bad" {
			t.Errorf("the bad message's error is %v", got[1].Err)
		}
		var sizes []int
		for _, r := range s.requests() {
			sizes = append(sizes, strings.Count(string(r.Body), `"to"`))
		}
		if !slices.Equal(sizes, []int{3, 1, 1}) {
			t.Errorf("requests of %v messages, want 3, 1, 1", sizes)
		}
	})
}

func TestSendBatchSplitsWhatIsTooMuchForOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, batchServer(t, func(int, string) *client.Problem { return nil }))
		msgs := make([]client.Message, 2300)
		for i := range msgs {
			msgs[i] = client.Message{To: fmt.Sprint(i), Content: "hello"}
		}
		msgs[0].Content = strings.Repeat("x", 8<<20-2000)
		got, err := c.SendBatch(t.Context(), msgs)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i].Receipt.ID != fmt.Sprintf("id-of-%d", i) {
				t.Fatalf("result %d is %+v", i, got[i])
			}
		}
		for _, r := range s.requests() {
			if len(r.Body) > 8<<20 || strings.Count(string(r.Body), `"to"`) > 1000 {
				t.Errorf("a request of %d bytes with %d messages", len(r.Body), strings.Count(string(r.Body), `"to"`))
			}
		}
		if n := len(s.requests()); n != 4 {
			t.Errorf("%d requests, want 4", n)
		}
	})
}

func TestSendBatchWhenTheServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := serve(t, func(_ int, w http.ResponseWriter, _ request) { hangUp(w) },
			client.WithRetry(client.RetryPolicy{Attempts: 2}))
		got, err := c.SendBatch(t.Context(), []client.Message{{To: "a", Content: "1"}, {To: "b", Content: "2", IdempotencyKey: "mine"}})
		if err == nil {
			t.Fatal("no error")
		}
		for i, want := range []string{"", "mine"} {
			var send *client.SendError
			if !errors.As(got[i].Err, &send) || !send.Unknown || send.Attempts != 2 || want != "" && send.IdempotencyKey != want {
				t.Errorf("result %d: %+v", i, got[i])
			}
		}
	})
}

func TestRecipientToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := serve(t, func(_ int, w http.ResponseWriter, _ request) {
			answer(w, http.StatusCreated, map[string]string{"token": "a.b.c", "expires_at": "2026-11-25T00:00:00Z"})
		})
		got, err := c.RecipientToken(t.Context(), "amina", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		want := client.RecipientToken{Token: "a.b.c", ExpiresAt: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)}
		if got != want {
			t.Errorf("token %+v, want %+v", got, want)
		}
		if body := string(s.requests()[0].Body); body != `{"sub":"amina","ttl":3600}` {
			t.Errorf("body %s", body)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for _, tc := range []struct{ url, key string }{
		{"", "k"}, {"localhost:8080", "k"}, {"ftp://host", "k"}, {"http://", "k"}, {"http://host?x=1", "k"},
		{"http://host", ""}, {"http://host", "two words"}, {"http://host", "line\n"},
	} {
		if _, err := client.New(tc.url, tc.key); err == nil {
			t.Errorf("New(%q, %q) made a client", tc.url, tc.key)
		}
	}
	if _, err := client.New("http://host", "k", client.WithRetry(client.RetryPolicy{Base: -1})); err == nil {
		t.Error("a negative policy was taken")
	}
}
