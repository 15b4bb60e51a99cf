package faultfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a name of the file system. What it does not do itself goes straight to the backing
// directory.
type node struct {
	fs.LoopbackNode
	fsys *FS
}

var (
	_ fs.NodeWrapChilder     = (*node)(nil)
	_ fs.NodeOpener          = (*node)(nil)
	_ fs.NodeCreater         = (*node)(nil)
	_ fs.NodeSetattrer       = (*node)(nil)
	_ fs.NodeUnlinker        = (*node)(nil)
	_ fs.NodeRenamer         = (*node)(nil)
	_ fs.NodeStatfser        = (*node)(nil)
	_ fs.NodeCopyFileRanger  = (*node)(nil)
	_ fs.FileWriter          = (*file)(nil)
	_ fs.FileFsyncer         = (*file)(nil)
	_ fs.FileAllocater       = (*file)(nil)
	_ fs.FileReleaser        = (*file)(nil)
	_ fs.FilePassthroughFder = (*file)(nil)
)

// WrapChild makes the nodes below like this one.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, fsys: n.fsys}
}

// path is where the node lies in the backing directory.
func (n *node) path() string { return filepath.Join(n.fsys.backing, n.Path(n.Root())) }

const accessModes = syscall.O_RDONLY | syscall.O_WRONLY | syscall.O_RDWR

// Open opens a file. One that is opened for reading alone needs no care.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	path := n.path()
	if flags&accessModes == syscall.O_RDONLY {
		f, err := os.Open(path)
		if err != nil {
			return nil, 0, errno(err)
		}
		return reader{fs.NewLoopbackFileFromOS(f)}, 0, 0
	}
	return n.open(path, flags)
}

func (n *node) open(path string, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, errno(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		f.Close()
		return nil, 0, errno(err)
	}
	state, err := n.fsys.acquire(path, st.Ino)
	if err != nil {
		f.Close()
		return nil, 0, errno(err)
	}
	h := &file{LoopbackFile: fs.NewLoopbackFileFromOS(f), fsys: n.fsys, ino: st.Ino, state: state, syncs: flags&syscall.O_DSYNC != 0}
	if flags&syscall.O_TRUNC != 0 {
		if err := state.truncate(n.fsys, 0); err != nil {
			_ = h.Release(context.Background()) // the first error tells more
			return nil, 0, errno(err)
		}
	}
	return h, 0, 0
}

// Create makes a file and opens it.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if free, limited := n.fsys.space(); limited && free <= 0 {
		return nil, nil, 0, syscall.ENOSPC
	}
	path := filepath.Join(n.path(), name)
	child, h, _, e := n.LoopbackNode.Create(ctx, name, flags&^syscall.O_TRUNC, mode, out)
	if e != 0 {
		return nil, nil, 0, e
	}
	if e := h.(*fs.LoopbackFile).Release(ctx); e != 0 {
		return nil, nil, 0, e
	}
	own, fuseFlags, e := n.open(path, flags)
	if e != 0 {
		return nil, nil, 0, e
	}
	return child, own, fuseFlags, 0
}

// Setattr changes the size through the file's state.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		path := n.path()
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return errno(err)
		}
		state, err := n.fsys.acquire(path, st.Ino)
		if err != nil {
			return errno(err)
		}
		err = state.truncate(n.fsys, int64(size))
		n.fsys.release(st.Ino, state)
		if err != nil {
			return errno(err)
		}
		in.Valid &^= fuse.FATTR_SIZE
	}
	switch f := h.(type) {
	case *file:
		h = f.LoopbackFile
	case reader:
		h = f.LoopbackFile
	}
	return n.LoopbackNode.Setattr(ctx, h, in, out)
}

// Unlink removes a name.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	gone := n.fate(name)
	e := n.LoopbackNode.Unlink(ctx, name)
	if e == 0 {
		gone()
	}
	return e
}

// Rename changes a name. What had the new one before is gone.
func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := parent.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL // nothing that is tested here uses exchanges
	}
	gone := to.fate(newName)
	e := n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
	if e == 0 {
		gone()
	}
	return e
}

// fate returns what is to be done when the name has lost its file.
func (n *node) fate(name string) (gone func()) {
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(n.path(), name), &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Nlink > 1 {
		return func() {}
	}
	return func() {
		n.fsys.shrink(st.Size)
		n.fsys.forget(st.Ino)
	}
}

// Statfs tells how much is free.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	e := n.LoopbackNode.Statfs(ctx, out)
	if free, limited := n.fsys.space(); e == 0 && limited {
		blocks := uint64(max(free, 0)) / uint64(max(out.Bsize, 1))
		out.Bfree, out.Bavail = min(out.Bfree, blocks), min(out.Bavail, blocks)
	}
	return e
}

// CopyFileRange is left to reading and writing.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// reader is a descriptor that only reads.
type reader struct{ *fs.LoopbackFile }

// PassthroughFd keeps the kernel from going past us: once it does so for one descriptor of a file it does
// for all, and writes would not be seen.
func (reader) PassthroughFd() (int, bool) { return 0, false }

// file is a descriptor that may write.
type file struct {
	*fs.LoopbackFile
	fsys  *FS
	ino   uint64
	state *inode
	syncs bool // each write is a sync
}

// Write writes.
func (h *file) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	pause(h.fsys.delays.Load().Write)
	n, err := h.state.write(h.fsys, data, off)
	if err == nil && h.syncs {
		err = h.sync()
	}
	return uint32(n), errno(err)
}

// Fsync makes durable, as far as this file system lets it.
func (h *file) Fsync(context.Context, uint32) syscall.Errno { return errno(h.sync()) }

func (h *file) sync() error {
	pause(h.fsys.delays.Load().Sync)
	return h.state.sync(h.fsys.failSync.Load())
}

// Allocate is refused, as by file systems that have no such thing; programs then write.
func (h *file) Allocate(context.Context, uint64, uint64, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}

// PassthroughFd keeps the kernel from going past us.
func (*file) PassthroughFd() (int, bool) { return 0, false }

// Release closes the descriptor.
func (h *file) Release(ctx context.Context) syscall.Errno {
	h.fsys.release(h.ino, h.state)
	return h.LoopbackFile.Release(ctx)
}

// errno is the system's number of an error.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return syscall.EIO
}
