package jsonobject_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/jsonobject"
)

func TestRead(t *testing.T) {
	for body, want := range map[string][]string{
		"":                                    nil,
		" \n":                                 nil,
		"{}":                                  nil,
		`{"a":1,"a~/b" : {"c":[2]},"a":null}`: {"/a 1", `/a~0~1b {"c":[2]}`, "/a null"},
		`{"` + strings.Repeat("x", 63) + `é": "\u00"}`: nil,
		`{"` + strings.Repeat("x", 63) + `é": ""}`:     {"/" + strings.Repeat("x", 63) + `… ""`},
	} {
		members, err := jsonobject.Read(strings.NewReader(body), 100)
		var got []string
		for _, m := range members {
			got = append(got, m.Pointer()+" "+string(m.Value))
		}
		if wrong := strings.Contains(body, `\u00"`); (err != nil) != wrong || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", body, got, err, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	late := errors.New("too late")
	for code, body := range map[string]io.Reader{
		"body_too_large":  strings.NewReader(`{"a":"` + strings.Repeat("x", 100) + `"}`),
		"invalid_utf8":    strings.NewReader("{\"a\":\"\xff\"}"),
		"malformed_json":  strings.NewReader(`{"a":1}{}`),
		"not_an_object":   strings.NewReader(`["a"]`),
		"body_incomplete": io.MultiReader(strings.NewReader(`{"a"`), failing{late}),
	} {
		_, err := jsonobject.Read(body, 100)
		e, ok := errors.AsType[*esh3ar.Error](err)
		if !ok || e.Code != code {
			t.Errorf("got error %v, want one with code %s", err, code)
		}
		if (code == "body_incomplete") != errors.Is(err, late) {
			t.Errorf("%s: error %v does not say why", code, err)
		}
	}
}

// failing is a body that does not arrive.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
