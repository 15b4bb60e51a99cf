package admin

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/jsonobject"
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
	members, err := jsonobject.Read(r.Body, maxBody)
	if err != nil {
		return err
	}
	var faults esh3ar.Faults
	seen := make(map[string]bool)
	for i := range members {
		if len(faults) == maxFaults {
			break
		}
		m := &members[i]
		read, known := f[m.Name]
		switch {
		case !known:
			faults.Add(m.Pointer(), "unknown_field", "there is no such field")
		case seen[m.Name]:
			faults.Add(m.Pointer(), "duplicate_field", "the field is given twice")
		default:
			faults.Join(m.Pointer(), read(m.Value))
		}
		seen[m.Name] = true
	}
	return faults.Err()
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
