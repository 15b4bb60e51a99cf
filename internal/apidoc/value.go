package apidoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// value is a part of a YAML document that holds what JSON can hold, with the order of its members. The zero
// value is an absent one; everything below it is absent, too.
type value struct{ node *yaml.Node }

// member is a member of an object.
type member struct {
	name string
	value
}

// parseYAML reads a document.
func parseYAML(text []byte) (value, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return value{}, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return value{}, fmt.Errorf("the text is not one YAML document")
	}
	return value{doc.Content[0]}, nil
}

// there reports whether the value is not absent.
func (v value) there() bool { return v.node != nil }

// get returns what lies at the end of a path of names.
func (v value) get(path ...string) value {
	for _, name := range path {
		next := value{}
		for _, m := range v.members() {
			if m.name == name {
				next = m.value
			}
		}
		v = next
	}
	return v
}

// members returns the members of an object, nil of anything else.
func (v value) members() []member {
	if v.node == nil || v.node.Kind != yaml.MappingNode {
		return nil
	}
	list := make([]member, 0, len(v.node.Content)/2)
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		list = append(list, member{v.node.Content[i].Value, value{v.node.Content[i+1]}})
	}
	return list
}

// elements returns the elements of an array, nil of anything else.
func (v value) elements() []value {
	if v.node == nil || v.node.Kind != yaml.SequenceNode {
		return nil
	}
	list := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		list[i] = value{n}
	}
	return list
}

// text returns a scalar as it is written, "" of anything else.
func (v value) text() string {
	if v.node == nil || v.node.Kind != yaml.ScalarNode {
		return ""
	}
	return strings.TrimSpace(v.node.Value)
}

// texts returns the scalars of an array, or the scalar itself.
func (v value) texts() []string {
	if t := v.text(); t != "" {
		return []string{t}
	}
	var list []string
	for _, e := range v.elements() {
		list = append(list, e.text())
	}
	return list
}

// MarshalJSON implements json.Marshaler: the members of objects keep their order. Its error is that the
// value holds what JSON has not.
func (v value) MarshalJSON() ([]byte, error) {
	n := v.node
	switch {
	case n == nil:
		return nil, fmt.Errorf("a value is missing")
	case n.Kind == yaml.MappingNode:
		out := []byte{'{'}
		for i, m := range v.members() {
			if i > 0 {
				out = append(out, ',')
			}
			name, err := json.Marshal(m.name)
			if err != nil {
				return nil, err
			}
			text, err := m.MarshalJSON()
			if err != nil {
				return nil, err
			}
			out = append(append(append(out, name...), ':'), text...)
		}
		return append(out, '}'), nil
	case n.Kind == yaml.SequenceNode:
		out := []byte{'['}
		for i, e := range v.elements() {
			if i > 0 {
				out = append(out, ',')
			}
			text, err := e.MarshalJSON()
			if err != nil {
				return nil, err
			}
			out = append(out, text...)
		}
		return append(out, ']'), nil
	case n.Kind == yaml.ScalarNode:
		var scalar any
		if err := n.Decode(&scalar); err != nil {
			return nil, err
		}
		switch scalar.(type) {
		case nil, bool, int, int64, uint64, float64, string:
			return plainJSON(scalar)
		}
		return nil, fmt.Errorf("line %d: %q is a %T, which JSON has not", n.Line, n.Value, scalar)
	}
	return nil, fmt.Errorf("line %d: anchors and aliases are not used here", n.Line)
}

// plainJSON encodes v without regard to HTML.
func plainJSON(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// indented returns the value as JSON for people.
func (v value) indented() (string, error) {
	text, err := v.MarshalJSON()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return "", err
	}
	return out.String(), nil
}
