//go:build unix

package loadgen

import (
	"runtime"
	"syscall"
	"time"
)

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

// usage is the processor time that this process has used, and the most memory it had resident, in bytes.
func usage() (cpu time.Duration, resident int64) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0, 0
	}
	resident = int64(u.Maxrss) //nolint:unconvert // it is narrower on 32-bit systems
	if runtime.GOOS != "darwin" {
		resident <<= 10 // it is in KiB elsewhere
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), resident
}
