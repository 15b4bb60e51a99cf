package webhook

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	other  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// signed returns what an independent library signs.
func signed(t *testing.T, secret, id string, at time.Time, body string) http.Header {
	t.Helper()
	signer, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("Webhook-Signature", signature)
	return h
}

func TestVerify(t *testing.T) {
	const id, body = "evt_1", `{"type":"message.delivered"}`
	now := time.Unix(1_780_000_000, 0)
	with := func(change func(http.Header)) http.Header {
		h := signed(t, secret, id, now, body)
		change(h)
		return h
	}
	same := func(http.Header) {}
	for _, test := range []struct {
		name    string
		header  http.Header
		body    string
		secrets []string
		want    error
	}{
		{"right", with(same), body, []string{secret}, nil},
		{"the secret without its prefix", with(same), body, []string{strings.TrimPrefix(secret, "whsec_")}, nil},
		{"the second secret", with(same), body, []string{other, secret}, nil},
		{"another secret", with(same), body, []string{other}, ErrSignature},
		{"another body", with(same), body + " ", []string{secret}, ErrSignature},
		{"another id", with(func(h http.Header) { h.Set("Webhook-Id", "evt_2") }), body, []string{secret}, ErrSignature},
		{"another time", with(func(h http.Header) { h.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix()+1, 10)) }), body, []string{secret}, ErrSignature},
		{"no id", with(func(h http.Header) { h.Del("Webhook-Id") }), body, []string{secret}, ErrHeader},
		{"no timestamp", with(func(h http.Header) { h.Del("Webhook-Timestamp") }), body, []string{secret}, ErrHeader},
		{"no signature", with(func(h http.Header) { h.Del("Webhook-Signature") }), body, []string{secret}, ErrHeader},
		{"no time at all", with(func(h http.Header) { h.Set("Webhook-Timestamp", "noon") }), body, []string{secret}, ErrHeader},
		{"garbage", with(func(h http.Header) { h.Set("Webhook-Signature", "v1 ,, v1, v1,===") }), body, []string{secret}, ErrSignature},
		{"another version", with(func(h http.Header) {
			h.Set("Webhook-Signature", "v2"+strings.TrimPrefix(h.Get("Webhook-Signature"), "v1"))
		}), body, []string{secret}, ErrSignature},
		{"a cut signature", with(func(h http.Header) { h.Set("Webhook-Signature", h.Get("Webhook-Signature")[:20]) }), body, []string{secret}, ErrSignature},
		{"several signatures", with(func(h http.Header) {
			h.Set("Webhook-Signature", signed(t, other, id, now, body).Get("Webhook-Signature")+" v1a,xyz "+h.Get("Webhook-Signature"))
		}), body, []string{secret}, nil},
		// A request that somebody has kept is worth nothing later, and one that was made ahead nothing before.
		{"almost stale", signed(t, secret, id, now.Add(-Tolerance), body), body, []string{secret}, nil},
		{"stale", signed(t, secret, id, now.Add(-Tolerance-time.Second), body), body, []string{secret}, ErrStale},
		{"of the future", signed(t, secret, id, now.Add(Tolerance+time.Second), body), body, []string{secret}, ErrStale},
	} {
		if err := verify(test.header, []byte(test.body), now, test.secrets); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	for _, bad := range [][]string{nil, {""}, {"whsec_"}, {"whsec_!"}} {
		if err := verify(with(same), []byte(body), now, bad); err == nil {
			t.Errorf("secrets %q: no error", bad)
		}
	}
}

func TestRead(t *testing.T) {
	request := func(body string) *http.Request {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
		r.Header = signed(t, secret, "evt_1", time.Now(), body)
		return r
	}
	events, err := Read(request(`{"id":"evt_1","type":"message.read","data":{"id":"m","status_seq":5}}`), secret)
	if err != nil || len(events) != 1 || events[0].Data.Seq != 5 {
		t.Errorf("one event: %+v, %v", events, err)
	}
	events, err = Read(request(` [{"id":"a","specversion":"1.0"},{"id":"b"}]`), secret)
	if err != nil || len(events) != 2 || events[1].ID != "b" {
		t.Errorf("a batch: %+v, %v", events, err)
	}
	for _, body := range []string{``, `5`, `{`, `["a"]`, strings.Repeat(" ", MaxBody+1)} {
		if events, err := Read(request(body), secret); err == nil {
			t.Errorf("body of %d bytes: %+v", len(body), events)
		}
	}
	if _, err := Read(request(`{}`), other); !errors.Is(err, ErrSignature) {
		t.Errorf("another secret: %v", err)
	}
}
