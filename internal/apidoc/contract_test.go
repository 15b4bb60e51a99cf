package apidoc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/internal/node"
	"github.com/esh3artech/esh3ar/internal/notify"
)

// notProvoked are the problems that no request brings about by itself, everywhere or in one answer, with what it
// takes. Other tests do.
var notProvoked = map[string]string{
	"internal":                          "a defect",
	"overloaded":                        "more load than the machine can take",
	"journal_unavailable":               "a journal that fails",
	"outcome_unknown":                   "a sync or a transaction that takes too long",
	"store_unavailable":                 "a store that does not answer",
	"message_not_stored_yet":            "a store that is behind",
	"api_key_not_checked":               "a store that does not answer",
	"timeout":                           "a store that is slow",
	"stopping":                          "a server that stops",
	"shard_moving":                      "several servers",
	"message_changing":                  "a race of several requests about one dead letter",
	"payload_unavailable":               "a store that refuses a payload for good",
	"GET /v1/events 410 cursor_expired": "a retention that has passed",
	"tokens_not_minted_here":            "an identity provider",
	"changed_meanwhile":                 "a race of several changes of one webhook",
	"busy":                              "a race of several changes of one client",
	"too_many_tests":                    "many webhooks that are tested at one time",
	"invalid":                           "a field that is read by what knows no codes",
	"already_subscribed":                "a subscription of the business hub, which is no HTTP request",
	"token_claims":                      "a token of a kind that the library refuses for another reason",
}

// TestContract calls every operation of the description on a real server, provokes every problem that a
// request can provoke, and holds each answer against the description: status, header fields and schema.
func TestContract(t *testing.T) {
	s := start(t, func(c *node.Config) {
		c.AckTimeout, c.MaxAttempts, c.BreakerStrikes = time.Second, 1, 0
		c.HeaderTimeout, c.BodyTimeout = 500*time.Millisecond, 100*time.Millisecond
		c.AllowedOrigins, c.WebhookAllow = []string{"https://a.example"}, []string{"127.0.0.0/8"}
	})
	for name, scenario := range map[string]func(*service){
		"messages": sending, "batches": sendingMany, "lists": listing, "life of a message": life, "dead letters": dying,
		"events": following, "tokens": minting, "hubs": hubs, "keys": keysRefused, "operations": operating, "limits": overLimits, "no room": noRoom,
		"webhooks": hooking, "administration": administering,
	} {
		t.Run(name, func(t *testing.T) {
			one := *s
			one.T = t
			scenario(&one)
		})
	}
	s.covered()
}

// covered fails the test for every described answer that was not seen, unless it says why.
func (s *service) covered() {
	s.Helper()
	all := make(map[key]bool)
	for _, o := range s.spec.operations() {
		for name, codes := range s.spec.responses(o) {
			for _, code := range codes {
				all[key{name, code}] = true
			}
		}
	}
	provoked := make(map[string]bool)
	for k := range s.spec.seen {
		provoked[k.code], provoked[k.response+" "+k.code] = true, true
	}
	for name, why := range notProvoked {
		if _, ok := s.problems[name[strings.LastIndexByte(name, ' ')+1:]]; !ok || provoked[name] {
			s.Errorf("%s is said to take %s; it is provoked, or unknown", name, why)
		}
	}
	var missed []string
	for k := range all {
		if notProvoked[k.code] == "" && notProvoked[k.response+" "+k.code] == "" && !s.spec.seen[k] && !unseen(k) {
			missed = append(missed, fmt.Sprintf("%s %s", k.response, k.code))
		}
	}
	slices.Sort(missed)
	for _, m := range missed {
		s.Errorf("described and never answered: %s", m)
	}
}

// unseen names answers of hubs that take a connection in some state; the tests of signalr have them.
func unseen(k key) bool {
	if k.code != "" {
		return false
	}
	for _, name := range []string{"HubBusy", "HubConflict", "HubTooLarge", "HubUnknown", "HubInvalid", " 101", " /readyz 503"} {
		if strings.HasSuffix(k.response, name) || strings.Contains(k.response, "/hubs/") && !strings.Contains(k.response, "negotiate") {
			return true
		}
	}
	return strings.HasSuffix(k.response, "/readyz 503")
}

// wrongMessages are bodies of a message, each wrong in one way.
var wrongMessages = map[string]string{
	"malformed_json":                 `{"to":"a"`,
	"invalid_utf8":                   "{\"to\":\"\xff\",\"content\":\"x\"}",
	"too_deep":                       `{"to":"a","data":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`,
	"not_an_object":                  `[]`,
	"wrong_type":                     `{"to":1,"content":"x"}`,
	"unknown_field":                  `{"to":"a","content":"x","subject":"y"}`,
	"duplicate_field":                `{"to":"a","to":"a","content":"x"}`,
	"invalid_fields":                 `{"to":"","content":"x","ttl":0}`,
	"recipient_missing":              `{"content":"x"}`,
	"recipient_empty":                `{"to":" ","content":"x"}`,
	"recipient_too_long":             `{"to":"` + strings.Repeat("a", 129) + `","content":"x"}`,
	"recipient_control_character":    `{"to":"a\u0001b","content":"x"}`,
	"recipient_bad_phone":            `{"to":"+12","content":"x"}`,
	"body_missing":                   `{"to":"a"}`,
	"content_and_data":               `{"to":"a","content":"x","data":1}`,
	"content_empty":                  `{"to":"a","content":""}`,
	"type_too_long":                  `{"to":"a","content":"x","type":"` + strings.Repeat("t", 65) + `"}`,
	"type_control_character":         `{"to":"a","content":"x","type":"\n"}`,
	"metadata_too_many":              `{"to":"a","content":"x","metadata":{` + entries(33) + `}}`,
	"metadata_key_length":            `{"to":"a","content":"x","metadata":{"":"y"}}`,
	"metadata_key_control_character": `{"to":"a","content":"x","metadata":{"\n":"y"}}`,
	"metadata_value_too_long":        `{"to":"a","content":"x","metadata":{"k":"` + strings.Repeat("v", 513) + `"}}`,
	"metadata_value_nul":             `{"to":"a","content":"x","metadata":{"k":"\u0000"}}`,
	"not_whole_seconds":              `{"to":"a","content":"x","ttl":1.5}`,
	"duration_too_short":             `{"to":"a","content":"x","ttl":0}`,
	"duration_too_long":              `{"to":"a","content":"x","ttl":31622401}`,
	"bad_time":                       `{"to":"a","content":"x","send_at":"tomorrow"}`,
	"send_at_too_far":                `{"to":"a","content":"x","send_at":"2999-01-01T00:00:00Z"}`,
}

func entries(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	return strings.Join(list, ",")
}

// bodies sends what is wrong with any JSON body.
func (s *service) bodies(path string, most int) {
	s.Helper()
	post := func(body string, header http.Header, status int, code string) {
		s.Helper()
		s.call(request{method: http.MethodPost, path: path, body: body, header: header}, status, code)
	}
	post(`{}`, http.Header{"Content-Type": {"text/plain"}}, http.StatusUnsupportedMediaType, "unsupported_media_type")
	post(`{"`+strings.Repeat("x", most)+`":1}`, nil, http.StatusRequestEntityTooLarge, "body_too_large")
	short := request{method: http.MethodPost, path: path, body: `{"`}
	s.raw(short, true, http.StatusBadRequest, "body_incomplete")
	s.raw(short, false, http.StatusRequestTimeout, "body_timeout")
}

func sending(s *service) {
	post := func(body string, header http.Header, status int, code string) answer {
		s.Helper()
		return s.call(request{method: http.MethodPost, path: "/v1/messages", body: body, header: header}, status, code)
	}
	const good = `{"to":"00962 79 123 4567","content":"x","type":"otp","metadata":{"order":"42"},"ttl":300,"send_at":"2026-01-01T00:00:00+03:00"}`
	keyed := http.Header{"Idempotency-Key": {`"key-1"`}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	first := post(good, keyed, http.StatusAccepted, "")
	if again := post(good, keyed, http.StatusAccepted, ""); string(again.body) != string(first.body) {
		s.Errorf("repeated: %s, first %s", again.body, first.body)
	}
	post(`{"to":"a","data":{"n":[1,null]},"type":null,"content":null}`, nil, http.StatusAccepted, "")
	post(`{"to":"a","content":"another"}`, keyed, http.StatusUnprocessableEntity, "idempotency_key_reused")
	for code, body := range wrongMessages {
		post(body, nil, http.StatusBadRequest, code)
	}
	post("", nil, http.StatusBadRequest, "body_empty")
	for code, values := range map[string][]string{
		"idempotency_key_length":    {strings.Repeat("k", 256)},
		"idempotency_key_not_ascii": {"clé"},
		"idempotency_key_twice":     {"a", "b"},
	} {
		post(good, http.Header{"Idempotency-Key": values}, http.StatusBadRequest, code)
	}
	s.bodies("/v1/messages", 64<<10)
	s.call(request{method: http.MethodPost, path: "/v1/messages", body: good, key: "reader"}, http.StatusForbidden, "scope_missing")
	s.call(request{method: http.MethodPost, path: "/v1/messages", body: good, key: "suspended"}, http.StatusForbidden, "client_suspended")
	s.call(request{method: http.MethodPost, path: "/v1/messages", body: good, key: "sender"}, http.StatusAccepted, "")
	s.call(request{method: http.MethodPost, path: "/v1/messages", body: `{"to":"+4912345678","content":"x"}`, key: "sender"}, http.StatusForbidden, "recipient_not_allowed")
}

// overLimits sends more than a client may, one by one and in batches.
func overLimits(s *service) {
	const one, two = `{"to":"a","content":"x"}`, `{"messages":[{"to":"a","content":"x"},{"to":"a","content":"x"}]}`
	for name, code := range map[string]string{"rated": "rate_limited", "rationed": "quota_exhausted"} {
		post := func(path, body string, status int, code string) {
			s.call(request{method: http.MethodPost, path: path, body: body, key: name}, status, code)
		}
		post("/v1/messages/batch", two, http.StatusAccepted, "")
		post("/v1/messages/batch", two, http.StatusTooManyRequests, code)
		if name == "rationed" {
			post("/v1/messages", one, http.StatusAccepted, "")
			post("/v1/messages", one, http.StatusTooManyRequests, code)
		}
	}
}

func sendingMany(s *service) {
	post := func(body string, status int, code string) answer {
		s.Helper()
		return s.call(request{method: http.MethodPost, path: "/v1/messages/batch", body: body}, status, code)
	}
	post(`{"messages":[{"to":"a","content":"x","idempotency_key":"b-1"},{"to":"b","data":[1]}]}`, http.StatusAccepted, "")
	// What is wrong with one message is told in its result.
	texts, codes := []string{`{"to":"a","content":"y","idempotency_key":"b-1"}`, `{"to":"a","content":"` + strings.Repeat("x", 64<<10) + `"}`,
		`{"to":"a","content":"x","idempotency_key":"clé"}`}, []string{"idempotency_key_reused", "message_too_large", "idempotency_key_not_ascii"}
	for code, body := range wrongMessages {
		if code != "malformed_json" {
			texts, codes = append(texts, body), append(codes, code)
		}
	}
	a := post(`{"messages":[`+strings.Join(texts, ",")+`]}`, http.StatusMultiStatus, "")
	var out struct {
		Results []struct {
			Status  int
			Problem document
		}
	}
	a.into(s, &out)
	for i, r := range out.Results {
		s.told("a message of a batch", r.Status, &r.Problem)
		if r.Problem.Code != codes[i] {
			s.Errorf("%s: answered with %+v", codes[i], r)
		}
	}
	for code, body := range map[string]string{
		"malformed_json":   `{"messages":[{"to":"a","content":"x"}`,
		"body_empty":       ``,
		"not_an_object":    `[]`,
		"wrong_type":       `{"messages":1}`,
		"unknown_field":    `{"message":[]}`,
		"duplicate_field":  `{"messages":[{"to":"a","content":"x"}],"messages":[]}`,
		"messages_missing": `{}`,
		"batch_empty":      `{"messages":[]}`,
	} {
		post(body, http.StatusBadRequest, code)
	}
	post(`{"messages":[`+strings.Repeat(`{"to":"a","content":"x"},`, 1000)+`{"to":"a","content":"x"}]}`, http.StatusRequestEntityTooLarge, "batch_too_long")
	s.call(request{method: http.MethodPost, path: "/v1/messages/batch", body: `{"messages":[]}`, header: http.Header{"Idempotency-Key": {"k"}}},
		http.StatusBadRequest, "idempotency_key_of_batch")
	s.bodies("/v1/messages/batch", 8<<20)
}

func listing(s *service) {
	for range 3 {
		s.call(request{method: http.MethodPost, path: "/v1/messages", body: `{"to":"lister","content":"x"}`}, http.StatusAccepted, "")
	}
	s.await("messages to be stored", func() bool {
		var page struct {
			Messages []json.RawMessage
			Next     string `json:"next_cursor"`
		}
		a := s.call(request{method: http.MethodGet, path: "/v1/messages?to=lister&limit=2"}, http.StatusOK, "")
		a.into(s, &page)
		if page.Next == "" {
			return false
		}
		a = s.call(request{method: http.MethodGet, path: "/v1/messages?to=lister&limit=2&cursor=" + page.Next}, http.StatusOK, "")
		a.into(s, &page)
		if len(page.Messages) != 1 {
			s.Errorf("the second page: %s", a.body)
		}
		return true
	})
	s.call(request{method: http.MethodGet, path: "/v1/messages?status=queued&from=2026-01-01T00:00:00Z&until=2999-01-01T00:00:00Z"}, http.StatusOK, "")
	for _, path := range []string{"/v1/messages", "/v1/dead-letters"} {
		for code, query := range map[string]string{
			"malformed_query":             "to=%zz",
			"unknown_parameter":           "sort=to",
			"duplicate_parameter":         "to=a&to=b",
			"invalid_fields":              "limit=0&from=x",
			"recipient_empty":             "to=%20",
			"recipient_not_utf8":          "to=%ff",
			"recipient_too_long":          "to=" + strings.Repeat("a", 129),
			"recipient_control_character": "to=a%01b",
			"recipient_bad_phone":         "to=%2B12",
			"bad_time":                    "from=x",
			"bad_cursor":                  "cursor=x",
			"bad_limit":                   "limit=201",
		} {
			s.call(request{method: http.MethodGet, path: path + "?" + query}, http.StatusBadRequest, code)
		}
	}
	s.call(request{method: http.MethodGet, path: "/v1/messages?status=lost"}, http.StatusBadRequest, "unknown_status")
	for _, c := range [][2]string{{http.MethodGet, "/v1/messages/%s"}, {http.MethodDelete, "/v1/messages/%s"}} {
		const nobodys = "0198c0de-7a1b-7c3d-8e4f-012345670001"
		path := func(id string) string { return fmt.Sprintf(c[1], id) }
		s.call(request{method: c[0], path: path("x")}, http.StatusBadRequest, "bad_id")
		s.call(request{method: c[0], path: path(nobodys) + "?x=1"}, http.StatusBadRequest, "unknown_parameter")
		s.call(request{method: c[0], path: path(nobodys) + "?x=1&x=2&y=3"}, http.StatusBadRequest, "invalid_fields")
		s.call(request{method: c[0], path: path(nobodys)}, http.StatusNotFound, "message_not_found")
	}
}

// phone is a device that does what its handler says.
func (s *service) phone(recipient string, handle client.Handler) (hangUp func()) {
	s.Helper()
	c, err := client.New(s.url, s.keys["full"])
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.Context())
	connected, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- c.Listen(ctx, recipient, handle, client.ListenOptions{OnConnect: func() { connected <- struct{}{} }})
	}()
	select {
	case <-connected:
	case err := <-done:
		s.Fatalf("the device: %v", err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("the device: %v", err)
		}
	}
}

// send sends a message and returns its path.
func (s *service) send(body string) string {
	s.Helper()
	return s.call(request{method: http.MethodPost, path: "/v1/messages", body: body}, http.StatusAccepted, "").header.Get("Location")
}

// becomes waits until a message has that status.
func (s *service) becomes(path, status string) {
	s.Helper()
	s.await(path+" to be "+status, func() bool {
		var m struct{ Status string }
		a := s.call(request{method: http.MethodGet, path: path}, http.StatusOK, "")
		a.into(s, &m)
		return m.Status == status
	})
}

func life(s *service) {
	waiting := s.send(`{"to":"away","content":"x"}`)
	s.becomes(waiting, "queued")
	s.call(request{method: http.MethodDelete, path: waiting}, http.StatusOK, "")
	s.call(request{method: http.MethodDelete, path: waiting}, http.StatusOK, "")
	short := s.send(`{"to":"away","data":{"a":1},"ttl":1,"metadata":{"k":"v"}}`)
	s.becomes(short, "expired")
	s.call(request{method: http.MethodDelete, path: short}, http.StatusConflict, "already_final")

	arrived, release := make(chan struct{}), make(chan struct{})
	hangUp := s.phone("slow", func(context.Context, client.Delivery) error {
		arrived <- struct{}{}
		<-release
		return nil
	})
	defer hangUp()
	sent := s.send(`{"to":"slow","content":"x"}`)
	<-arrived
	s.call(request{method: http.MethodDelete, path: sent}, http.StatusConflict, "in_flight")
	close(release)
	s.becomes(sent, "delivered")
	s.call(request{method: http.MethodDelete, path: sent}, http.StatusConflict, "already_delivered")
	id := strings.TrimPrefix(sent, "/v1/messages/")
	for _, action := range []string{"replay", "discard"} {
		s.call(request{method: http.MethodPost, path: "/v1/dead-letters/" + id + "/" + action}, http.StatusConflict, "not_undelivered")
	}
}

func dying(s *service) {
	hangUp := s.phone("deaf", func(context.Context, client.Delivery) error { return errors.New("not shown") })
	var dead []string
	for range 3 {
		dead = append(dead, s.send(`{"to":"deaf","content":"x","type":"otp"}`))
	}
	for _, path := range dead {
		s.becomes(path, "undelivered")
	}
	hangUp()
	const list = "/v1/dead-letters?to=deaf&type=otp&reason=attempts_exhausted&from=2026-01-01T00:00:00Z&limit=2"
	s.call(request{method: http.MethodGet, path: list}, http.StatusOK, "")
	s.call(request{method: http.MethodGet, path: list + "&until=2026-01-02T00:00:00Z"}, http.StatusOK, "")
	at := func(n int, action string) string {
		return "/v1/dead-letters/" + strings.TrimPrefix(dead[n], "/v1/messages/") + "/" + action
	}
	for code, body := range map[string]string{
		"malformed_json":  `{`,
		"invalid_utf8":    "{\"reason\":\"\xff\"}",
		"too_deep":        `{"x":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`,
		"not_an_object":   `[]`,
		"wrong_type":      `{"reason":1}`,
		"unknown_field":   `{"why":"x"}`,
		"duplicate_field": `{"reason":"x","reason":"y"}`,
		"invalid_fields":  `{"reason":1,"why":"x"}`,
		"reason_too_long": `{"reason":"` + strings.Repeat("x", 201) + `"}`,
	} {
		s.call(request{method: http.MethodPost, path: at(0, "discard"), body: body}, http.StatusBadRequest, code)
	}
	s.bodies(at(0, "discard"), 4<<10)
	for _, action := range []string{"replay", "discard"} {
		const nobodys = "0198c0de-7a1b-7c3d-8e4f-012345670001"
		post := func(id string, status int, code string) {
			s.Helper()
			s.call(request{method: http.MethodPost, path: "/v1/dead-letters/" + id + "/" + action}, status, code)
		}
		post("x", http.StatusBadRequest, "bad_id")
		post(nobodys, http.StatusNotFound, "message_not_found")
		s.call(request{method: http.MethodPost, path: at(0, action) + "?x=1"}, http.StatusBadRequest, "unknown_parameter")
		s.call(request{method: http.MethodPost, path: at(0, action) + "?x=1&x=2"}, http.StatusBadRequest, "unknown_parameter")
	}
	s.call(request{method: http.MethodPost, path: at(0, "discard"), body: `{"reason":"wrong number"}`}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: at(1, "replay")}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: "/v1/dead-letters/replay?to=deaf&limit=10"}, http.StatusOK, "")
	s.becomes(dead[2], "queued")
}

func following(s *service) {
	s.becomes(s.send(`{"to":"followed","content":"x"}`), "queued")
	get := func(query string, status int, code string) answer {
		s.Helper()
		return s.call(request{method: http.MethodGet, path: "/v1/events" + query}, status, code)
	}
	s.await("events", func() bool {
		var page struct{ Events []json.RawMessage }
		a := get("?from=start&limit=500", http.StatusOK, "")
		a.into(s, &page)
		return len(page.Events) > 0
	})
	get("?status=delivered,read&from=now", http.StatusOK, "")
	get("?type=message.queued&limit=1", http.StatusOK, "")
	for code, query := range map[string]string{
		"bad_cursor":          "cursor=x",
		"bad_from":            "from=yesterday",
		"bad_limit":           "limit=501",
		"unknown_status":      "status=accepted",
		"malformed_query":     "status=%zz",
		"unknown_parameter":   "sort=time",
		"duplicate_parameter": "limit=1&limit=2",
	} {
		get("?"+query, http.StatusBadRequest, code)
	}
	ahead := notify.Cursor{{Number: 1 << 40}, {Number: 1 << 40}}
	get("?cursor="+ahead.String(), http.StatusGone, "cursor_ahead")

	// As many streams as a client may have, and one more.
	accept := http.Header{"Accept": {"text/event-stream"}, "Authorization": {"Bearer " + s.keys["many"]}}
	for range 100 {
		ctx, cancel := context.WithCancel(s.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/v1/events", http.NoBody)
		if err != nil {
			s.Fatal(err)
		}
		req.Header = accept
		resp, err := s.http.Do(req)
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { cancel(); resp.Body.Close() })
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "retry: 1000\n" ||
			!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
			s.Fatalf("a stream: %s, %q, %v", resp.Status, line, err)
		}
	}
	s.call(request{method: http.MethodGet, path: "/v1/events", header: accept, key: "-"}, http.StatusTooManyRequests, "too_many_streams")
}

func minting(s *service) {
	post := func(body string, status int, code string) {
		s.Helper()
		s.call(request{method: http.MethodPost, path: "/v1/recipient-tokens", body: body}, status, code)
	}
	post(`{"sub":"00962791234567","ttl":60}`, http.StatusOK, "")
	post(`{"sub":"a","ttl":null}`, http.StatusOK, "")
	for code, body := range map[string]string{
		"malformed_json":              `{"sub":`,
		"invalid_utf8":                "{\"sub\":\"\xff\"}",
		"too_deep":                    `{"x":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`,
		"body_empty":                  ``,
		"not_an_object":               `[]`,
		"wrong_type":                  `{"sub":1}`,
		"unknown_field":               `{"sub":"a","exp":1}`,
		"duplicate_field":             `{"sub":"a","sub":"a"}`,
		"invalid_fields":              `{"sub":1,"ttl":"x"}`,
		"recipient_missing":           `{}`,
		"recipient_empty":             `{"sub":" "}`,
		"recipient_too_long":          `{"sub":"` + strings.Repeat("a", 129) + `"}`,
		"recipient_control_character": `{"sub":"a\u0001"}`,
		"recipient_bad_phone":         `{"sub":"+1"}`,
		"not_whole_seconds":           `{"sub":"a","ttl":1e3}`,
		"duration_too_short":          `{"sub":"a","ttl":0}`,
		"duration_too_long":           `{"sub":"a","ttl":99999999999}`,
		"token_ttl":                   `{"sub":"a","ttl":2592001}`,
	} {
		post(body, http.StatusBadRequest, code)
	}
	s.bodies("/v1/recipient-tokens", 4<<10)
	s.call(request{method: http.MethodPost, path: "/v1/recipient-tokens", body: `{"sub":"a"}`, key: "sender"}, http.StatusForbidden, "scope_missing")
	s.call(request{method: http.MethodPost, path: "/v1/recipient-tokens", body: `{"sub":"a"}`, key: "suspended"}, http.StatusForbidden, "client_suspended")
}

// token signs a device token.
func (s *service) token(method jwt.SigningMethod, secret string, claims jwt.MapClaims) string {
	s.Helper()
	text, err := jwt.NewWithClaims(method, claims).SignedString([]byte(secret))
	if err != nil {
		s.Fatal(err)
	}
	return text
}

func hubs(s *service) {
	const mobile, business = "/hubs/mobile/negotiate?negotiateVersion=1", "/hubs/business/negotiate?negotiateVersion=1"
	soon := time.Now().Add(time.Hour).Unix()
	good := jwt.MapClaims{"sub": "alice", "exp": soon}
	with := func(name string, value any) jwt.MapClaims {
		c := maps.Clone(good)
		c[name] = value
		return c
	}
	token := s.token(jwt.SigningMethodHS256, jwtSecret, good)
	s.call(request{method: http.MethodPost, path: mobile + "&useStatefulReconnect=true", key: "Bearer " + token}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: mobile + "&access_token=" + url.QueryEscape(token), key: "-"}, http.StatusOK, "")
	for code, token := range map[string]string{
		"token_missing":         "",
		"token_malformed":       "x",
		"token_algorithm":       s.token(jwt.SigningMethodHS384, jwtSecret, good),
		"token_signature":       s.token(jwt.SigningMethodHS256, "another", good),
		"token_expired":         s.token(jwt.SigningMethodHS256, jwtSecret, with("exp", 1)),
		"token_not_yet_valid":   s.token(jwt.SigningMethodHS256, jwtSecret, with("nbf", soon)),
		"token_without_expiry":  s.token(jwt.SigningMethodHS256, jwtSecret, jwt.MapClaims{"sub": "alice"}),
		"token_without_subject": s.token(jwt.SigningMethodHS256, jwtSecret, jwt.MapClaims{"exp": soon}),
		"token_bad_subject":     s.token(jwt.SigningMethodHS256, jwtSecret, with("sub", "+1")),
	} {
		s.call(request{method: http.MethodPost, path: mobile, key: "-", header: http.Header{"Authorization": {"Bearer " + token}}}, http.StatusUnauthorized, code)
		s.call(request{method: http.MethodGet, path: "/hubs/mobile?access_token=" + url.QueryEscape(token), key: "-"}, http.StatusUnauthorized, code)
	}
	s.call(request{method: http.MethodPost, path: business}, http.StatusOK, "")
	for code, key := range map[string]string{"api_key_missing": "-", "api_key_expired": "expired", "api_key_revoked": "revoked", "api_key_unknown": "Bearer esh_nobody"} {
		s.call(request{method: http.MethodPost, path: business, key: key, from: "127.0.0.3"}, http.StatusUnauthorized, code)
	}
	for code, key := range map[string]string{"scope_missing": "sender", "client_suspended": "suspended"} {
		s.call(request{method: http.MethodPost, path: business, key: key}, http.StatusForbidden, code)
	}
	s.call(request{method: http.MethodPost, path: mobile, key: "Bearer " + token, header: http.Header{"Origin": {"https://evil.example"}}}, http.StatusForbidden, "")
	for _, q := range []request{
		{method: http.MethodPost, path: "/hubs/mobile", body: "x", key: "Bearer " + token},
		{method: http.MethodDelete, path: "/hubs/mobile", key: "Bearer " + token},
		{method: http.MethodPost, path: "/hubs/business", body: "x"},
		{method: http.MethodDelete, path: "/hubs/business"},
	} {
		s.call(q, http.StatusBadRequest, "")
		q.path += "?id=x"
		s.call(q, http.StatusNotFound, "")
	}
}

// keysRefused calls every operation of business clients with keys that do not work.
func keysRefused(s *service) {
	for _, o := range s.spec.operations() {
		method, path, _ := strings.Cut(o.name, " ")
		if !strings.HasPrefix(path, "/v1/") {
			continue
		}
		path = strings.NewReplacer("{id}", "0198c0de-7a1b-7c3d-8e4f-012345670001", "{client}", "nobody", "{key}", "none").Replace(path)
		s.call(request{method: method, path: path, key: "-"}, http.StatusUnauthorized, "api_key_missing")
		s.call(request{method: method, path: path, key: "Basic x"}, http.StatusUnauthorized, "bad_authorization")
		if strings.HasPrefix(path, "/v1/admin/") {
			continue // wrong keys are wrong there, whatever they are for others
		}
		s.call(request{method: method, path: path, key: "revoked"}, http.StatusUnauthorized, "api_key_revoked")
		s.call(request{method: method, path: path, key: "expired"}, http.StatusUnauthorized, "api_key_expired")
		s.call(request{method: method, path: path, key: "suspended"}, http.StatusForbidden, "client_suspended")
		if method == http.MethodGet {
			a := s.call(request{method: http.MethodHead, path: path, key: "-"}, http.StatusUnauthorized, "")
			if len(a.body) > 0 {
				s.Errorf("HEAD %s has a body", path)
			}
		}
		// A method that nothing takes is told from a path that is not there, without a key.
		a := s.call(request{method: "PURGE", path: path, key: "-"}, http.StatusMethodNotAllowed, "method_not_allowed")
		if allow := strings.Join(s.routes[pathOf(o.name)], ", "); a.header.Get("Allow") != allow {
			s.Errorf("%s: Allow: %s, want %s", path, a.header.Get("Allow"), allow)
		}
	}
	s.call(request{method: http.MethodGet, path: "/v1/admin/clients", from: "127.0.0.5"}, http.StatusUnauthorized, "admin_key_wrong")
	for _, path := range []string{"/v1/", "/v1/nothing", "/v1/messages/", "/v1/messages/x/y", "/v1/dead-letters/x/y", "/v1/events/x"} {
		s.call(request{method: http.MethodGet, path: path}, http.StatusNotFound, "no_such_route")
	}
	s.call(request{method: http.MethodGet, path: "/v1/messages", key: "sender"}, http.StatusForbidden, "scope_missing")
	// Guesses from one address are slowed down and at last refused without being looked at.
	s.call(request{method: http.MethodGet, path: "/v1/messages", key: "Bearer esh_nobody", from: "127.0.0.2"}, http.StatusUnauthorized, "api_key_unknown")
	s.guess("127.0.0.2")
	for _, path := range []string{"/v1/messages", "/v1/events", "/hubs/business/negotiate"} {
		method := http.MethodGet
		if strings.HasPrefix(path, "/hubs/") {
			method = http.MethodPost
		}
		s.call(request{method: method, path: path, key: "Bearer esh_guess", from: "127.0.0.2"}, http.StatusTooManyRequests, "too_many_unknown_keys")
	}
	s.call(request{method: http.MethodPost, path: "/v1/messages", body: `{"to":"a","content":"x"}`, key: "Bearer esh_guess", from: "127.0.0.2"},
		http.StatusTooManyRequests, "too_many_unknown_keys")
}

// guess tries many API keys from an address at one time.
func (s *service) guess(from string) {
	tr := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
	defer tr.CloseIdleConnections()
	var all sync.WaitGroup
	for n := range 60 {
		all.Go(func() {
			req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.url+"/v1/messages", http.NoBody)
			if err != nil {
				s.Error(err)
				return
			}
			req.Header.Set("Authorization", fmt.Sprint("Bearer esh_guess", n))
			resp, err := tr.RoundTrip(req)
			if err != nil {
				s.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	all.Wait()
}

func operating(s *service) {
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/docs", "/docs/style.css", "/openapi.json", "/openapi.yaml", "/problems"} {
		s.call(request{method: http.MethodGet, path: path, key: "-"}, http.StatusOK, "")
		if a := s.call(request{method: http.MethodHead, path: path, key: "-"}, http.StatusOK, ""); len(a.body) > 0 {
			s.Errorf("HEAD %s has a body", path)
		}
	}
	for _, row := range s.problems {
		a := s.call(request{method: http.MethodGet, path: "/problems/" + row.Slug(), key: "-"}, http.StatusOK, "")
		if !strings.Contains(string(a.body), "<h1><code>"+row.Code+"</code></h1>") {
			s.Errorf("the page of %s: %s", row.Code, a.body)
		}
	}
	s.call(request{method: http.MethodGet, path: "/problems/nothing", key: "-"}, http.StatusNotFound, "")
}

// noRoom sends to a server whose disk reserve is larger than any disk.
func noRoom(s *service) {
	full := start(s.T, func(c *node.Config) { c.DiskReserve = 1 << 60 })
	full.spec.seen = s.spec.seen
	full.call(request{method: http.MethodPost, path: "/v1/messages", body: `{"to":"a","content":"x"}`}, http.StatusInsufficientStorage, "journal_full")
}

// pathOf returns the path of an operation's name.
func pathOf(name string) string {
	_, path, _ := strings.Cut(name, " ")
	return path
}
