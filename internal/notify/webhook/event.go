package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/notify"
	"github.com/esh3artech/esh3ar/internal/store"
)

// The forms of a body.
const (
	formatEvent      = "event"
	formatCloudEvent = "cloudevents"
)

// keyOf names an event.
func keyOf(e *esh3ar.Event) store.EventKey { return store.EventKey{Message: e.Message, Seq: e.Seq} }

// eventID is the webhook-id of a request with that event alone, and the event's id in any body. It is the
// same at every repeat, so that receivers know one.
func eventID(k store.EventKey) string {
	b := k.Message.Append([]byte("evt_"))
	return string(strconv.AppendUint(append(b, '_'), uint64(k.Seq), 10))
}

// requestID is the webhook-id of a request with these events.
func requestID(keys []store.EventKey) string {
	if len(keys) == 1 {
		return eventID(keys[0])
	}
	h := sha256.New()
	for _, k := range keys {
		h.Write([]byte(eventID(k)))
		h.Write([]byte{0})
	}
	return "bat_" + hex.EncodeToString(h.Sum(nil)[:16])
}

// appendEvent appends an event as webhooks tell it: like the event stream, but with an id that does not
// depend on where its reader was.
func appendEvent(dst []byte, format string, e *esh3ar.Event) []byte {
	told := notify.Event{Event: *e, Cursor: eventID(keyOf(e))}
	start := len(dst)
	dst = told.AppendJSON(dst)
	if format == formatCloudEvent {
		dst = envelope(dst, start)
	}
	return dst
}

// envelope makes a CloudEvent of the event that begins there, which has its members already but for those
// that say the same in every event.
func envelope(dst []byte, start int) []byte {
	event := string(dst[start+1:])
	dst = append(dst[:start], `{"specversion":"1.0","source":"/v1/events","datacontenttype":"application/json",`...)
	return append(dst, event...)
}

// bodyOf returns the body of a request and its content type. An endpoint that takes batches always gets an
// array.
func bodyOf(hook *store.Webhook, events []*esh3ar.Event) (body []byte, contentType string) {
	body = make([]byte, 0, 400*len(events)+2)
	batch := hook.BatchMax > 1
	if batch {
		body = append(body, '[')
	}
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendEvent(body, hook.Format, e)
	}
	if batch {
		body = append(body, ']')
	}
	return body, contentTypeOf(hook)
}

func contentTypeOf(hook *store.Webhook) string {
	switch {
	case hook.Format != formatCloudEvent:
		return "application/json"
	case hook.BatchMax > 1:
		return "application/cloudevents-batch+json"
	}
	return "application/cloudevents+json"
}

// testBody returns the body of a test and its content type.
func testBody(hook *store.Webhook, id string, at time.Time) (body []byte, contentType string) {
	event := []byte(`{"id":"` + id + `","type":"webhook.test","time":"` + at.UTC().Format(timeFormat) +
		`","data":{"webhook":"` + hook.ID + `"}}`)
	if hook.Format == formatCloudEvent {
		event = envelope(event, 0)
	}
	if hook.BatchMax > 1 {
		event = append(append([]byte{'['}, event...), ']')
	}
	return event, contentTypeOf(hook)
}

// timeFormat is RFC 3339 with six digits of a second, as everywhere in the API.
const timeFormat = "2006-01-02T15:04:05.000000Z07:00"
