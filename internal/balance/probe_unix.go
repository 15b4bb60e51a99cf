//go:build unix

package balance

import "golang.org/x/sys/unix"

// nothingToRead reports whether a connection is open and has nothing to read.
func nothingToRead(fd uintptr) bool {
	var b [1]byte
	_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return err == unix.EAGAIN || err == unix.EWOULDBLOCK || err == unix.EINTR
}
