package apidoc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Fields of HTTP itself, of CORS and of the pages' policy, which the document does not tell for every operation.
var (
	usualOfAnswers = []string{
		"Date", "Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Vary", "Cache-Control", "Pragma", "Expires", "ETag",
		"Accept-Ranges", "Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy",
		"Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
	}
	usualOfRequests = []string{"Authorization", "Content-Type", "Content-Length", "Accept", "Accept-Encoding", "Origin", "User-Agent"}
)

// checkAnswer holds an answer against the operation that it is described under: its status, its header fields
// and its body. What is not described is an error.
func (p *spec) checkAnswer(o declared, resp *http.Response, body []byte) error {
	method, path, _ := strings.Cut(o.name, " ")
	status := strconv.Itoa(resp.StatusCode)
	r := p.at("paths", path, strings.ToLower(method), "responses", status).follow()
	if !r.there() {
		return fmt.Errorf("%s has no answer %s", o.name, status)
	}
	known := slices.Clone(usualOfAnswers)
	var faults []error
	for name := range r.value.(map[string]any) {
		if !slices.Contains([]string{"description", "headers", "content"}, name) {
			faults = append(faults, fmt.Errorf("%s: the tests do not know %q", r.pointer, name))
		}
	}
	headers, _ := r.get("headers").value.(map[string]any)
	for name := range headers {
		known = append(known, name)
		faults = append(faults, p.checkValues("the field "+name, r.get("headers", name).follow(), resp.Header.Values(name)))
	}
	faults = append(faults, undescribed(resp.Header, known), p.checkBody(r, resp.Header.Get("Content-Type"), body))
	return errors.Join(faults...)
}

// checkRequest holds a request that was served against its operation: key, path, query, header fields and body.
func (p *spec) checkRequest(o declared, req *http.Request, body []byte) error {
	method, path, _ := strings.Cut(o.name, " ")
	op := p.at("paths", path, strings.ToLower(method))
	query := req.URL.Query()
	fields, names := slices.Clone(usualOfRequests), p.queryKeys(op)
	var faults []error
	for _, param := range append(p.at("paths", path, "parameters").elements(), op.get("parameters").elements()...) {
		param = param.follow()
		name, _ := param.get("name").value.(string)
		var values []string
		switch in := param.get("in").value; in {
		case "query":
			values, names = query[name], append(names, name)
		case "header":
			values, fields = req.Header.Values(name), append(fields, name)
		case "path":
			values = inPath(path, req.URL.Path, name)
		default:
			faults = append(faults, fmt.Errorf("%s: the tests do not know parameters in %v", param.pointer, in))
			continue
		}
		faults = append(faults, p.checkValues("the parameter "+name, param, values))
	}
	for name := range query {
		if !slices.Contains(names, name) {
			faults = append(faults, fmt.Errorf("the parameter %s is not described", name))
		}
	}
	faults = append(faults, undescribed(req.Header, fields), p.checkKey(op, req))
	switch content := op.get("requestBody"); {
	case len(body) > 0 && !content.there():
		faults = append(faults, errors.New("no body is described"))
	case len(body) > 0:
		faults = append(faults, p.checkBody(content.follow(), req.Header.Get("Content-Type"), body))
	case content.get("required").value == true:
		faults = append(faults, errors.New("the body is missing"))
	}
	return errors.Join(faults...)
}

// checkValues holds what was given for a parameter or a header field against its description.
func (p *spec) checkValues(what string, described place, values []string) error {
	switch {
	case len(values) == 0 && described.get("required").value != true:
		return nil
	case len(values) != 1:
		return fmt.Errorf("%s is there %d times", what, len(values))
	}
	var v any = values[0]
	// What is no text is written as in JSON. Lists would be written in some style; there are none.
	if kind := described.get("schema", "type").value; kind != "string" && json.Valid([]byte(values[0])) {
		v = json.RawMessage(values[0])
	}
	if err := p.check(described.get("schema"), v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// checkBody holds a body against what describes its content.
func (p *spec) checkBody(described place, contentType string, body []byte) error {
	if content := described.get("content"); !content.there() {
		if len(body) > 0 || contentType != "" {
			return fmt.Errorf("%s has no body, and got one of type %q", described.pointer, contentType)
		}
		return nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("Content-Type: %w", err)
	}
	schema := described.get("content", media, "schema")
	if !schema.there() {
		return fmt.Errorf("%s has no schema of %s", described.pointer, media)
	}
	if media != "application/json" && !strings.HasSuffix(media, "+json") {
		return p.check(schema, string(body))
	}
	s, err := p.schema(schema)
	if err != nil {
		return err
	}
	return checkText(s, body)
}

// undescribed is the error that a header has a field of no such name.
func undescribed(h http.Header, known []string) error {
	var faults []error
	for name := range h {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) }) {
			faults = append(faults, fmt.Errorf("the field %s is not described", name))
		}
	}
	return errors.Join(faults...)
}

// schemes returns what an operation wants, of which one must be there: none for an open one.
func (p *spec) schemes(op place) []place {
	security := op.get("security")
	if !security.there() {
		security = p.at("security")
	}
	var list []place
	for _, alternative := range security.elements() {
		for name := range alternative.value.(map[string]any) {
			list = append(list, p.at("components", "securitySchemes", name))
		}
	}
	return list
}

// queryKeys returns the names of the parameters that keys may come in.
func (p *spec) queryKeys(op place) []string {
	var names []string
	for _, scheme := range p.schemes(op) {
		if scheme.get("in").value == "query" {
			names = append(names, scheme.get("name").value.(string))
		}
	}
	return names
}

// checkKey is an error for a request without a key that the description asks for.
func (p *spec) checkKey(op place, req *http.Request) error {
	schemes := p.schemes(op)
	for _, scheme := range schemes {
		if scheme.get("scheme").value == "bearer" && strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ") {
			return nil
		}
	}
	for _, name := range p.queryKeys(op) {
		if req.URL.Query().Has(name) {
			return nil
		}
	}
	if len(schemes) > 0 {
		return errors.New("a key is described, and it went without")
	}
	return nil
}

// inPath returns what stands for a name of a path's template.
func inPath(template, path, name string) []string {
	segments := strings.Split(path, "/")
	for i, s := range strings.Split(template, "/") {
		if s == "{"+name+"}" && i < len(segments) {
			return segments[i : i+1]
		}
	}
	return nil
}
