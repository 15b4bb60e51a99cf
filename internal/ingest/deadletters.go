package ingest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Operator changes what becomes of accepted messages: the owner of their shard. Each method returns the
// message as it is when the change is stored, or an *esh3ar.Error: KindNotFound, KindConflict when the
// message's state does not allow it, KindUnavailable, KindOutcomeUnknown.
type Operator interface {
	Cancel(ctx context.Context, client string, id esh3ar.ID) (store.Row, error)
	Replay(ctx context.Context, client string, id esh3ar.ID) (store.Row, error)
	Discard(ctx context.Context, client string, id esh3ar.ID, why string) (store.Row, error)
}

const (
	maxDiscardRequest = 4 << 10 // bytes of the body
	maxDiscardReason  = 200     // bytes
	// auditTime bounds the writing of an entry of the audit log.
	auditTime = 2 * time.Second
	// deadScan is how many undelivered messages one request looks at. A page may be short, or empty,
	// and have a next cursor all the same.
	deadScan = 2000
)

// cancel serves DELETE /v1/messages/{id}.
func (a *API) cancel(w http.ResponseWriter, r *http.Request) error {
	client, err := a.keys.caller(r, esh3ar.ScopeSend)
	if err != nil {
		return err
	}
	_, err = a.operate(w, r, client, a.operator.Cancel)
	return err
}

// deadLetter serves POST /v1/dead-letters/{id}/replay and /discard.
func (a *API) deadLetter(w http.ResponseWriter, r *http.Request, action string) error {
	client, err := a.keys.caller(r, esh3ar.ScopeDeadLetters)
	if err != nil {
		return err
	}
	change, why := a.operator.Replay, ""
	if action == "discard" {
		if why, err = readDiscard(r); err != nil {
			return err
		}
		change = func(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
			return a.operator.Discard(ctx, client, id, why)
		}
	}
	id, err := a.operate(w, r, client, change)
	if err != nil {
		return err
	}
	var detail []byte
	if why != "" {
		detail = append(appendString([]byte(`{"reason":`), why), '}')
	}
	a.audit(r, client, "dead_letter."+action, id.String(), detail)
	return nil
}

// audit notes in the audit log what a client has done. It is done, so that a store which does not take the
// entry does not undo it; the log has it then.
func (a *API) audit(r *http.Request, client *grant, action, object string, detail []byte) {
	e := store.AuditEntry{
		At: a.now(), Actor: client.ID + "/" + client.key.ID, Address: hostOf(r.RemoteAddr), Action: action,
		Client: client.ID, Object: object, Detail: detail,
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), auditTime)
	defer cancel()
	if err := a.auditor.Audit(ctx, e); err != nil {
		a.log.LogAttrs(ctx, slog.LevelError, "the audit log misses an entry", slog.String("actor", e.Actor), slog.String("address", e.Address),
			slog.String("action", action), slog.String("object", object), slog.String("detail", string(detail)), slog.Any("error", err))
	}
}

// hostOf returns a network address without its port.
func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// operate finds the message, changes it, and answers with what it is then.
func (a *API) operate(w http.ResponseWriter, r *http.Request, client *grant,
	change func(context.Context, string, esh3ar.ID) (store.Row, error),
) (esh3ar.ID, error) {
	id, err := esh3ar.ParseID(r.PathValue("id"))
	if err != nil {
		return id, err
	}
	if err := onlyParameters(r.URL.Query()); err != nil {
		return id, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	row, err := change(ctx, client.ID, id)
	if err != nil {
		return id, readError(err)
	}
	a.answer(w, http.StatusOK, append(appendMessage(nil, &row, true), '\n'))
	return id, nil
}

// deadFilter is what of the dead-letter queue is asked for.
type deadFilter struct {
	store.Query
	label  string // Type
	reason string
}

// matches reports whether a row that the query found is among what is asked for.
func (f *deadFilter) matches(row *store.Row) bool {
	why := string(row.State.Last().Reason)
	return row.State.Status == esh3ar.StatusUndelivered &&
		!strings.HasPrefix(why, string(esh3ar.ReasonDiscarded)) &&
		(f.label == "" || row.Message.Type == f.label) &&
		(f.reason == "" || why == f.reason)
}

// askedFor finds the caller and reads what of its dead-letter queue it asks for.
func (a *API) askedFor(r *http.Request) (*grant, deadFilter, error) {
	client, err := a.keys.caller(r, esh3ar.ScopeDeadLetters)
	if err != nil {
		return nil, deadFilter{}, err
	}
	f, err := parseDeadFilter(r.URL.RawQuery)
	f.Client = client.ID
	return client, f, err
}

// parseDeadFilter reads the filters of the dead-letter queue, which are those of a listing without the
// status and with two of its own.
func parseDeadFilter(raw string) (deadFilter, error) {
	var f deadFilter
	values, err := url.ParseQuery(raw)
	if err != nil {
		return f, esh3ar.Errorf(esh3ar.KindInvalid, "malformed_query", "the query string is malformed; percent-encode its values")
	}
	if err := onlyParameters(values, "to", "type", "reason", "from", "until", "cursor", "limit"); err != nil {
		return f, err
	}
	f.label, f.reason = values.Get("type"), values.Get("reason")
	values.Del("type")
	values.Del("reason")
	f.Query, err = parseQuery(values.Encode())
	f.Status = esh3ar.StatusUndelivered
	return f, err
}

// eachDead calls do with the messages of the dead-letter queue that the filter matches, newest first,
// until there were limit of them or enough was looked at. It returns the cursor to go on from, "" at the
// end. An error of do ends it, and counts as its own.
func (a *API) eachDead(ctx context.Context, f deadFilter, do func(*store.Row) error) (next string, err error) {
	limit, found := f.Limit, 0
	for looked := 0; looked < deadScan && found < limit; {
		// Never more than are still wanted, so that the cursor does not go past one that matches.
		f.Limit = limit - found
		page, err := a.messages.Messages(ctx, f.Query)
		if err != nil {
			return "", err
		}
		looked += len(page.Rows)
		for i := range page.Rows {
			if !f.matches(&page.Rows[i]) {
				continue
			}
			found++
			if err := do(&page.Rows[i]); err != nil {
				return "", err
			}
		}
		if f.Cursor = page.Next; f.Cursor == "" {
			return "", nil
		}
	}
	return f.Cursor, nil
}

// listDead serves GET /v1/dead-letters.
func (a *API) listDead(w http.ResponseWriter, r *http.Request) error {
	_, f, err := a.askedFor(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTime)
	defer cancel()
	out := []byte(`{"dead_letters":[`)
	start := len(out)
	next, err := a.eachDead(ctx, f, func(row *store.Row) error {
		if len(out) > start {
			out = append(out, ',')
		}
		out = appendDead(out, row)
		return nil
	})
	if err != nil {
		return readError(err)
	}
	a.answer(w, http.StatusOK, appendNext(append(out, ']'), next))
	return nil
}

// appendDead appends a message of the dead-letter queue: the message, when it died and why.
func appendDead(dst []byte, row *store.Row) []byte {
	dst = appendMessage(dst, row, false)
	last := row.State.Last()
	dst = appendTimeMember(dst[:len(dst)-1], "undelivered_at", last.At)
	dst = append(dst, `,"reason":`...)
	return append(appendString(dst, string(last.Reason)), '}')
}

// appendNext appends the cursor of the next page, if there is one, and the end of the answer.
func appendNext(dst []byte, next string) []byte {
	if next != "" {
		dst = append(dst, `,"next_cursor":`...)
		dst = appendString(dst, next)
	}
	return append(dst, "}\n"...)
}

// replayAll serves POST /v1/dead-letters/replay: it replays what the filter matches, at most limit of
// them.
func (a *API) replayAll(w http.ResponseWriter, r *http.Request) error {
	client, f, err := a.askedFor(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), replayTime)
	defer cancel()
	replayed, skipped := 0, 0
	next, err := a.eachDead(ctx, f, func(row *store.Row) error {
		_, err := a.operator.Replay(ctx, f.Client, row.Message.ID)
		switch esh3ar.KindOf(err) {
		case esh3ar.KindConflict, esh3ar.KindNotFound: // somebody else was faster
			skipped++
			return nil
		}
		if err == nil {
			replayed++
		}
		return err
	})
	out := strconv.AppendInt([]byte(`{"replayed":`), int64(replayed), 10)
	out = strconv.AppendInt(append(out, `,"skipped":`...), int64(skipped), 10)
	if replayed > 0 {
		a.audit(r, client, "dead_letter.replay", "", append(slices.Clip(out), '}'))
	}
	if err != nil {
		return readError(err)
	}
	a.answer(w, http.StatusOK, appendNext(out, next))
	return nil
}

// replayTime bounds a bulk replay. What it has not done by then can be asked for again.
const replayTime = 25 * time.Second

// readDiscard reads {"reason": words}, or nothing.
func readDiscard(r *http.Request) (why string, err error) {
	body, err := readBody(r, nil, maxDiscardRequest)
	if err != nil || len(body) == 0 {
		return "", err
	}
	if err := checkContentType(r.Header); err != nil {
		return "", err
	}
	var d decoder
	if err := d.open(body); err != nil {
		return "", err
	}
	seen := false
	for n := 0; d.member(n); n++ {
		c := d.peek()
		switch {
		case d.name != "reason":
			d.fault(pointer("", clip(d.name)), "unknown_field", "a request to discard has no such field")
			d.skip(1)
		case seen:
			d.fault("/reason", "duplicate_field", "the field is given twice")
			d.skip(1)
		case c != '"':
			if d.skip(1) {
				d.refuse("/reason", wrongType("a string", c))
			}
		default:
			seen = true
			raw, ok := d.str()
			if ok && len(raw) > maxDiscardReason {
				d.fault("/reason", "reason_too_long", "the reason has at most %d bytes", maxDiscardReason)
			}
			why = strings.Clone(raw)
		}
	}
	switch {
	case !d.end():
		return "", d.err
	case len(d.faults) > 0:
		return "", d.faults
	}
	return why, nil
}
