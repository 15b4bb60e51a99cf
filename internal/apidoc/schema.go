package apidoc

import (
	"slices"
	"strings"
)

// schema is a JSON schema as the page shows it: what kind of value it is, and its fields if it is an object.
type schema struct {
	Name   string // of a component, "" of others
	Intro  string
	Type   typeName
	Fields []field
}

// Anchor is the schema's place on the page.
func (s *schema) Anchor() string { return "schema-" + s.Name }

// typeName says what kind of value a schema describes.
type typeName struct {
	Text string
	// Ref is the component that Text names, "" for none.
	Ref string
}

// field is a member of an object, or of one further inside.
type field struct {
	Path     string // such as "data.id" or "errors[].code"
	Type     typeName
	Required bool
	Intro    string
}

const schemaPrefix = "#/components/schemas/"

// schema reads a schema.
func (r *reader) schema(v value) *schema {
	s := &schema{Type: r.typeOf(v)}
	if s.Type.Ref != "" {
		return s
	}
	s.Intro = v.get("description").text()
	s.Fields = r.fields("", v)
	return s
}

// parts returns what a schema consists of: itself, and all that it combines, references followed.
func (r *reader) parts(v value) []value {
	v = r.follow(v)
	list := []value{v}
	for _, e := range v.get("allOf").elements() {
		list = append(list, r.parts(e)...)
	}
	return list
}

// fields lists the members of an object and, unless they are components of their own, of what they hold.
func (r *reader) fields(prefix string, v value) []field {
	var list []field
	parts := r.parts(v)
	var required []string
	for _, part := range parts {
		required = append(required, part.get("required").texts()...)
	}
	for _, part := range parts {
		for _, m := range part.get("properties").members() {
			path := prefix + m.name
			f := field{Path: path, Type: r.typeOf(m.value), Required: slices.Contains(required, m.name), Intro: m.get("description").text()}
			// A narrower description of a field replaces the wider one.
			if i := slices.IndexFunc(list, func(o field) bool { return o.Path == path }); i >= 0 {
				if f.Intro == "" {
					f.Intro = list[i].Intro
				}
				list[i] = f
				continue
			}
			list = append(list, f)
			if f.Type.Ref == "" {
				list = append(list, r.inside(path, m.value)...)
			}
		}
	}
	return list
}

// inside lists the fields of what an inline schema holds.
func (r *reader) inside(path string, v value) []field {
	switch {
	case v.get("items").there():
		if items := v.get("items"); items.get("$ref").text() == "" {
			return r.inside(path+"[]", items)
		}
	case v.get("additionalProperties", "properties").there():
		return r.fields(path+".*.", v.get("additionalProperties"))
	case v.get("properties").there():
		return r.fields(path+".", v)
	}
	return nil
}

// typeOf names the type of a schema, and what bounds it.
func (r *reader) typeOf(v value) typeName {
	if ref, ok := strings.CutPrefix(v.get("$ref").text(), schemaPrefix); ok {
		r.follow(v) // fails if it leads nowhere
		return typeName{Text: ref, Ref: ref}
	}
	if items := v.get("items"); items.there() {
		of := r.typeOf(items)
		return typeName{Text: "array of " + of.Text + bounds(v, "minItems", "maxItems", ""), Ref: of.Ref}
	}
	if options := v.get("oneOf").elements(); len(options) > 0 && !v.get("properties").there() {
		names := make([]string, len(options))
		for i, o := range options {
			names[i] = r.typeOf(o).Text
		}
		return typeName{Text: strings.Join(names, " or ")}
	}
	if c := v.get("const"); c.there() {
		return typeName{Text: c.text()}
	}
	if words := v.get("enum").texts(); len(words) > 0 {
		return typeName{Text: strings.Join(words, ", ")}
	}
	text := strings.Join(v.get("type").texts(), " or ")
	if of := v.get("additionalProperties"); of.get("type").there() || of.get("$ref").there() {
		text += " of " + r.typeOf(of).Text
	}
	if text == "" {
		text = "any"
		if v.get("allOf").there() || v.get("properties").there() {
			text = "object"
		}
	}
	if f := v.get("format").text(); f != "" {
		text += ", " + f
	}
	text += bounds(v, "minimum", "maximum", "") + bounds(v, "minLength", "maxLength", " long")
	if d := v.get("default").text(); d != "" {
		text += ", default " + d
	}
	return typeName{Text: text}
}

// bounds says between what a schema's value lies.
func bounds(v value, least, most, unit string) string {
	low, high := v.get(least).text(), v.get(most).text()
	switch {
	case low != "" && high != "":
		return ", " + low + " to " + high + unit
	case low != "" && low != "0":
		return ", at least " + low + unit
	case high != "":
		return ", at most " + high + unit
	}
	return ""
}
