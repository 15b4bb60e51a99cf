//go:build !unix

package main

import "errors"

// clusterCmd needs the signals of a Unix system.
type clusterCmd struct{}

// Run says so.
func (clusterCmd) Run() error { return errors.New("a cluster to try needs a Unix system") }
