package ingest

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Limits of a listing.
const (
	defaultPage = 50
	maxPage     = 200
	maxCursor   = 1024 // bytes
)

// readTime bounds how long a question about messages may take.
const readTime = 5 * time.Second

// show serves GET /v1/messages/{id}.
func (a *API) show(w http.ResponseWriter, r *http.Request) error {
	client, err := a.keys.caller(r, esh3ar.ScopeRead)
	if err != nil {
		return err
	}
	id, err := esh3ar.ParseID(r.PathValue("id"))
	if err != nil {
		return err
	}
	if len(r.URL.RawQuery) > 0 {
		if err := onlyParameters(r.URL.Query()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	row, err := a.messages.Message(ctx, client.ID, id)
	if err != nil {
		return readError(err)
	}
	// Whoever answers keeps messages apart by client; an error there must not show one to another.
	if row.Message.Client != client.ID {
		return store.ErrNotFound
	}
	a.answer(w, http.StatusOK, append(appendMessage(nil, &row, true), '\n'))
	return nil
}

// list serves GET /v1/messages.
func (a *API) list(w http.ResponseWriter, r *http.Request) error {
	client, err := a.keys.caller(r, esh3ar.ScopeRead)
	if err != nil {
		return err
	}
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	q.Client = client.ID
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	page, err := a.messages.Messages(ctx, q)
	if err != nil {
		return readError(err)
	}
	out := append(make([]byte, 0, 512*(len(page.Rows)+1)), `{"messages":[`...)
	for i := range page.Rows {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendMessage(out, &page.Rows[i], false)
	}
	a.answer(w, http.StatusOK, appendNext(append(out, ']'), page.Next))
	return nil
}

// readError is how a failed question about messages is told: what is not classified may pass.
func readError(err error) error {
	if e := asError(err); e.Kind != esh3ar.KindInternal {
		return e
	}
	return esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable", "messages cannot be looked up at the moment; try again").
		After(time.Second).Because(err)
}

// answer writes a whole JSON answer that must not be cached.
func (a *API) answer(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = a.jsonType
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only if the client has gone
}

// parseQuery reads the filters of a listing. Its error is faults that name the parameters.
func parseQuery(raw string) (store.Query, error) {
	q := store.Query{Limit: defaultPage}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, esh3ar.Errorf(esh3ar.KindInvalid, "malformed_query", "the query string is malformed; percent-encode its values")
	}
	var wrong faults
	if err := onlyParameters(values, "to", "status", "from", "until", "cursor", "limit"); err != nil {
		wrong = err.(faults)
	}
	// Each takes the value of one parameter, if there is one.
	take := func(name string, parse func(string) error) {
		if v := values.Get(name); v != "" {
			if err := parse(v); err != nil {
				wrong = append(wrong, asError(err).At(name))
			}
		}
	}
	take("to", func(v string) (err error) {
		// In a query a plus sign that is not encoded means a space; no recipient begins with one.
		if len(v) > 1 && v[0] == ' ' && v[1] >= '0' && v[1] <= '9' {
			v = "+" + v[1:]
		}
		q.To, err = esh3ar.NormalizeRecipient(v)
		return err
	})
	take("status", func(v string) (err error) {
		q.Status, err = esh3ar.ParseStatus(clip(v))
		return err
	})
	take("from", func(v string) (err error) {
		q.From, err = parseTime(v)
		return err
	})
	take("until", func(v string) (err error) {
		q.Until, err = parseTime(v)
		return err
	})
	take("cursor", func(v string) error {
		if len(v) > maxCursor {
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "give the cursor as the page before gave it in next_cursor")
		}
		q.Cursor = v
		return nil
	})
	take("limit", func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxPage {
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "the limit is a number from 1 to %d", maxPage)
		}
		q.Limit = n
		return nil
	})
	if len(wrong) > 0 {
		return q, wrong
	}
	return q, nil
}

// onlyParameters returns faults if there are other parameters than the named ones, or one of these
// twice.
func onlyParameters(values url.Values, names ...string) error {
	var wrong faults
	for name, v := range values {
		known := false
		for _, n := range names {
			known = known || n == name
		}
		switch {
		case len(wrong) == maxFaults:
		case !known:
			wrong = append(wrong, esh3ar.Errorf(esh3ar.KindInvalid, "unknown_parameter", "there is no such query parameter").At(clip(name)))
		case len(v) > 1:
			wrong = append(wrong, esh3ar.Errorf(esh3ar.KindInvalid, "duplicate_parameter", "the query parameter is given twice").At(name))
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// appendMessage appends a message as the API shows it. Only in full does it carry its payload and its
// timeline.
func appendMessage(dst []byte, row *store.Row, full bool) []byte {
	m, s := &row.Message, &row.State
	dst = append(dst, `{"id":"`...)
	dst = m.ID.Append(dst)
	dst = append(dst, `","status":"`...)
	dst = append(dst, s.Status.String()...)
	dst = append(dst, `","status_seq":`...)
	dst = strconv.AppendUint(dst, uint64(s.Seq()), 10)
	dst = append(dst, `,"attempts":`...)
	dst = strconv.AppendUint(dst, uint64(s.Attempts), 10)
	dst = append(dst, `,"to":`...)
	dst = appendString(dst, m.To)
	if m.From != "" {
		dst = append(dst, `,"from":`...)
		dst = appendString(dst, m.From)
	}
	if m.Type != "" {
		dst = append(dst, `,"type":`...)
		dst = appendString(dst, m.Type)
	}
	if m.Stripped {
		dst = append(dst, `,"payload_unavailable":true`...)
	} else if full {
		if m.Data != nil {
			dst = append(dst, `,"data":`...)
			dst = append(dst, m.Data...)
		} else {
			dst = append(dst, `,"content":`...)
			dst = appendString(dst, m.Content)
		}
	}
	if len(m.Metadata) > 0 {
		dst = append(dst, `,"metadata":`...)
		dst = appendStrings(dst, m.Metadata)
	}
	dst = appendTimeMember(dst, "accepted_at", m.AcceptedAt)
	dst = appendTimeMember(dst, "send_at", m.SendAt)
	dst = appendTimeMember(dst, "expires_at", m.ExpiresAt)
	if !s.Status.Final() {
		dst = appendTimeMember(dst, "next_attempt_at", s.NotBefore)
	}
	if full {
		dst = append(dst, `,"timeline":[`...)
		for i := range s.Timeline {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendTransition(dst, &s.Timeline[i])
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func appendTransition(dst []byte, t *esh3ar.Transition) []byte {
	dst = append(dst, `{"status":"`...)
	dst = append(dst, t.Status.String()...)
	dst = append(dst, `","status_seq":`...)
	dst = strconv.AppendUint(dst, uint64(t.Seq), 10)
	dst = appendTimeMember(dst, "at", t.At)
	if t.Attempt > 0 {
		dst = append(dst, `,"attempt":`...)
		dst = strconv.AppendUint(dst, uint64(t.Attempt), 10)
	}
	if t.Reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = appendString(dst, string(t.Reason))
	}
	return append(dst, '}')
}

// appendTimeMember appends a member of an object that has others before, unless t is zero.
func appendTimeMember(dst []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return appendTime(dst, t)
}
