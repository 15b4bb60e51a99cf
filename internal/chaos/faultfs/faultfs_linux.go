package faultfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// FS is one mounted file system. Its methods are safe for concurrent use, except PowerCut and Close.
type FS struct {
	backing, mountpoint string
	server              *fuse.Server

	failSync atomic.Bool
	delays   atomic.Pointer[Delays]

	mu     sync.Mutex // taken before the lock of an inode
	inodes map[uint64]*inode

	room    sync.Mutex // taken after the lock of an inode
	limited bool
	free    int64 // bytes that files may still grow by, if limited
}

// Mount puts the file system over the directory backing and mounts it at the directory mountpoint.
// Nobody else may use backing meanwhile. The error is ErrUnavailable where mounting is not possible.
func Mount(backing, mountpoint string) (*FS, error) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	f := &FS{backing: backing, mountpoint: mountpoint, inodes: make(map[uint64]*inode)}
	f.delays.Store(&Delays{})
	if err := f.mount(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return f, nil
}

func (f *FS) mount() error {
	var st syscall.Stat_t
	if err := syscall.Stat(f.backing, &st); err != nil {
		return err
	}
	data := &fs.LoopbackRoot{Path: f.backing, Dev: st.Dev}
	root := &node{LoopbackNode: fs.LoopbackNode{RootData: data}, fsys: f}
	data.RootNode = root
	keep := time.Second
	server, err := fs.Mount(f.mountpoint, root, &fs.Options{
		AttrTimeout: &keep, EntryTimeout: &keep, NullPermissions: true,
		MountOptions: fuse.MountOptions{FsName: "faultfs", Name: "faultfs", DirectMount: true, DisableXAttrs: true},
	})
	if err != nil {
		return err
	}
	f.server = server
	return nil
}

// unmountLimit bounds the wait for files that a killed process still holds open for a moment.
const unmountLimit = 10 * time.Second

func (f *FS) unmount() error {
	deadline := time.NewTimer(unmountLimit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f.server.Unmount()
		if err == nil {
			f.server.Wait()
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return fmt.Errorf("faultfs: unmounting %s: %w", f.mountpoint, err)
		}
	}
}

// Limit lets files grow by that many bytes more, together; then writes fail with ENOSPC, after as much
// as still fits. Statfs tells of it.
func (f *FS) Limit(free int64) {
	f.room.Lock()
	defer f.room.Unlock()
	f.limited, f.free = true, free
}

// Unlimit ends Limit.
func (f *FS) Unlimit() {
	f.room.Lock()
	defer f.room.Unlock()
	f.limited = false
}

// Slow sets how long the disk takes from now on.
func (f *FS) Slow(d Delays) { f.delays.Store(&d) }

// FailSync makes syncs fail with EIO, or succeed again.
func (f *FS) FailSync(fail bool) { f.failSync.Store(fail) }

// PowerCut drops of what is not durable some or all, as dice has it. No process may have a file open.
// The file system is unmounted and mounted again, which empties the kernel's caches.
func (f *FS) PowerCut(dice *rand.Rand) (Loss, error) {
	if err := f.unmount(); err != nil {
		return Loss{}, err
	}
	var loss Loss
	f.mu.Lock()
	for ino, n := range f.inodes {
		pages, changed, err := n.cut(dice)
		if err != nil {
			f.mu.Unlock()
			return loss, err
		}
		loss.Pages += pages
		if changed {
			loss.Files++
		}
		n.f.Close()
		delete(f.inodes, ino)
	}
	f.mu.Unlock()
	return loss, f.mount()
}

// Close unmounts the file system. What was written stays in the backing directory.
func (f *FS) Close() error {
	err := f.unmount()
	if err != nil {
		// Somebody holds a file open: let go of the mount all the same.
		err = errors.Join(err, syscall.Unmount(f.mountpoint, syscall.MNT_DETACH))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for ino, n := range f.inodes {
		n.f.Close()
		delete(f.inodes, ino)
	}
	return err
}

// grow takes n bytes of the free space and returns how many there were, up to n.
func (f *FS) grow(n int64) int64 {
	f.room.Lock()
	defer f.room.Unlock()
	if f.limited {
		n = max(min(n, f.free), 0)
		f.free -= n
	}
	return n
}

// shrink gives n bytes back.
func (f *FS) shrink(n int64) {
	f.room.Lock()
	defer f.room.Unlock()
	f.free += n
}

// space returns the free space, if it is limited.
func (f *FS) space() (free int64, limited bool) {
	f.room.Lock()
	defer f.room.Unlock()
	return f.free, f.limited
}

// acquire returns the state of a file, which it keeps until release. A state holds the file open, so no
// other file gets its number meanwhile.
func (f *FS) acquire(path string, ino uint64) (*inode, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.inodes[ino]
	if n == nil {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err != nil {
			file.Close()
			return nil, err
		}
		n = &inode{f: file, size: info.Size(), durable: info.Size(), pages: make(map[int64]*page)}
		f.inodes[ino] = n
	}
	n.users++
	return n, nil
}

// release ends the use of a file's state, which is forgotten unless something of it can still be lost.
func (f *FS) release(ino uint64, n *inode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.users--; n.users == 0 && f.inodes[ino] == n && n.clean() {
		n.f.Close()
		delete(f.inodes, ino)
	}
}

// forget drops the state of a file that was removed.
func (f *FS) forget(ino uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.inodes[ino]; n != nil && n.users == 0 {
		n.f.Close()
		delete(f.inodes, ino)
	} else if n != nil {
		n.remove()
	}
}

// pause waits for a delay of the slow disk.
func pause(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
}
