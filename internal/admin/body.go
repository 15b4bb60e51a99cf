package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/esh3artech/esh3ar"
)

const (
	maxBody = 16 << 10 // bytes of a request's body
	// maxFaults bounds how many faults of one request are told at once.
	maxFaults = 20
)

// fields are those that a request's body may have, each with what reads its JSON. An error that it returns
// is a fault of the field.
type fields map[string]func(json.RawMessage) error

// read reads a JSON object. An empty body is one without fields. Its error is an *esh3ar.Error when the body
// is no JSON object, and esh3ar.Faults with everything that is wrong with its fields.
func (f fields) read(r *http.Request) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return esh3ar.Errorf(esh3ar.KindInvalid, "body_incomplete", "the body ended before its announced length").Because(err)
	case len(body) > maxBody:
		return esh3ar.Errorf(esh3ar.KindTooLarge, "body_too_large", "the body has at most %d bytes", maxBody)
	case len(bytes.TrimSpace(body)) == 0:
		return nil
	case !utf8.Valid(body):
		return esh3ar.Errorf(esh3ar.KindInvalid, "invalid_utf8", "the body is not valid UTF-8")
	case !json.Valid(body):
		var v any
		return esh3ar.Errorf(esh3ar.KindInvalid, "malformed_json", "the body is not JSON: %v", json.Unmarshal(body, &v))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return esh3ar.Errorf(esh3ar.KindInvalid, "not_an_object", "the body must be a JSON object")
	}
	var faults esh3ar.Faults
	seen := make(map[string]bool)
	for d.More() && len(faults) < maxFaults {
		t, err := d.Token()
		name, ok := t.(string)
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil || !ok { // the text was found valid above
			return errors.Join(errors.New("admin: a valid JSON text does not decode"), err)
		}
		read, known := f[name]
		pointer := "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(clip(name))
		switch {
		case !known:
			faults.Add(pointer, "unknown_field", "there is no such field")
		case seen[name]:
			faults.Add(pointer, "duplicate_field", "the field is given twice")
		default:
			faults.Join(pointer, read(value))
		}
		seen[name] = true
	}
	return faults.Err()
}

// clip bounds what of a caller's text is repeated to it.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return strings.ToValidUTF8(s, "\ufffd")
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// to returns what reads a field into v; null is its zero value. What says what is expected.
func to[T any](v *T, what string) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var fresh T
		if json.Unmarshal(raw, &fresh) != nil {
			return esh3ar.Errorf(esh3ar.KindInvalid, "wrong_type", "must be %s", what)
		}
		*v = fresh
		return nil
	}
}

// parsed is to for what is written as a string and has a meaning that parse finds.
func parsed[S, T any](v *T, what string, parse func(S) (T, error)) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var text S
		if err := to(&text, what)(raw); err != nil {
			return err
		}
		fresh, err := parse(text)
		if err == nil {
			*v = fresh
		}
		return err
	}
}

// scopes returns what reads a list of scopes.
func scopes(s *esh3ar.Scopes) func(json.RawMessage) error {
	return parsed(s, "an array of the scopes "+esh3ar.AllScopes.String(), func(names []string) (esh3ar.Scopes, error) {
		if len(names) > 32 {
			return 0, esh3ar.Errorf(esh3ar.KindInvalid, "list_too_long", "the list has at most 32 scopes")
		}
		return esh3ar.ParseScopes(names...)
	})
}

// moment returns what reads a time, to the microsecond that is kept.
func moment(t *time.Time) func(json.RawMessage) error {
	return parsed(t, "a time as in 2026-01-02T15:04:05Z", func(s *string) (time.Time, error) {
		if s == nil {
			return time.Time{}, nil
		}
		at, err := time.Parse(time.RFC3339, *s)
		if err != nil {
			return at, esh3ar.Errorf(esh3ar.KindInvalid, "bad_time", "must be a time as in 2026-01-02T15:04:05Z")
		}
		return at.UTC().Truncate(time.Microsecond), nil
	})
}

// noBody reads a request that says all in its path.
func noBody(r *http.Request) error { return fields{}.read(r) }
