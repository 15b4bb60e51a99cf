package apidoc

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// document is what the page of the API shows.
type document struct {
	Title, Version, Summary, Intro string
	Tags                           []*tag
	// Anywhere are answers that no operation names, because every path may give them.
	Anywhere []response
	Schemas  []*schema
}

type tag struct {
	Name, Intro string
	Operations  []*operation
}

// Anchor is the tag's place on the page.
func (t *tag) Anchor() string { return "tag-" + strings.ReplaceAll(strings.ToLower(t.Name), " ", "-") }

type operation struct {
	ID, Method, Path string
	Summary, Intro   string
	Access           string // what the caller shows, "" for nothing
	Parameters       []parameter
	Body             *body
	Responses        []response
	Curl             string
}

type parameter struct {
	Name, In, Type, Intro string
	Required              bool
	Example               string
}

type body struct {
	Required bool
	Intro    string
	Media    []media
}

type media struct {
	Type     string
	Schema   *schema
	Examples []example
}

type example struct{ Summary, Text string }

type response struct {
	Name    string // the status, or what the document calls it
	Title   string
	Intro   string
	Headers []parameter
	Media   []media
	Codes   []*Problem
}

// answering returns the operations that may answer with that problem.
func (d *document) answering(code string) []*operation {
	var list []*operation
	for _, t := range d.Tags {
		for _, o := range t.Operations {
			if slices.ContainsFunc(o.Responses, func(r response) bool {
				return slices.ContainsFunc(r.Codes, func(p *Problem) bool { return p.Code == code })
			}) {
				list = append(list, o)
			}
		}
	}
	return list
}

// reader makes the document of an OpenAPI document. The first thing that is wrong ends up in err.
type reader struct {
	spec  value
	codes map[string]*Problem
	used  map[string]bool // component responses that operations refer to
	err   error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// follow returns what v refers to, or v itself.
func (r *reader) follow(v value) value {
	for ref := v.get("$ref").text(); ref != ""; ref = v.get("$ref").text() {
		path, ok := strings.CutPrefix(ref, "#/")
		if v = r.spec.get(strings.Split(path, "/")...); !ok || !v.there() {
			r.fail("%s leads nowhere", ref)
			return value{}
		}
	}
	return v
}

func (r *reader) document() (*document, error) {
	info := r.spec.get("info")
	d := &document{
		Title: info.get("title").text(), Version: info.get("version").text(),
		Summary: info.get("summary").text(), Intro: info.get("description").text(),
	}
	r.used = make(map[string]bool)
	tags := make(map[string]*tag)
	for _, v := range r.spec.get("tags").elements() {
		t := &tag{Name: v.get("name").text(), Intro: v.get("description").text()}
		tags[t.Name] = t
		d.Tags = append(d.Tags, t)
	}
	for _, path := range r.spec.get("paths").members() {
		for _, m := range path.members() {
			if m.name == "parameters" {
				continue
			}
			o := r.operation(path, m)
			t := tags[m.get("tags").elements()[0].text()]
			if t == nil {
				r.fail("%s %s: the tag is not declared", o.Method, o.Path)
				break
			}
			t.Operations = append(t.Operations, o)
		}
	}
	for _, m := range r.spec.get("components", "responses").members() {
		if !r.used[m.name] {
			d.Anywhere = append(d.Anywhere, r.response(m.name, m.value))
		}
	}
	for _, m := range r.spec.get("components", "schemas").members() {
		s := r.schema(m.value)
		s.Name = m.name
		d.Schemas = append(d.Schemas, s)
	}
	return d, r.err
}

func (r *reader) operation(path, m member) *operation {
	o := &operation{
		ID: m.get("operationId").text(), Method: strings.ToUpper(m.name), Path: path.name,
		Summary: m.get("summary").text(), Intro: m.get("description").text(),
	}
	access := m.get("security")
	if !access.there() {
		access = r.spec.get("security")
	}
	for _, v := range access.elements() {
		for _, scheme := range v.members() {
			about := r.spec.get("components", "securitySchemes", scheme.name, "description").text()
			if o.Access != "" {
				o.Access += " Or: "
			} else {
				o.Access = "Needs: "
			}
			o.Access += about
		}
	}
	for _, v := range append(path.get("parameters").elements(), m.get("parameters").elements()...) {
		v = r.follow(v)
		o.Parameters = append(o.Parameters, r.parameter(v.get("name").text(), v))
	}
	if v := r.follow(m.get("requestBody")); v.there() {
		o.Body = &body{Required: v.get("required").text() == "true", Intro: v.get("description").text(), Media: r.media(v.get("content"))}
	}
	for _, v := range m.get("responses").members() {
		if ref, ok := strings.CutPrefix(v.get("$ref").text(), "#/components/responses/"); ok {
			r.used[ref] = true
		}
		o.Responses = append(o.Responses, r.response(v.name, r.follow(v.value)))
	}
	o.Curl = r.curl(o)
	return o
}

func (r *reader) parameter(name string, v value) parameter {
	p := parameter{
		Name: name, In: v.get("in").text(), Intro: v.get("description").text(),
		Required: v.get("required").text() == "true", Example: v.get("example").text(),
	}
	p.Type = r.typeOf(v.get("schema")).Text
	return p
}

func (r *reader) media(content value) []media {
	var list []media
	for _, m := range content.members() {
		one := media{Type: m.name}
		if s := m.get("schema"); s.there() {
			one.Schema = r.schema(s)
		}
		add := func(summary string, v value) {
			text := v.text()
			if text == "" {
				var err error
				if text, err = v.indented(); err != nil {
					r.fail("an example of %s: %w", m.name, err)
				}
			}
			one.Examples = append(one.Examples, example{summary, text})
		}
		if v := m.get("example"); v.there() {
			add("", v)
		}
		for _, e := range m.get("examples").members() {
			add(e.get("summary").text(), e.get("value"))
		}
		list = append(list, one)
	}
	return list
}

func (r *reader) response(name string, v value) response {
	res := response{Name: name, Intro: v.get("description").text(), Media: r.media(v.get("content"))}
	if n, err := strconv.Atoi(name); err == nil {
		res.Title = http.StatusText(n)
	}
	for _, h := range v.get("headers").members() {
		res.Headers = append(res.Headers, r.parameter(h.name, r.follow(h.value)))
	}
	for _, code := range r.problemCodes(v) {
		p := r.codes[code]
		if p == nil {
			r.fail("there is no problem %s", code)
			continue
		}
		res.Codes = append(res.Codes, p)
	}
	return res
}

// problemCodes returns the codes of the problems that a response may be.
func (r *reader) problemCodes(response value) []string {
	var codes []string
	for _, part := range response.get("content", "application/problem+json", "schema", "allOf").elements() {
		codes = append(codes, part.get("properties", "code", "enum").texts()...)
	}
	return codes
}

// curl returns the operation as a command line, "" for what is not called so.
func (r *reader) curl(o *operation) string {
	if !strings.HasPrefix(o.Path, "/v1/") {
		return ""
	}
	path := o.Path
	for _, p := range o.Parameters {
		if p.In == "path" {
			path = strings.Replace(path, "{"+p.Name+"}", p.Example, 1)
		}
	}
	lines := []string{`curl "$ESH3AR_URL` + path + `"`}
	if o.Method != http.MethodGet {
		lines[0] = "curl -X " + o.Method + strings.TrimPrefix(lines[0], "curl")
	}
	lines = append(lines, `-H "Authorization: Bearer $ESH3AR_API_KEY"`)
	for _, p := range o.Parameters {
		if p.In == "header" && p.Name == "Idempotency-Key" {
			lines = append(lines, `-H "Idempotency-Key: `+p.Example+`"`)
		}
	}
	if o.Body != nil && len(o.Body.Media) > 0 && len(o.Body.Media[0].Examples) > 0 {
		text := o.Body.Media[0].Examples[0].Text
		lines = append(lines, `-H "Content-Type: application/json"`, `-d '`+strings.ReplaceAll(text, `'`, `'\''`)+`'`)
	}
	return strings.Join(lines, " \\\n  ")
}
