package node

import (
	"bytes"
	"math"
	"os"
	"path"
	"slices"
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
func memoryOf(membership []byte, read func(string) ([]byte, error)) Bytes {
	least := int64(math.MaxInt64)
	whole := func(file string) {
		raw, err := read(file)
		if err != nil {
			return
		}
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64); err == nil && n > 0 { // "max" is none
			least = min(least, n)
		}
	}
	groups(membership, "memory",
		func(dir string) { whole(path.Join(dir, "memory.max")) },
		func(dir string) { whole(path.Join(dir, "memory.limit_in_bytes")) })
	// Version 1 says "no limit" by the greatest number of whole pages.
	if least >= math.MaxInt64>>20<<20 {
		return 0
	}
	return Bytes(least)
}

// cgroupProcessors returns how many processors the process's control group and those above it allow on average; 0 if
// there is no limit or none can be seen.
func cgroupProcessors() float64 {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	return processorsOf(membership, os.ReadFile)
}

// processorsOf is memoryOf for processors: a quota of time in each period.
func processorsOf(membership []byte, read func(string) ([]byte, error)) float64 {
	least := math.Inf(1)
	share := func(quota, period string) {
		q, err := strconv.ParseFloat(quota, 64)
		p, err2 := strconv.ParseFloat(period, 64)
		if err == nil && err2 == nil && q > 0 && p > 0 { // "max" and -1 are none
			least = min(least, q/p)
		}
	}
	text := func(dir, file string) string {
		raw, _ := read(path.Join(dir, file)) // "" is no number
		return string(bytes.TrimSpace(raw))
	}
	groups(membership, "cpu",
		func(dir string) {
			if fields := strings.Fields(text(dir, "cpu.max")); len(fields) == 2 {
				share(fields[0], fields[1])
			}
		},
		func(dir string) { share(text(dir, "cpu.cfs_quota_us"), text(dir, "cpu.cfs_period_us")) })
	if math.IsInf(least, 1) {
		return 0
	}
	return least
}

// groups calls v2 or v1 with the directory of each group of a /proc/self/cgroup that has the controller, and of those
// above it.
//
// In a container the names may be those of the host while the container's own group is mounted as the
// root, so the root counts too, and groups that cannot be read do not.
func groups(membership []byte, controller string, v2, v1 func(dir string)) {
	walk := func(mount, group string, look func(dir string)) {
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			look(path.Join(mount, dir))
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
		if fields[0] == "0" && fields[1] == "" {
			walk(cgroupRoot, fields[2], v2)
			walk(path.Join(cgroupRoot, "unified"), fields[2], v2)
		} else if slices.Contains(strings.Split(fields[1], ","), controller) {
			walk(path.Join(cgroupRoot, controller), fields[2], v1) // a link where controllers are mounted together
		}
	}
}
