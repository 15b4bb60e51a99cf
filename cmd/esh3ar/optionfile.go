package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// optionFile is the configuration file: options by name, in text, as they would stand on the command
// line. The zero optionFile has none.
type optionFile struct {
	path    string
	entries map[string]optionEntry
}

type optionEntry struct {
	text string
	line int
}

// readOptionFile reads a YAML file whose one document maps option names to scalars, or to lists of
// scalars where an option takes several.
func readOptionFile(path string) (optionFile, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return optionFile{}, fmt.Errorf("configuration file: %w", err)
	}
	file := optionFile{path: path, entries: make(map[string]optionEntry)}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return file, nil // an empty file sets nothing
	} else if err != nil {
		return optionFile{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return optionFile{}, fmt.Errorf("%s: holds more than one YAML document", path)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return file, nil
	}
	if root.Kind != yaml.MappingNode {
		return optionFile{}, fmt.Errorf("%s:%d: must map option names to values", path, root.Line)
	}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if first, ok := file.entries[key.Value]; ok {
			return optionFile{}, fmt.Errorf("%s:%d: %q is already set on line %d", path, key.Line, key.Value, first.line)
		}
		text, ok := scalarText(value)
		if !ok {
			return optionFile{}, fmt.Errorf("%s:%d: %q must have a plain value or a list of them", path, value.Line, key.Value)
		}
		file.entries[key.Value] = optionEntry{text: text, line: key.Line}
	}
	return file, nil
}

// scalarText returns a YAML value as command-line text, and whether it has such a form.
func scalarText(n *yaml.Node) (string, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", true
	case n.Kind == yaml.ScalarNode:
		return n.Value, true
	case n.Kind == yaml.SequenceNode:
		items := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", false
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), true
	}
	return "", false
}

// names returns the options that the file sets, in alphabetical order.
func (f optionFile) names() []string { return slices.Sorted(maps.Keys(f.entries)) }

// text returns what the file sets an option to, and whether it does.
func (f optionFile) text(name string) (string, bool) {
	e, ok := f.entries[name]
	return e.text, ok
}

// place returns file and line of an option that the file sets.
func (f optionFile) place(name string) string {
	return fmt.Sprintf("%s:%d", f.path, f.entries[name].line)
}
