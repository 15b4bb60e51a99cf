package notify

import (
	"context"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Limits of a page.
const (
	defaultPage = 100
	maxPage     = 500
)

// pageTime bounds how long a page may take.
const pageTime = 5 * time.Second

// request is what GET /v1/events is asked for.
type request struct {
	start  Start
	filter Filter
	limit  int
	stream bool
}

// ServeEvents serves GET /v1/events for that client: a page, or a stream when the request accepts one.
// Check reports whether the caller may still have what he was given. What is wrong before the answer
// begins is returned, to be told as a problem; the answer of a stream tells the rest itself.
func (s *Service) ServeEvents(w http.ResponseWriter, r *http.Request, client string, check func(context.Context) error) error {
	q, err := parseRequest(r)
	if err != nil {
		return err
	}
	if q.stream {
		return s.serveStream(w, r, client, &q, check)
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageTime)
	defer cancel()
	page, err := s.Page(ctx, client, q.start, q.filter, q.limit)
	if err != nil {
		return err
	}
	body := append(make([]byte, 0, 256*(len(page.Events)+1)), `{"events":[`...)
	for i := range page.Events {
		if i > 0 {
			body = append(body, ',')
		}
		body = page.Events[i].AppendJSON(body)
	}
	body = append(body, `],"next_cursor":"`...)
	body = append(body, page.Next...)
	body = append(body, `","more":`...)
	body = strconv.AppendBool(body, page.More)
	body = append(body, "}\n"...)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // fails only if the client has gone
	s.metrics.told.WithLabelValues("page").Add(float64(len(page.Events)))
	return nil
}

// parseRequest reads the query and the header fields that count. Its errors are *esh3ar.Error of
// KindInvalid that name the parameter.
func parseRequest(r *http.Request) (request, error) {
	q := request{limit: defaultPage, stream: r.Method == http.MethodGet && acceptsStream(r.Header)}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, esh3ar.Errorf(esh3ar.KindInvalid, "malformed_query", "the query string is malformed; percent-encode its values")
	}
	for name, v := range values {
		if len(v) > 1 {
			return q, esh3ar.Errorf(esh3ar.KindInvalid, "duplicate_parameter", "the query parameter is given twice").At(clip(name))
		}
		if err := q.set(name, v[0]); err != nil {
			return q, at(err, name)
		}
	}
	if fields := r.Header.Values("Last-Event-ID"); q.stream && len(fields) > 0 && fields[0] != "" {
		// A browser that reconnects repeats the address that it began with.
		q.start.Cursor = fields[0]
	}
	if len(q.start.Cursor) > maxCursor {
		return q, esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is too long to be one").At("cursor")
	}
	return q, nil
}

// set takes one query parameter.
func (q *request) set(name, value string) error {
	if value == "" && slices.Contains([]string{"cursor", "from", "status", "type", "limit"}, name) {
		return nil // as if it were left out
	}
	switch name {
	case "cursor":
		q.start.Cursor = value
	case "from":
		switch value {
		case "start", "now":
			q.start.Oldest = value == "start"
		default:
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_from", "from is start, for the oldest events that are kept, or now")
		}
	case "status":
		return q.filter.add(value, "")
	case "type":
		return q.filter.add(value, typePrefix)
	case "limit":
		n, err := strconv.Atoi(value)
		switch {
		case q.stream:
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "a stream has no limit; leave it out")
		case err != nil || n < 1 || n > maxPage:
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "the limit is a number from 1 to %d", maxPage)
		}
		q.limit = n
	default:
		return esh3ar.Errorf(esh3ar.KindInvalid, "unknown_parameter", "there is no such query parameter")
	}
	return nil
}

// at names the parameter at fault.
func at(err error, parameter string) error {
	if e, ok := err.(*esh3ar.Error); ok {
		return e.At(clip(parameter))
	}
	return err
}

// acceptsStream reports whether the request asks for server-sent events by name.
func acceptsStream(h http.Header) bool {
	for _, field := range h.Values("Accept") {
		for part := range strings.SplitSeq(field, ",") {
			media, params, err := mime.ParseMediaType(part)
			if err == nil && media == "text/event-stream" {
				q, err := strconv.ParseFloat(params["q"], 64)
				return err != nil || q > 0
			}
		}
	}
	return false
}
