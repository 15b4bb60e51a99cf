package faultfs

import (
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
)

const pageSize = 4096

// inode is a file that is open for writing, or of which something is not durable.
type inode struct {
	users int      // open descriptors; guarded by the file system's lock
	f     *os.File // in the backing directory

	mu      sync.Mutex
	removed bool
	size    int64 // as it is
	durable int64 // as it is on the disk
	// pages are those that are not on the disk as they are, by number.
	pages map[int64]*page
}

// page is one that is not durable.
type page struct {
	old   []byte // what is on the disk: up to a page, less at the end of the file
	dirty bool   // the next sync makes it durable
}

// clean reports whether all is durable.
func (n *inode) clean() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.removed || len(n.pages) == 0 && n.size == n.durable
}

// remove notes that the file has no name any more: nothing of it can be lost.
func (n *inode) remove() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = true
	clear(n.pages)
}

// touch keeps what is on the disk of the pages from off up to end, which are about to change. The lock
// must be held.
func (n *inode) touch(off, end int64) error {
	if n.removed {
		return nil
	}
	for nr := off / pageSize; nr*pageSize < end; nr++ {
		if p := n.pages[nr]; p != nil {
			p.dirty = true
			continue
		}
		p := &page{dirty: true}
		if has := min(n.durable-nr*pageSize, pageSize); has > 0 {
			p.old = make([]byte, has)
			// A page that was not touched is on the disk as it is, but a file that was cut short and
			// not synced ends earlier; what is missing was kept when it was cut.
			if _, err := n.f.ReadAt(p.old, nr*pageSize); err != nil {
				return err
			}
		}
		n.pages[nr] = p
	}
	return nil
}

// write writes as much of data as there is room for.
func (n *inode) write(f *FS, data []byte, off int64) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if growth := off + int64(len(data)) - n.size; growth > 0 {
		fits := int64(len(data)) - (growth - f.grow(growth))
		if fits <= 0 && len(data) > 0 {
			return 0, syscall.ENOSPC
		}
		data = data[:fits]
	}
	end := off + int64(len(data))
	if err := n.touch(off, end); err != nil {
		return 0, err
	}
	done, err := n.f.WriteAt(data, off)
	n.size = max(n.size, off+int64(done))
	return done, err
}

// truncate sets the size.
func (n *inode) truncate(f *FS, size int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.touch(size, n.size); err != nil {
		return err
	}
	if err := n.f.Truncate(size); err != nil {
		return err
	}
	if size < n.size {
		f.shrink(n.size - size)
	}
	n.size = size
	return nil
}

// sync makes durable what was written since the last sync, or fails and has the kernel believe that it
// is.
func (n *inode) sync(fail bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for nr, p := range n.pages {
		switch {
		case fail:
			p.dirty = false
		case p.dirty:
			delete(n.pages, nr)
		}
	}
	if fail {
		return syscall.EIO
	}
	n.durable = n.size
	return nil
}

// cut drops what is not durable: all of it, or for each page as the dice has it. It returns how many
// pages went back and whether anything was not durable.
func (n *inode) cut(dice *rand.Rand) (pages int, changed bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.removed || len(n.pages) == 0 && n.size == n.durable {
		return 0, false, nil
	}
	all := dice.IntN(2) == 0
	size := n.durable
	for nr, p := range n.pages {
		if !all && dice.IntN(2) == 0 {
			size = max(size, min(n.size, (nr+1)*pageSize))
			p.old = nil
			delete(n.pages, nr)
		}
	}
	if err := n.f.Truncate(size); err != nil {
		return 0, true, err
	}
	for nr, p := range n.pages {
		whole := make([]byte, max(min(pageSize, size-nr*pageSize), 0))
		copy(whole, p.old)
		if _, err := n.f.WriteAt(whole, nr*pageSize); err != nil {
			return pages, true, err
		}
		pages++
	}
	return pages, true, nil
}
