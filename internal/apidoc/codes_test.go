package apidoc_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/apidoc"
	"github.com/esh3artech/esh3ar/internal/ingest"
)

// notTold are codes in the source that no caller meets as a problem, with where they go.
var notTold = map[string]string{
	"memory_tight":   "the detail of a check of /readyz",
	"devices_uneven": "the same",
}

// origin is a place in the source that makes an error with a code.
type origin struct {
	place string
	kind  string // the name of its esh3ar.Kind, "" if it is a problem of HTTP itself
}

// TestCodes compares the rows of the problems with the source: every code that the server or the balancer makes an error of has
// a row with the right status, and every row's code is made somewhere.
func TestCodes(t *testing.T) {
	found := make(map[string][]origin)
	var dirs []string
	if err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return err
		case slices.Contains([]string{".git", "node_modules", "testdata", "client", "cmd", "e2e", "examples", "bin", "loadgen", "chaos", "apidoc"}, d.Name()):
			return fs.SkipDir // what no caller talks to
		}
		dirs = append(dirs, path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		p := parsePackage(t, dir)
		for code, list := range p.codes(t) {
			found[code] = append(found[code], list...)
		}
	}
	rows, err := apidoc.Problems()
	if err != nil {
		t.Fatal(err)
	}
	described := make(map[string]apidoc.Problem)
	for _, row := range rows {
		described[row.Code] = row
	}
	for code, origins := range found {
		row, ok := described[code]
		if (notTold[code] != "") == ok {
			t.Errorf("%s, made at %s: has a page %v, and goes to %q", code, origins[0].place, ok, notTold[code])
		}
		if !ok {
			continue
		}
		for _, o := range origins {
			if o.kind == "" {
				continue
			}
			// How a kind is told is for ingest to say.
			status, text := ingest.Problem(esh3ar.Errorf(kindOf(t, o), code, "x"))
			var d document
			if err := json.Unmarshal(text, &d); err != nil {
				t.Fatal(err)
			}
			if status != row.Status || d.Title != row.Title || row.Permanent && !d.Permanent {
				t.Errorf("%s, made at %s, is HTTP %d %q, and described as %+v", code, o.place, status, d.Title, row)
			}
		}
	}
	for code := range described {
		if found[code] == nil {
			t.Errorf("the problem %s is described, and nothing makes it", code)
		}
	}
	if len(found) < 100 {
		t.Errorf("%d codes are found", len(found))
	}
}

// kindOf returns the kind of that name.
func kindOf(t *testing.T, o origin) esh3ar.Kind {
	t.Helper()
	want := strings.ToLower(strings.TrimPrefix(o.kind, "Kind"))
	for k := esh3ar.KindInternal; !strings.HasPrefix(k.String(), "kind("); k++ {
		if strings.ReplaceAll(k.String(), "_", "") == want {
			return k
		}
	}
	t.Fatalf("%s: what is %s?", o.place, o.kind)
	return 0
}

// source is the source of one package.
type source struct {
	fset   *token.FileSet
	files  []*ast.File
	consts map[string]string // string constants
	// makers are the functions that make an error with a code that is their argument: by name, which argument
	// that is and the kind of the error.
	makers map[string]maker
}

type maker struct {
	argument int
	kind     string
}

func parsePackage(t *testing.T, dir string) *source {
	t.Helper()
	p := &source{fset: token.NewFileSet(), consts: make(map[string]string), makers: map[string]maker{
		// esh3ar.Faults.Add(pointer, code, …)
		"Add": {1, "KindInvalid"},
	}}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(p.fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		p.files = append(p.files, f)
		for _, d := range f.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if i < len(v.Values) {
						if text, ok := literal(v.Values[i]); ok {
							p.consts[name.Name] = text
						}
					}
				}
			}
		}
	}
	// A function that hands its own argument to a maker is one, too.
	for again := true; again; {
		again = false
		p.each(func(_ token.Pos, params []string, name string, code ast.Expr, kind string) {
			id, ok := code.(*ast.Ident)
			if !ok || name == "" || p.makers[name] != (maker{}) {
				return
			}
			if i := slices.Index(params, id.Name); i >= 0 {
				p.makers[name] = maker{i, kind}
				again = true
			}
		})
	}
	return p
}

// each calls f for every place that makes an error with a code: with the names of the parameters of the
// function, or function literal, that it is in, and what that is called.
func (p *source) each(f func(pos token.Pos, params []string, name string, code ast.Expr, kind string)) {
	for _, file := range p.files {
		var visit func(n ast.Node, params []string, name string)
		visit = func(n ast.Node, params []string, name string) {
			ast.Inspect(n, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Body != nil {
						visit(n.Body, names(n.Type), n.Name.Name)
					}
					return false
				case *ast.AssignStmt:
					// A local function: name := func(…) { … }
					for i, r := range n.Rhs {
						if sel, ok := n.Lhs[min(i, len(n.Lhs)-1)].(*ast.SelectorExpr); ok && sel.Sel.Name == "code" {
							if _, ok := literal(r); ok {
								f(n.Pos(), params, name, r, "")
							}
						}
						lit, ok := r.(*ast.FuncLit)
						id, named := n.Lhs[min(i, len(n.Lhs)-1)].(*ast.Ident)
						if ok && named {
							visit(lit.Body, names(lit.Type), id.Name)
							return false
						}
					}
				case *ast.CallExpr:
					called := calledName(n)
					if called == "Errorf" && len(n.Args) >= 3 {
						if kind, ok := kindName(n.Args[0]); ok {
							f(n.Pos(), params, name, n.Args[1], kind)
						}
					} else if m, ok := p.makers[called]; ok && m.argument+1 < len(n.Args) && called != name {
						f(n.Pos(), params, name, n.Args[m.argument], m.kind)
					}
				case *ast.CompositeLit:
					if id, ok := n.Type.(*ast.Ident); ok && (id.Name == "problem" || id.Name == "refusal") {
						for _, e := range n.Elts {
							if kv, ok := e.(*ast.KeyValueExpr); ok && fmt.Sprint(kv.Key) == "code" {
								if _, ok := literal(kv.Value); ok {
									f(n.Pos(), params, name, kv.Value, "")
								}
							}
						}
					}
				}
				return true
			})
		}
		for _, d := range file.Decls {
			visit(d, nil, "")
		}
	}
}

// codes returns all codes that the package makes errors of.
func (p *source) codes(t *testing.T) map[string][]origin {
	t.Helper()
	found := make(map[string][]origin)
	p.each(func(pos token.Pos, params []string, name string, code ast.Expr, kind string) {
		place := p.fset.Position(pos).String()
		text, ok := literal(code)
		if id, isIdent := code.(*ast.Ident); !ok && isIdent {
			if text, ok = p.consts[id.Name]; !ok && slices.Contains(params, id.Name) {
				return // the callers say it
			}
		}
		if !ok {
			t.Errorf("%s: the code cannot be told from the source", place)
			return
		}
		found[text] = append(found[text], origin{place, kind})
	})
	for code := range found {
		if strings.Trim(code, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || code == "" {
			delete(found, code) // no code: another Add
		}
	}
	return found
}

func names(f *ast.FuncType) []string {
	var list []string
	for _, field := range f.Params.List {
		for _, n := range field.Names {
			list = append(list, n.Name)
		}
	}
	return list
}

func calledName(c *ast.CallExpr) string {
	switch fn := c.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		return fn.Sel.Name
	}
	return ""
}

// kindName returns the name of a constant of esh3ar.Kind.
func kindName(e ast.Expr) (string, bool) {
	name := ""
	switch e := e.(type) {
	case *ast.SelectorExpr:
		name = e.Sel.Name
	case *ast.Ident:
		name = e.Name
	}
	return name, strings.HasPrefix(name, "Kind")
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}
