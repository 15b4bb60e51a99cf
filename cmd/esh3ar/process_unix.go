//go:build unix && !linux

package main

import "syscall"

// processAttributes has a process not end of a Ctrl-C that is meant for this one, which ends its processes in order.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
