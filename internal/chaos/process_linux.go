package chaos

import "syscall"

// processAttributes of the server: it is killed when the laboratory dies, and signals of the terminal
// do not reach it.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
