//go:build unix

package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// errNoCgroup says why there is no tight memory.
var errNoCgroup = errors.New("no memory cgroup can be made here; that needs root and a hierarchy to write to")

// group is a memory cgroup of the server's, of version 1 or 2.
type group struct {
	dir          string
	limit, usage string // files
	none         string // the limit that is none
}

// newGroup makes a cgroup. It needs root.
func newGroup() (*group, error) {
	name := fmt.Sprintf("esh3ar-chaos-%d", os.Getpid())
	for _, g := range []group{
		{dir: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", none: "-1"},
		{dir: "/sys/fs/cgroup", limit: "memory.max", usage: "memory.current", none: "max"},
	} {
		parent := g.dir
		for n := range 100 {
			g.dir = filepath.Join(parent, fmt.Sprintf("%s-%d", name, n))
			err := os.Mkdir(g.dir, 0o755)
			if errors.Is(err, os.ErrExist) {
				continue // of another run in this process
			}
			if err != nil {
				break
			}
			if _, err := os.Stat(filepath.Join(g.dir, g.limit)); err == nil {
				return &g, nil
			}
			_ = os.Remove(g.dir)
			break
		}
	}
	return nil, errNoCgroup
}

func (g *group) write(file, value string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0o600)
}

// add puts a process into the cgroup.
func (g *group) add(pid int) error { return g.write("cgroup.procs", strconv.Itoa(pid)) }

// tightest is the least memory that a server is expected to live with.
const tightest = 96 << 20

// tighten limits the memory to a little more than what is used now, files in the kernel's cache
// included, which it may have to drop.
func (g *group) tighten() (limit int, err error) {
	raw, err := os.ReadFile(filepath.Join(g.dir, g.usage))
	if err != nil {
		return 0, err
	}
	used, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, err
	}
	limit = max(used+used/4, tightest)
	return limit, g.write(g.limit, strconv.Itoa(limit))
}

func (g *group) loosen() error { return g.write(g.limit, g.none) }

// close removes the cgroup, whose processes have ended.
func (g *group) close() error { return os.Remove(g.dir) }
