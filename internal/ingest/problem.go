package ingest

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
)

// kindHTTP is how a kind of error is told over HTTP. This is the one place that says it.
type kindHTTP struct {
	status int
	title  string
	// permanent: the same request will fail again.
	permanent bool
}

func httpOf(k esh3ar.Kind) kindHTTP {
	switch k {
	case esh3ar.KindInvalid:
		return kindHTTP{http.StatusBadRequest, "The request is invalid", true}
	case esh3ar.KindUnauthorized:
		return kindHTTP{http.StatusUnauthorized, "Not authenticated", true}
	case esh3ar.KindForbidden:
		return kindHTTP{http.StatusForbidden, "Not allowed", true}
	case esh3ar.KindNotFound:
		return kindHTTP{http.StatusNotFound, "Not found", true}
	case esh3ar.KindConflict:
		return kindHTTP{http.StatusConflict, "Not possible in this state", true}
	case esh3ar.KindMismatch:
		return kindHTTP{http.StatusUnprocessableEntity, "Idempotency key used with another message", true}
	case esh3ar.KindTooLarge:
		return kindHTTP{http.StatusRequestEntityTooLarge, "Too large", true}
	case esh3ar.KindRateLimited:
		return kindHTTP{http.StatusTooManyRequests, "Too many requests", false}
	case esh3ar.KindUnavailable:
		return kindHTTP{http.StatusServiceUnavailable, "Not available now", false}
	case esh3ar.KindOutcomeUnknown:
		return kindHTTP{http.StatusServiceUnavailable, "Outcome unknown", false}
	case esh3ar.KindInsufficientStorage:
		return kindHTTP{http.StatusInsufficientStorage, "No space left", false}
	case esh3ar.KindGone:
		return kindHTTP{http.StatusGone, "Not kept any more", true}
	case esh3ar.KindStale:
		return kindHTTP{http.StatusPreconditionFailed, "Changed meanwhile", true}
	}
	return kindHTTP{http.StatusInternalServerError, "Internal error", false}
}

// faults is everything that is wrong with the fields of one request. A Pointer that begins with a slash is
// a JSON pointer into the body; any other is the name of a query parameter.
type faults = esh3ar.Faults

// problem is an RFC 9457 problem document in the making.
type problem struct {
	status     int
	title      string
	code       string
	detail     string
	permanent  bool
	retryAfter time.Duration
	faults     faults
	allow      string // the Allow header of a 405
	// member is what the document has beside the usual members, "" for nothing.
	member, value string
}

// Error returns the detail.
func (p *problem) Error() string { return p.detail }

// extended is an error whose problem document has one member more.
type extended interface {
	error
	ProblemMember() (name, value string)
}

// problemOf returns how err is told to a caller. It never shows more of err than its safe message.
func problemOf(err error) problem {
	var own *problem
	if errors.As(err, &own) {
		return *own
	}
	var fs faults
	if errors.As(err, &fs) {
		p := newProblem(fs[0])
		p.faults = fs
		if len(fs) > 1 {
			p.code = "invalid_fields"
			p.detail = strconv.Itoa(len(fs)) + " things are wrong with the request; see errors"
		}
		return p
	}
	e := asError(err)
	p := newProblem(e)
	if x, ok := errors.AsType[extended](err); ok {
		p.member, p.value = x.ProblemMember()
	}
	if e.Pointer != "" {
		p.faults = faults{e}
	}
	return p
}

func newProblem(e *esh3ar.Error) problem {
	h := httpOf(e.Kind)
	return problem{
		status:     h.status,
		title:      h.title,
		code:       e.Code,
		detail:     e.Message,
		permanent:  h.permanent && e.RetryAfter == 0,
		retryAfter: e.RetryAfter,
	}
}

// The problems of HTTP itself, which no kind of error stands for.

func notAllowed(allow string) error {
	return &problem{status: http.StatusMethodNotAllowed, title: "Method not allowed", code: "method_not_allowed",
		detail: "this route takes " + allow, permanent: true, allow: allow}
}

func unsupportedMediaType() error {
	return &problem{status: http.StatusUnsupportedMediaType, title: "Unsupported media type", code: "unsupported_media_type",
		detail: "send JSON in UTF-8 with Content-Type: application/json", permanent: true}
}

func bodyTimeout() error {
	return &problem{status: http.StatusRequestTimeout, title: "Request timeout", code: "body_timeout",
		detail: "the body did not arrive in time"}
}

// asError returns the *esh3ar.Error that err is or wraps, or the one that stands for it.
func asError(err error) *esh3ar.Error {
	var e *esh3ar.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, store.ErrNotFound):
		return esh3ar.Errorf(esh3ar.KindNotFound, "message_not_found", "there is no such message, or it is not yours")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return esh3ar.Errorf(esh3ar.KindUnavailable, "timeout", "the answer took too long; try again").After(time.Second).Because(err)
	}
	return esh3ar.Errorf(esh3ar.KindInternal, "internal", "something went wrong here; the failure is in the server's log").Because(err)
}

// levelOf returns at which level a request is logged that ended with an error, of which p is told to the caller.
//
// ERROR is what an operator must look at, because it does not pass by itself: a defect of ours, a disk that is full. WARN is a
// part that does not answer at the moment; if that lasts, readiness says so, too. All else is an answer to the caller, who made a
// mistake, gave up, or is to come back in a moment: DEBUG, which is not logged, because the metrics count it.
func levelOf(p *problem, err error) slog.Level {
	switch {
	case p.status == http.StatusInternalServerError, p.status == http.StatusInsufficientStorage:
		return slog.LevelError
	case p.status < http.StatusInternalServerError, slices.Contains(ordinary, p.code), errors.Is(err, context.Canceled):
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// ordinary are the codes of refusals that a system in order gives.
var ordinary = []string{
	"overloaded",             // there is a limit to everything
	"message_not_stored_yet", // it was accepted a moment ago
	"busy",                   // others change it at the same time
	"shard_moving",           // nodes come and go
	"stopping",               // and end
}

// Problem returns how an error is told over HTTP: its status and its problem document (RFC 9457), which
// shows no more of it than its safe message.
func Problem(err error) (status int, document []byte) {
	p := problemOf(err)
	return p.status, appendProblem(nil, &p)
}

// appendError returns how a failed append is told. Only with journal.ErrUnknown may the message have
// been accepted all the same.
func appendError(err error) *esh3ar.Error {
	var e *esh3ar.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, journal.ErrUnknown):
		e = esh3ar.Errorf(esh3ar.KindOutcomeUnknown, "outcome_unknown",
			"the message may or may not have been accepted; repeat it with the same Idempotency-Key").After(time.Second)
	case errors.Is(err, journal.ErrFull):
		e = esh3ar.Errorf(esh3ar.KindInsufficientStorage, "journal_full", "there is no room to keep the message safe; try again later").After(10 * time.Second)
	case errors.Is(err, journal.ErrOverloaded):
		e = esh3ar.Errorf(esh3ar.KindUnavailable, "overloaded", "more messages arrive than can be written; slow down and try again").After(time.Second)
	case errors.Is(err, journal.ErrUnavailable), errors.Is(err, journal.ErrClosed):
		e = esh3ar.Errorf(esh3ar.KindUnavailable, "journal_unavailable", "messages cannot be accepted at the moment; try again").After(time.Second)
	default:
		e = esh3ar.Errorf(esh3ar.KindInternal, "internal", "something went wrong here; the failure is in the server's log")
	}
	return e.Because(err)
}

// appendProblem appends p as JSON to dst.
func appendProblem(dst []byte, p *problem) []byte {
	dst = append(dst, `{"type":"/problems/`...)
	for i := 0; i < len(p.code); i++ {
		c := p.code[i]
		if c == '_' {
			c = '-'
		}
		dst = append(dst, c)
	}
	dst = append(dst, `","title":`...)
	dst = appendString(dst, p.title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.status), 10)
	dst = append(dst, `,"detail":`...)
	dst = appendString(dst, p.detail)
	dst = append(dst, `,"code":`...)
	dst = appendString(dst, p.code)
	dst = append(dst, `,"permanent":`...)
	dst = strconv.AppendBool(dst, p.permanent)
	if len(p.faults) > 0 {
		dst = append(dst, `,"errors":[`...)
		for i, f := range p.faults {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, '{')
			if f.Pointer == "" || f.Pointer[0] == '/' {
				dst = append(dst, `"pointer":`...)
			} else {
				dst = append(dst, `"parameter":`...)
			}
			dst = appendString(dst, f.Pointer)
			dst = append(dst, `,"code":`...)
			dst = appendString(dst, f.Code)
			dst = append(dst, `,"detail":`...)
			dst = appendString(dst, f.Message)
			dst = append(dst, '}')
		}
		dst = append(dst, ']')
	}
	if p.member != "" {
		dst = append(appendString(append(dst, ','), p.member), ':')
		dst = appendString(dst, p.value)
	}
	return append(dst, '}')
}

// retrySeconds is the value of a Retry-After header: whole seconds, rounded up.
func retrySeconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}
