package apidoc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/esh3artech/esh3ar/internal/apidoc"
)

// key is one answer that the description knows: where it is described, and the problem's code, "" for none.
type key struct{ response, code string }

// spec is the OpenAPI document, as clients get it, with its schemas closed: see closed. It is for one goroutine.
type spec struct {
	model    map[string]any
	paths    *http.ServeMux // whose patterns are the document's
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // that were needed so far, by their pointers
	seen     map[key]bool
}

// specURL is what schemas call the document. Nothing can be loaded from there.
const specURL = "https://esh3ar.invalid/openapi.json"

// declared is an operation of the document.
type declared struct {
	name string // method and path
	node map[string]any
}

// readJSON returns the document as it is served.
func readJSON(t *testing.T) map[string]any {
	t.Helper()
	_, text := get(t, apidoc.New(), "/openapi.json", nil)
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("/openapi.json: %v", err)
	}
	return v.(map[string]any)
}

func readSpec(t *testing.T) *spec {
	t.Helper()
	p := &spec{
		model: readJSON(t), paths: http.NewServeMux(), compiler: jsonschema.NewCompiler(),
		schemas: make(map[string]*jsonschema.Schema), seen: make(map[key]bool),
	}
	for _, schema := range p.at("components", "schemas").members() {
		closed(t, schema, false)
	}
	p.each(func(l place) {
		if schema := l.raw("schema"); schema.there() {
			closed(t, schema, true)
		}
	})
	p.compiler.DefaultDraft(jsonschema.Draft2020)
	p.compiler.AssertFormat()
	if err := p.compiler.AddResource(specURL, p.model); err != nil {
		t.Fatal(err)
	}
	for _, o := range p.operations() {
		p.paths.Handle(o.name, http.NotFoundHandler())
	}
	return p
}

// closed makes a schema strict: wherever it describes the members of an object, others are an error. Whole says
// that it describes a value alone, and is not one of several schemas for the same value, whose members only all
// of them together know. A schema that leaves a value open says so: without any type, or with
// additionalProperties: true.
//
// A keyword that is not known here is an error, too: JSON Schema ignores it, so that a misspelt rule would be
// none, and what is below it would stay open.
func closed(t *testing.T, l place, whole bool) {
	t.Helper()
	schema, ok := l.value.(map[string]any)
	if !ok {
		if _, isBool := l.value.(bool); !isBool {
			t.Errorf("%s is no schema", l.pointer)
		}
		return
	}
	object := false
	for name := range schema {
		inner := l.raw(name)
		switch name {
		case "properties":
			object = true
			for _, property := range inner.members() {
				closed(t, property, true)
			}
		case "items", "additionalProperties":
			closed(t, inner, true)
		case "allOf", "anyOf", "oneOf":
			object = true
			for _, part := range inner.elements() {
				closed(t, part, false)
			}
		case "$ref":
			object = true
		case "type":
			object = object || inner.value == "object"
			for _, one := range inner.elements() {
				object = object || one.value == "object"
			}
		case "required", "enum", "const", "default", "description", "format", "pattern", "contentEncoding", "not", "propertyNames",
			"minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "maxProperties", "unevaluatedProperties":
			// They hold no schema of a value that is let in.
		default:
			t.Errorf("%s: %q is no keyword that the tests know", l.pointer, name)
		}
	}
	if _, own := schema["unevaluatedProperties"]; whole && object && !own {
		schema["unevaluatedProperties"] = false
	}
}

// schema returns the schema at a place.
func (p *spec) schema(l place) (*jsonschema.Schema, error) {
	if s := p.schemas[l.pointer]; s != nil {
		return s, nil
	}
	s, err := p.compiler.Compile(specURL + l.pointer)
	if err != nil {
		return nil, err
	}
	p.schemas[l.pointer] = s
	return s, nil
}

// check holds a value against the schema at a place. It may be anything that encoding/json makes JSON of.
func (p *spec) check(l place, v any) error {
	s, err := p.schema(l)
	if err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return checkText(s, text)
}

// checkText holds JSON against a schema.
func checkText(s *jsonschema.Schema, text []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// place is a value in the document. The zero value is an absent one.
type place struct {
	spec    *spec
	pointer string // "#" and a JSON pointer, as it stands in a URL
	value   any
}

func (l place) there() bool { return l.spec != nil }

// at returns what lies at the end of a path of names; see get.
func (p *spec) at(names ...string) place { return place{p, "#", p.model}.get(names...) }

// get returns what lies at the end of a path of names, following every reference on the way, but not one that
// it ends at.
func (l place) get(names ...string) place {
	for _, name := range names {
		l = l.follow().raw(name)
	}
	return l
}

// raw returns a member of the object that is written here.
func (l place) raw(name string) place {
	object, _ := l.value.(map[string]any)
	v, ok := object[name]
	if !ok {
		return place{}
	}
	return place{l.spec, l.pointer + "/" + escaped(name), v}
}

// escaped is a member's name as a part of a place's pointer.
func escaped(name string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
}

// follow returns what a reference leads to, the place itself if it is none, and an absent place if it leads
// nowhere.
func (l place) follow() place {
	for l.there() {
		ref, ok := l.raw("$ref").value.(string)
		if !ok {
			break
		}
		to := place{l.spec, "#", l.spec.model}
		for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			to = to.raw(name)
		}
		l = to
	}
	return l
}

// members returns the members of an object, in the order of their names.
func (l place) members() []place {
	object, _ := l.value.(map[string]any)
	list := make([]place, 0, len(object))
	for _, name := range slices.Sorted(maps.Keys(object)) {
		list = append(list, l.raw(name))
	}
	return list
}

// elements returns the elements of an array.
func (l place) elements() []place {
	array, _ := l.value.([]any)
	list := make([]place, len(array))
	for i, v := range array {
		list[i] = place{l.spec, fmt.Sprintf("%s/%d", l.pointer, i), v}
	}
	return list
}

// each calls f for every object of the document, but those that are examples, or within one.
func (p *spec) each(f func(place)) { p.at().each(f) }

func (l place) each(f func(place)) {
	if object, ok := l.value.(map[string]any); ok {
		f(l)
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if name != "example" && name != "examples" {
				l.raw(name).each(f)
			}
		}
	}
	for _, e := range l.elements() {
		e.each(f)
	}
}

// operations returns all operations, by name.
func (p *spec) operations() []declared {
	var list []declared
	for path, item := range p.model["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method != "parameters" {
				list = append(list, declared{strings.ToUpper(method) + " " + path, op.(map[string]any)})
			}
		}
	}
	slices.SortFunc(list, func(a, b declared) int { return strings.Compare(a.name, b.name) })
	return list
}

// operation finds what describes a request, nil if nothing does.
func (p *spec) operation(req *http.Request) (map[string]any, declared) {
	_, pattern := p.paths.Handler(req)
	for _, o := range p.operations() {
		if o.name == pattern {
			return o.node, o
		}
	}
	return nil, declared{}
}

// response says where the answer with that status is described: in a place of its own, or in one shared by
// operations.
func (d declared) response(status int) string {
	r, _ := d.node["responses"].(map[string]any)[fmt.Sprint(status)].(map[string]any)
	if ref, ok := r["$ref"].(string); ok {
		return ref
	}
	return fmt.Sprintf("%s %d", d.name, status)
}

// responses returns the described answers of an operation, each with its problem codes; a success has "".
func (p *spec) responses(d declared) map[string][]string {
	out := make(map[string][]string)
	for status, r := range d.node["responses"].(map[string]any) {
		r := r.(map[string]any)
		name := d.name + " " + status
		if ref, ok := r["$ref"].(string); ok {
			name, r = ref, p.follow(ref)
		}
		out[name] = codesOf(r)
	}
	return out
}

func (p *spec) follow(ref string) map[string]any {
	v := p.model
	for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		v = v[name].(map[string]any)
	}
	return v
}

// codesOf returns the problem codes of a described answer, and "" if it may be something else.
func codesOf(r map[string]any) []string {
	content, _ := r["content"].(map[string]any)
	var codes []string
	for media, c := range content {
		if media != "application/problem+json" {
			codes = append(codes, "")
			continue
		}
		parts := c.(map[string]any)["schema"].(map[string]any)["allOf"].([]any)
		for _, part := range parts[1:] {
			for _, code := range part.(map[string]any)["properties"].(map[string]any)["code"].(map[string]any)["enum"].([]any) {
				codes = append(codes, code.(string))
			}
		}
	}
	if len(content) == 0 {
		codes = []string{""}
	}
	return codes
}
