package pgtest

import "syscall"

// attributes of the server's process: it ends at once when the test's process does, however that ends.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
