// Package jsonobject reads the small JSON objects that requests carry, and refuses what is none in the words
// of the API. What the members mean is the caller's to say.
package jsonobject

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/esh3artech/esh3ar"
)

// Member is one member of an object, as it stands there.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Pointer is the JSON pointer of the member; of a long name it has the beginning.
func (m Member) Pointer() string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(Clip(m.Name))
}

// Read reads the members of an object of at most limit bytes, in their order and with repeated names. An
// empty body is one without members. Its error is an *esh3ar.Error when the body is no JSON object; when the
// body did not arrive it wraps why.
func Read(from io.Reader, limit int64) ([]Member, error) {
	body, err := io.ReadAll(io.LimitReader(from, limit+1))
	switch {
	case err != nil:
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "body_incomplete", "the body ended before its announced length").Because(err)
	case int64(len(body)) > limit:
		return nil, esh3ar.Errorf(esh3ar.KindTooLarge, "body_too_large", "the body has at most %d bytes", limit)
	case len(bytes.TrimSpace(body)) == 0:
		return nil, nil
	case !utf8.Valid(body):
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "invalid_utf8", "the body is not valid UTF-8")
	case !json.Valid(body):
		var v any
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "malformed_json", "the body is not JSON: %v", json.Unmarshal(body, &v))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, esh3ar.Errorf(esh3ar.KindInvalid, "not_an_object", "the body must be a JSON object")
	}
	var members []Member
	for d.More() {
		t, err := d.Token()
		m := Member{}
		var ok bool
		if m.Name, ok = t.(string); ok {
			err = d.Decode(&m.Value)
		}
		if err != nil || !ok { // the text was found valid above
			return nil, errors.Join(errors.New("jsonobject: a valid JSON text does not decode"), err)
		}
		members = append(members, m)
	}
	return members, nil
}

// Clip bounds what of a caller's text is repeated to it.
func Clip(s string) string {
	const most = 64
	if len(s) <= most {
		return strings.ToValidUTF8(s, "\ufffd")
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
