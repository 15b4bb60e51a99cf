package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"text/tabwriter"
)

// list is how things are listed: as a table for people, or as a line of JSON for each.
type list[T any] struct {
	limit int // of how many are listed; 0 for all
	json  bool
	head  string                  // of the table
	row   func(w io.Writer, v *T) // prints a line of it
}

// print lists what all yields. An error comes after what was listed before it.
func (l list[T]) print(std stdio, all iter.Seq2[T, error]) error {
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	out := json.NewEncoder(std.out)
	listed := 0
	for v, err := range all {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		if l.limit > 0 && listed == l.limit {
			fmt.Fprintf(std.err, "esh3ar: there are more than %d; see --limit\n", l.limit)
			break
		}
		if listed++; l.json {
			if err := out.Encode(v); err != nil {
				return err
			}
			continue
		}
		if listed == 1 {
			fmt.Fprintln(w, l.head)
		}
		l.row(w, &v)
	}
	return w.Flush()
}

// values yields what a slice holds.
func values[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// first yields at most n of what all does; 0 means everything.
func first[T any](all iter.Seq2[T, error], n int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		yielded := 0
		for v, err := range all {
			if err == nil && n > 0 && yielded == n || !yield(v, err) {
				return
			}
			yielded++
		}
	}
}

// progress returns what tells people how far a long work is, in one line of a terminal or in a line each, and
// what is to be called in the end.
func (std stdio) progress() (tell func(what string), end func()) {
	f, ok := std.err.(*os.File)
	if !ok || !isTerminal(f) {
		return func(what string) { fmt.Fprintln(std.err, what) }, func() {}
	}
	return func(what string) { fmt.Fprintf(f, "\r\x1b[K%s", what) }, func() { fmt.Fprint(f, "\r\x1b[K") }
}
