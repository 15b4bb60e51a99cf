package node

import (
	"bytes"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// cgroupRoot is where the control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupMemory returns the memory that the process's control group allows, version 2 or 1, with all
// groups above it; 0 if there is no limit or none can be seen.
func cgroupMemory() Bytes {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	return memoryOf(membership, os.ReadFile)
}

// memoryOf finds the least limit among the groups that a /proc/self/cgroup names.
//
// In a container the names may be those of the host while the container's own group is mounted as the
// root, so the root counts too, and groups that cannot be read do not.
func memoryOf(membership []byte, read func(string) ([]byte, error)) Bytes {
	least := int64(math.MaxInt64)
	look := func(mount, group, file string) {
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			if raw, err := read(path.Join(mount, dir, file)); err == nil {
				if n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64); err == nil && n > 0 { // "max" is none
					least = min(least, n)
				}
			}
			if dir == "/" {
				return
			}
		}
	}
	for line := range strings.Lines(string(membership)) {
		// number:controllers:group, where version 2 has the number 0 and no controllers
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		switch {
		case fields[0] == "0" && fields[1] == "":
			look(cgroupRoot, fields[2], "memory.max")
			look(path.Join(cgroupRoot, "unified"), fields[2], "memory.max")
		case fields[1] == "memory":
			look(path.Join(cgroupRoot, "memory"), fields[2], "memory.limit_in_bytes")
		}
	}
	// Version 1 says "no limit" by the greatest number of whole pages.
	if least >= math.MaxInt64>>20<<20 {
		return 0
	}
	return Bytes(least)
}
