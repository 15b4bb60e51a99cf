//go:build unix

package loadgen

import "syscall"

// RaiseFileLimit raises the process's limit of open files to what it may have, and returns it.
func RaiseFileLimit() (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Cur < l.Max {
		raised := l
		raised.Cur = l.Max
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			l = raised
		}
	}
	const most = 1 << 20 // some systems say infinite
	return int(min(l.Cur, most)), nil
}
