package main

import "syscall"

// processAttributes has a process end with this one, however that ends, and not of a Ctrl-C that is meant for this
// one, which ends its processes in order.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
