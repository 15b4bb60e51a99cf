package esh3ar

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind classifies an error by what its receiver can do about it. Each kind maps to one HTTP status,
// in one place (internal/ingest).
type Kind uint8

// The kinds of error. KindInternal is the zero value: an error that nobody classified.
const (
	KindInternal            Kind = iota // a defect or an unclassified fault of ours
	KindInvalid                         // the request can never succeed as it is
	KindUnauthorized                    // no key, or not a known one
	KindForbidden                       // a known caller who may not do this
	KindNotFound                        // no such thing, or not the caller's
	KindConflict                        // the thing's state does not allow it
	KindMismatch                        // an idempotency key was used with another body
	KindTooLarge                        // over a stated size limit
	KindRateLimited                     // the client's own limit; wait RetryAfter
	KindUnavailable                     // surely not done; wait RetryAfter
	KindOutcomeUnknown                  // may have been done; repeat with the same idempotency key
	KindInsufficientStorage             // surely not done: the disk reserve is reached
	KindGone                            // was there and is not any more
	KindStale                           // the thing was changed since the caller looked at it
)

var kindNames = [...]string{
	"internal", "invalid", "unauthorized", "forbidden", "not_found", "conflict", "mismatch",
	"too_large", "rate_limited", "unavailable", "outcome_unknown", "insufficient_storage", "gone", "stale",
}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Error is an error with a kind, a stable code and a sentence that is safe to show to the caller.
type Error struct {
	Kind Kind
	// Code is a stable machine-readable word such as "recipient_too_long".
	Code string
	// Message is one sentence for people that says what to do. It holds no secrets and no internals.
	Message string
	// Pointer is the JSON pointer of the field at fault, "" when the fault is not a field's.
	Pointer string
	// RetryAfter is how long to wait where waiting helps, 0 where it does not.
	RetryAfter time.Duration
	// Err is the cause for the log, never shown to callers. May be nil.
	Err error
}

// Errorf returns an *Error of that kind and code with a formatted safe message.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// At returns a copy of e that names the field at fault by its JSON pointer.
func (e *Error) At(pointer string) *Error {
	c := *e
	c.Pointer = pointer
	return &c
}

// After returns a copy of e that says how long to wait before trying again.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Because returns a copy of e with its cause.
func (e *Error) Because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Error returns the safe message, with the field and the cause when there are any.
func (e *Error) Error() string {
	s := e.Message
	if e.Pointer != "" {
		s = e.Pointer + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Faults is everything that is wrong with one request, so that all of it is told at one time.
type Faults []*Error

// Add adds a fault of KindInvalid of the field with that JSON pointer.
func (f *Faults) Add(pointer, code, format string, args ...any) {
	*f = append(*f, Errorf(KindInvalid, code, format, args...).At(pointer))
}

// Join adds an error, if there is one, as the fault of the field with that JSON pointer.
func (f *Faults) Join(pointer string, err error) {
	if err == nil {
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		e = Errorf(KindInvalid, "invalid", "the field is invalid").Because(err)
	}
	*f = append(*f, e.At(pointer))
}

// Err returns the faults as an error, nil if there are none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// Error joins the messages.
func (f Faults) Error() string {
	var b strings.Builder
	for i, e := range f {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.Error())
	}
	return b.String()
}

// Unwrap returns the faults one by one, so that errors.As and KindOf find the first.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, e := range f {
		errs[i] = e
	}
	return errs
}

// KindOf returns the kind of the first *Error in err's chain, KindInternal when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}
