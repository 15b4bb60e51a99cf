package node

import (
	"io/fs"
	"testing"
)

func TestCgroupMemory(t *testing.T) {
	for name, test := range map[string]struct {
		membership string
		files      map[string]string
		want       Bytes
	}{
		"version 2":         {"0::/app.slice/esh3ar.service\n", map[string]string{"/sys/fs/cgroup/app.slice/esh3ar.service/memory.max": "268435456\n"}, 256 << 20},
		"none":              {"0::/\n", map[string]string{"/sys/fs/cgroup/memory.max": "max\n"}, 0},
		"the parent's":      {"0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/memory.max": "max\n", "/sys/fs/cgroup/a/memory.max": "1048576\n"}, 1 << 20},
		"the least":         {"0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/memory.max": "2097152\n", "/sys/fs/cgroup/a/memory.max": "1048576\n"}, 1 << 20},
		"a container's":     {"0::/host/only\n", map[string]string{"/sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20},
		"version 1":         {"9:name=systemd:/x\n4:memory:/docker/1\n0::/\n", map[string]string{"/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "536870912\n"}, 512 << 20},
		"version 1 without": {"4:memory:/\n", map[string]string{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"unreadable":        {"0::/x\n4:memory:/y\n", nil, 0},
		"nonsense":          {"hello\n0::\n", map[string]string{"/sys/fs/cgroup/memory.max": "much\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := memoryOf([]byte(test.membership), func(path string) ([]byte, error) {
				if text, ok := test.files[path]; ok {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			})
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestCgroupProcessors(t *testing.T) {
	for name, test := range map[string]struct {
		membership string
		files      map[string]string
		want       float64
	}{
		"version 2":     {"0::/a\n", map[string]string{"/sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5},
		"none":          {"0::/\n", map[string]string{"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 0},
		"the least":     {"0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "/sys/fs/cgroup/a/cpu.max": "50000 100000\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 0.5},
		"version 1":     {"3:cpu,cpuacct:/x\n", map[string]string{"/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "25000\n", "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 0.25},
		"none in 1":     {"3:cpu,cpuacct:/\n", map[string]string{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 0},
		"another group": {"4:cpuset:/x\n", map[string]string{"/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "1\n"}, 0},
		"unreadable":    {"0::/x\n", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := processorsOf([]byte(test.membership), func(path string) ([]byte, error) {
				if text, ok := test.files[path]; ok {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			})
			if got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
