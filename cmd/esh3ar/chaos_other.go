//go:build !unix

package main

import "errors"

// chaosCmd needs the signals of a Unix system.
type chaosCmd struct{}

// Run says so.
func (chaosCmd) Run() error { return errors.New("the chaos laboratory needs a Unix system") }
