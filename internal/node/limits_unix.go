//go:build unix

package node

import "golang.org/x/sys/unix"

// fileLimit returns how many files this process may have open. The Go runtime has raised the soft
// limit to the hard one already.
func fileLimit() (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, err
	}
	return int(min(r.Cur, 1<<20)), nil
}
