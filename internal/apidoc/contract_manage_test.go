package apidoc_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/notify"
)

// refused sends each of these bodies and wants the problem of its name.
func (s *service) refused(q request, bodies map[string]string) {
	s.Helper()
	for code, body := range bodies {
		q.body = body
		s.call(q, http.StatusBadRequest, code)
	}
	q.body = `{"`
	s.raw(q, true, http.StatusBadRequest, "body_incomplete")
	s.raw(q, false, http.StatusRequestTimeout, "body_timeout")
}

// posted is a request that a webhook got.
type posted struct {
	header http.Header
	body   []byte
}

func hooking(s *service) {
	got := make(chan posted, 64)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.Error(err)
		}
		got <- posted{r.Header, body}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	const list = "/v1/webhooks"
	lately := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	create := request{method: http.MethodPost, path: list, body: `{"url":"` + receiver.URL + `","types":["message.queued"],"description":"x","batch_max":null}`}
	one := s.call(create, http.StatusCreated, "").header.Get("Location")
	at := func(action string) string { return one + action }
	s.call(request{method: http.MethodGet, path: list}, http.StatusOK, "")
	s.call(request{method: http.MethodGet, path: one}, http.StatusOK, "")
	s.call(request{method: http.MethodPatch, path: one, body: `{"format":"cloudevents"}`}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: at("/test")}, http.StatusOK, "")
	<-got

	// What is posted is as the description says, and carries the message's trace.
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s.call(request{method: http.MethodPost, path: "/v1/messages", body: `{"to":"hooked","content":"x"}`, header: http.Header{"Traceparent": {trace}}}, http.StatusAccepted, "")
	s.cloudEvent(<-got, "hooked", trace)

	s.call(request{method: http.MethodGet, path: at("/deliveries?outcome=delivered&limit=1")}, http.StatusOK, "")
	for code, query := range map[string]string{
		"malformed_query": "limit=%zz", "unknown_parameter": "x=1", "duplicate_parameter": "limit=1&limit=2", "bad_cursor": "cursor=x",
		"bad_limit": "limit=0", "unknown_outcome": "outcome=lost",
	} {
		s.call(request{method: http.MethodGet, path: at("/deliveries?" + query)}, http.StatusBadRequest, code)
	}
	s.call(request{method: http.MethodPatch, path: one, body: `{"enabled":false}`}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: at("/enable")}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: at("/rotate-secret"), body: `{"overlap_seconds":60}`}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: at("/replay"), body: `{"since":"2999-01-01T00:00:00Z"}`}, http.StatusBadRequest, "time_in_future")
	ahead := notify.Cursor{{Number: 1 << 40}, {Number: 1 << 40}}
	s.call(request{method: http.MethodPost, path: at("/replay"), body: `{"cursor":"` + ahead.String() + `"}`}, http.StatusGone, "cursor_ahead")
	s.call(request{method: http.MethodPost, path: at("/replay"), body: `{"since":"` + lately + `"}`}, http.StatusOK, "")
	s.call(request{method: http.MethodPost, path: at("/replay"), body: `{"since":"2026-01-01T00:00:00Z"}`}, http.StatusGone, "cursor_expired")

	text := map[string]string{"malformed_json": `{`, "invalid_utf8": "{\"x\":\"\xff\"}", "not_an_object": `[]`, "unknown_field": `{"x":1}`, "duplicate_field": `{"x":1,"x":1}`}
	with := func(more map[string]string) map[string]string {
		all := map[string]string{}
		for _, m := range []map[string]string{text, more} {
			for code, body := range m {
				all[code] = body
			}
		}
		return all
	}
	fields := map[string]string{
		"wrong_type": `{"url":1}`, "url_missing": `{"url":null}`, "url_too_long": `{"url":"https://example.com/` + strings.Repeat("x", 2048) + `"}`,
		"bad_url": `{"url":"https://"}`, "url_with_credentials": `{"url":"https://a:b@127.0.0.1/"}`, "https_required": `{"url":"ftp://127.0.0.1/"}`,
		"address_not_allowed": `{"url":"https://10.0.0.1/"}`,
	}
	for code, member := range map[string]string{
		"unknown_field": `"x":1`, "bad_description": `"description":"a\nb"`, "too_many_types": `"types":[` + strings.TrimSuffix(strings.Repeat(`"queued",`, 33), ",") + `]`,
		"unknown_type": `"types":["message.lost"]`, "unknown_format": `"format":"xml"`, "out_of_range": `"batch_max":0`,
	} {
		fields[code] = `{"url":"` + receiver.URL + `",` + member + `}`
	}
	for _, q := range []request{{method: http.MethodPost, path: list}, {method: http.MethodPatch, path: one}} {
		s.refused(q, with(fields))
		q.path += "?x=1"
		s.call(q, http.StatusBadRequest, "unknown_parameter")
	}
	for action, more := range map[string]map[string]string{
		"/enable": nil, "/test": nil,
		"/rotate-secret": {"wrong_type": `{"overlap_seconds":"x"}`, "out_of_range": `{"overlap_seconds":-1}`},
		"/replay":        {"wrong_type": `{"since":1}`, "since_or_cursor": `{}`, "bad_time": `{"since":"yesterday"}`, "bad_cursor": `{"cursor":"x"}`, "unknown_field": `{"cursor":"x","y":1}`},
	} {
		q := request{method: http.MethodPost, path: at(action)}
		s.refused(q, with(more))
		q.path += "?x=1"
		s.call(q, http.StatusBadRequest, "unknown_parameter")
	}
	s.call(request{method: http.MethodGet, path: one + "?x=1"}, http.StatusBadRequest, "unknown_parameter")
	const none = list + "/wh_000000000000000000000000"
	for _, q := range []request{
		{method: http.MethodGet, path: none}, {method: http.MethodPatch, path: none, body: `{"enabled":true}`}, {method: http.MethodDelete, path: none},
		{method: http.MethodGet, path: none + "/deliveries"}, {method: http.MethodPost, path: none + "/enable"}, {method: http.MethodPost, path: none + "/test"},
		{method: http.MethodPost, path: none + "/rotate-secret"}, {method: http.MethodPost, path: none + "/replay", body: `{"since":"` + lately + `"}`},
	} {
		s.call(q, http.StatusNotFound, "webhook_not_found")
	}
	s.call(request{method: http.MethodDelete, path: one}, http.StatusNoContent, "")
	create.key = "many"
	for s.hooks() < maxWebhooks {
		s.call(create, http.StatusCreated, "")
	}
	s.call(create, http.StatusConflict, "too_many_webhooks")
}

// maxWebhooks is how many webhooks a client may have.
const maxWebhooks = 20

// hooks counts the webhooks of the client many.
func (s *service) hooks() int {
	var page struct{ Webhooks []json.RawMessage }
	a := s.call(request{method: http.MethodGet, path: "/v1/webhooks", key: "many"}, http.StatusOK, "")
	a.into(s, &page)
	return len(page.Webhooks)
}

// cloudEvent checks what a webhook got against the schema.
func (s *service) cloudEvent(p posted, to, trace string) {
	s.Helper()
	var event map[string]any
	if err := json.Unmarshal(p.body, &event); err != nil {
		s.Fatalf("%v in %s", err, p.body)
	}
	described := s.spec.at("webhooks", "message", "post", "requestBody")
	if err := s.spec.checkBody(described, p.header.Get("Content-Type"), p.body); err != nil {
		s.Errorf("what is posted to a webhook is not as described: %v: %s", err, p.body)
	}
	data, _ := event["data"].(map[string]any)
	if data["to"] != to || event["traceparent"] != trace || p.header.Get("Traceparent") != trace {
		s.Errorf("%s with traceparent %q", p.body, p.header.Get("Traceparent"))
	}
	for _, field := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		if p.header.Get(field) == "" {
			s.Errorf("the request has no %s", field)
		}
	}
	if media := p.header.Get("Content-Type"); media != "application/cloudevents+json" {
		s.Errorf("the request is %s", media)
	}
}

func administering(s *service) {
	const list = "/v1/admin/clients"
	admin := func(method, path, body string, status int, code string) answer {
		s.Helper()
		return s.call(request{method: method, path: path, body: body, key: "admin"}, status, code)
	}
	const shop = `{"id":"shop","name":"Shop","tier":"gold","rate":100,"burst":200,"daily_quota":null,"recipients":"+962* shop-*","scopes":["send","read"]}`
	admin(http.MethodPost, list, shop, http.StatusCreated, "")
	admin(http.MethodPost, list, shop, http.StatusOK, "")
	admin(http.MethodPost, list, `{"id":"shop","name":"Another"}`, http.StatusConflict, "client_exists")
	admin(http.MethodPost, list, `{"id":"stall"}`, http.StatusCreated, "")
	var page struct {
		Next string `json:"next_cursor"`
	}
	a := admin(http.MethodGet, list+"?limit=1", "", http.StatusOK, "")
	a.into(s, &page)
	admin(http.MethodGet, list+"?limit=2&cursor="+page.Next, "", http.StatusOK, "")
	admin(http.MethodGet, list+"/shop", "", http.StatusOK, "")
	admin(http.MethodPatch, list+"/shop", `{"suspended":true,"rate":50}`, http.StatusOK, "")
	s.call(request{method: http.MethodPatch, path: list + "/shop", body: `{"suspended":false}`, key: "admin", header: http.Header{"If-Match": {`"1"`}}},
		http.StatusPreconditionFailed, "client_changed")

	const keys = list + "/shop/keys"
	first := admin(http.MethodPost, keys, `{"name":"Orders","scopes":["send"],"expires_in":3600}`, http.StatusCreated, "").header.Get("Location")
	second := admin(http.MethodPost, keys, `{"expires_at":"2999-01-01T00:00:00Z"}`, http.StatusCreated, "").header.Get("Location")
	admin(http.MethodPost, first+"/rotate", `{"overlap":60}`, http.StatusCreated, "")
	admin(http.MethodDelete, list+"/shop", "", http.StatusConflict, "client_has_keys")
	admin(http.MethodDelete, second, "", http.StatusOK, "")
	admin(http.MethodPost, second+"/rotate", "", http.StatusConflict, "key_ended")
	for range maxKeys - 2 {
		admin(http.MethodPost, keys, "", http.StatusCreated, "")
	}
	admin(http.MethodPost, keys, "", http.StatusConflict, "too_many_keys")
	admin(http.MethodPost, first+"/rotate", "", http.StatusConflict, "too_many_keys")
	admin(http.MethodGet, keys, "", http.StatusOK, "")
	admin(http.MethodDelete, list+"/stall", "", http.StatusNoContent, "")
	a = admin(http.MethodGet, "/v1/admin/audit?client=shop&actor=admin&limit=1&from=2026-01-01T00:00:00Z&until=2999-01-01T00:00:00Z", "", http.StatusOK, "")
	a.into(s, &page)
	admin(http.MethodGet, "/v1/admin/audit?action=client.update&cursor="+page.Next, "", http.StatusOK, "")

	s.call(request{method: http.MethodPost, path: list, body: shop, key: "sender", from: "127.0.0.5"}, http.StatusUnauthorized, "admin_key_wrong")
	admin(http.MethodGet, "/v1/admin/rejects", "", http.StatusOK, "")
	admin(http.MethodGet, "/v1/admin/health", "", http.StatusOK, "")
	for _, path := range []string{list, "/v1/admin/audit", "/v1/admin/rejects"} {
		queries := map[string]string{
			"malformed_query": "limit=%zz", "unknown_parameter": "x=1", "duplicate_parameter": "limit=1&limit=2", "invalid_fields": "limit=0&cursor=x",
			"bad_cursor": "cursor=x", "bad_limit": "limit=0",
		}
		if path == "/v1/admin/audit" {
			queries["bad_time"] = "from=x"
		}
		for code, query := range queries {
			admin(http.MethodGet, path+"?"+query, "", http.StatusBadRequest, code)
		}
	}
	for code, query := range map[string]string{"malformed_query": "x=%zz", "unknown_parameter": "x=1", "invalid_fields": "x=1&y=2"} {
		admin(http.MethodGet, "/v1/admin/health?"+query, "", http.StatusBadRequest, code)
		admin(http.MethodGet, list+"/shop?"+query, "", http.StatusBadRequest, code)
		admin(http.MethodDelete, list+"/shop?"+query, "", http.StatusBadRequest, code)
	}
	text := map[string]string{"malformed_json": `{`, "invalid_utf8": "{\"x\":\"\xff\"}", "not_an_object": `[]`, "unknown_field": `{"x":1}`}
	s.refused(request{method: http.MethodDelete, path: list + "/shop", key: "admin"}, text)
	text["duplicate_field"], text["invalid_fields"] = `{"name":"a","name":"a"}`, `{"x":1,"y":2}`
	text["wrong_type"], text["bad_name"], text["name_too_long"] = `{"name":1}`, `{"name":" a"}`, `{"name":"`+strings.Repeat("n", 65)+`"}`
	text["unknown_scope"], text["list_too_long"] = `{"scopes":["all"]}`, `{"scopes":[`+strings.TrimSuffix(strings.Repeat(`"read",`, 33), ",")+`]}`
	settings := map[string]string{
		"unknown_tier": `{"tier":"platinum"}`, "out_of_range": `{"rate":-1}`, "burst_without_rate": `{"rate":0,"burst":1}`, "bad_recipients": `{"recipients":"00962*"}`,
		"recipients_too_long": `{"recipients":"` + strings.Repeat("r", 5000) + `"}`,
	}
	change, create, key := make(map[string]string), make(map[string]string), make(map[string]string)
	for code, body := range text {
		change[code], create[code], key[code] = body, withID(body), body
	}
	for code, body := range settings {
		change[code], create[code] = body, withID(body)
	}
	create["bad_client_id"] = `{"id":"Shop!"}`
	s.refused(request{method: http.MethodPatch, path: list + "/shop", key: "admin"}, change)
	s.refused(request{method: http.MethodPost, path: list, key: "admin"}, create)
	key["scope_not_the_clients"], key["bad_time"], key["already_expired"] = `{"scopes":["tokens"]}`, `{"expires_at":"x"}`, `{"expires_at":"2020-01-01T00:00:00Z"}`
	key["out_of_range"], key["given_twice"] = `{"expires_in":0}`, `{"expires_in":1,"expires_at":null}`
	s.refused(request{method: http.MethodPost, path: keys, key: "admin"}, key)
	rotation := map[string]string{
		"malformed_json": `{`, "invalid_utf8": "{\"x\":\"\xff\"}", "not_an_object": `1`, "wrong_type": `{"overlap":"x"}`, "unknown_field": `{"x":1}`, "duplicate_field": `{"overlap":1,"overlap":1}`,
		"invalid_fields": `{"x":1,"y":1}`, "bad_time": `{"expires_at":"x"}`, "already_expired": `{"expires_at":"2020-01-01T00:00:00Z"}`, "out_of_range": `{"overlap":-1}`,
		"given_twice": `{"expires_in":1,"expires_at":null}`,
	}
	s.refused(request{method: http.MethodPost, path: first + "/rotate", key: "admin"}, rotation)
	for _, q := range []request{
		{method: http.MethodGet, path: list + "/nobody"}, {method: http.MethodPatch, path: list + "/nobody"}, {method: http.MethodDelete, path: list + "/nobody"},
		{method: http.MethodGet, path: list + "/nobody/keys"}, {method: http.MethodDelete, path: list + "/nobody/keys/x"},
	} {
		q.key = "admin"
		s.call(q, http.StatusNotFound, "client_not_found")
	}
	admin(http.MethodDelete, keys+"/none", "", http.StatusNotFound, "key_not_found")
	admin(http.MethodPost, keys+"/none/rotate", "", http.StatusNotFound, "key_not_found")
}

// maxKeys is how many API keys of a client may work at one time.
const maxKeys = 100

// withID gives a body a client's id where it is an object with other fields.
func withID(body string) string {
	if !strings.HasPrefix(body, `{"`) {
		return body
	}
	return `{"id":"c` + strconv.Itoa(len(body)) + `",` + body[1:]
}
