//go:build !unix

package autoscale

import "os/exec"

// killGroup leaves it at the command alone: there are no process groups.
func killGroup(*exec.Cmd) {}
