package apidoc

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// Problem is what there is to say about one problem code.
type Problem struct {
	// Code is the problem document's code. It is stable.
	Code string
	// Status and Title are those of the problem document.
	Status int
	Title  string
	// Permanent says whether the same request will fail again.
	Permanent bool
	// Means says what is wrong, Do what the caller can do about it. Both are Markdown.
	Means, Do string
}

// Slug is the last part of the problem's type.
func (p *Problem) Slug() string { return strings.ReplaceAll(p.Code, "_", "-") }

//go:embed problems.yaml
var problemsYAML []byte

// Problems returns all problems that a caller may meet, by status.
func Problems() ([]Problem, error) {
	var groups []struct {
		Status    int
		Title     string
		Permanent bool
		Problems  []struct {
			Code, Means, Do string
			Permanent       *bool // nil as the group
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(problemsYAML))
	d.KnownFields(true)
	if err := d.Decode(&groups); err != nil {
		return nil, fmt.Errorf("apidoc: problems.yaml: %w", err)
	}
	var all []Problem
	seen := make(map[string]bool)
	for _, g := range groups {
		for _, p := range g.Problems {
			if p.Code == "" || p.Means == "" || p.Do == "" || seen[p.Code] {
				return nil, fmt.Errorf("apidoc: problems.yaml: the row %q is incomplete or comes twice", p.Code)
			}
			seen[p.Code] = true
			permanent := g.Permanent
			if p.Permanent != nil {
				permanent = *p.Permanent
			}
			all = append(all, Problem{Code: p.Code, Status: g.Status, Title: g.Title, Permanent: permanent, Means: p.Means, Do: p.Do})
		}
	}
	return all, nil
}
