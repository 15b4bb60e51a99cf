package apidoc

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"strings"

	"github.com/yuin/goldmark"
)

//go:embed templates
var templates embed.FS

// pages are the rendered pages.
type pages struct {
	docs, index, unknown []byte
	problems             map[string]*page // by slug
}

// newPages renders everything.
func newPages(spec value, problems []Problem) (*pages, error) {
	t, err := template.New("").Funcs(template.FuncMap{"markdown": markdown, "lower": strings.ToLower}).ParseFS(templates, "templates/*.html")
	if err != nil {
		return nil, err
	}
	render := func(name string, data any) []byte {
		var out bytes.Buffer
		if e := t.ExecuteTemplate(&out, name, data); e != nil && err == nil {
			err = e
		}
		return out.Bytes()
	}
	r := &reader{spec: spec, codes: make(map[string]*Problem)}
	for i := range problems {
		r.codes[problems[i].Code] = &problems[i]
	}
	doc, err := r.document()
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	p := &pages{problems: make(map[string]*page)}
	p.docs = render("docs.html", doc)
	p.index = render("problems.html", groups(problems))
	p.unknown = render("unknown.html", nil)
	for i := range problems {
		one := &problems[i]
		p.problems[one.Slug()] = newPage(html, render("problem.html", problemPage{one, doc.answering(one.Code)}))
	}
	return p, err
}

// problemPage is what the page of a problem shows.
type problemPage struct {
	*Problem
	Operations []*operation // that may answer with it
}

// problemGroup is a run of problems with one status and title.
type problemGroup struct {
	Status   int
	Title    string
	Problems []*Problem
}

func groups(problems []Problem) []problemGroup {
	var list []problemGroup
	for i := range problems {
		p := &problems[i]
		if n := len(list); n == 0 || list[n-1].Status != p.Status || list[n-1].Title != p.Title {
			list = append(list, problemGroup{Status: p.Status, Title: p.Title})
		}
		last := &list[len(list)-1]
		last.Problems = append(last.Problems, p)
	}
	return list
}

// markdown renders CommonMark. HTML in the text is left out.
func markdown(text string) (template.HTML, error) {
	var out bytes.Buffer
	if err := goldmark.Convert([]byte(text), &out); err != nil {
		return "", err
	}
	return template.HTML(out.String()), nil //nolint:gosec // goldmark escapes, and the text is embedded
}
