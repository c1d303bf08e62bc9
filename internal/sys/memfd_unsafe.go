// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageSize is the unit of mappings.
var PageSize = os.Getpagesize()

// CreateMemfd makes an anonymous file of size bytes that only this user can open again through procfs: a memfd is
// born with mode 0777, and whoever is given a read-only descriptor of it could reopen it for writing (memfd_create(2)).
// The caller owns the descriptor.
func CreateMemfd(name string, size int64) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if err = unix.Fchmod(fd, 0o600); err == nil {
		if err = unix.Ftruncate(fd, size); err == nil {
			// From here on nobody can shrink it under the mapping (a SIGBUS for us).
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot size memfd %s: %w", name, err)
	}
	return fd, nil
}

// FileSize is the size of the file behind fd, in bytes.
func FileSize(fd int) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Size, nil
}

// Map maps size bytes of fd from offset, shared and writable. Unmap releases it.
func Map(fd int, offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return b, nil
}

// MapReadOnly is Map for who may only read.
func MapReadOnly(fd int, offset int64, size int) ([]byte, error) {
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return b, nil
}

// OpenReadOnly is another descriptor of the file behind fd, which only reads. The caller owns it.
func OpenReadOnly(fd int) (int, error) {
	n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open descriptor %d for reading: %w", fd, os.NewSyscallError("open", err))
	}
	return n, nil
}

// IsFixed says whether nobody can make the memfd fd smaller: what is mapped of it can be read at any time, without a SIGBUS.
func IsFixed(fd int) bool {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	return err == nil && seals&unix.F_SEAL_SHRINK != 0
}

// Word is the word at an offset of mapped memory, a multiple of 8, which others read and write at any time.
func Word(b []byte, at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&b[at : at+8][0])) }

// Unmap releases what Map returned.
func Unmap(b []byte) error { return unix.Munmap(b) }

// MapTwice maps size bytes of fd from offset twice, back to back, so that whatever begins in the first copy is
// contiguous even where it runs past the end:
//
//	file      |0 ........ size|
//	memory    |0 ........ size|0 ........ size|
//
// size is a multiple of the page size. UnmapTwice releases it.
func MapTwice(fd int, offset int64, size int) ([]byte, error) {
	return mapTwice(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE)
}

// MapTwiceReadOnly is MapTwice for who may only read.
func MapTwiceReadOnly(fd int, offset int64, size int) ([]byte, error) {
	return mapTwice(fd, offset, size, unix.PROT_READ)
}

func mapTwice(fd int, offset int64, size, prot int) ([]byte, error) {
	const anon = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	// Reserve the range first, so that the two fixed mappings can land on nothing else.
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(2*size), unix.PROT_NONE, anon)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	for i := range 2 {
		at := unsafe.Add(base, i*size)
		if _, err := unix.MmapPtr(fd, offset, at, uintptr(size), prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
			unix.MunmapPtr(base, uintptr(2*size))
			return nil, os.NewSyscallError("mmap", err)
		}
	}
	return unsafe.Slice((*byte)(base), 2*size), nil
}

// UnmapTwice releases what MapTwice returned.
func UnmapTwice(b []byte) error {
	return unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b)))
}

// Populate makes every page of b present and writable now, without changing a byte. A page that cannot be had in the
// middle of a receive would lose the datagram. b may begin within a page, as where pages have 16 or 64 KiB.
func Populate(b []byte) {
	if within := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % uintptr(unix.Getpagesize())); within > 0 {
		b = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), -within)), within+len(b))
	}
	// One call for all (Linux 5.14) takes half the time of a fault for each, and meanwhile nothing is received.
	if unix.Madvise(b, unix.MADV_POPULATE_WRITE) == nil {
		return
	}
	for i := 0; i < len(b); i += PageSize {
		atomic.AddUint32((*uint32)(unsafe.Pointer(&b[i])), 0)
	}
}

// Lock keeps b in memory (mlock(2)); it fails with EPERM or ENOMEM above RLIMIT_MEMLOCK.
func Lock(b []byte) error { return os.NewSyscallError("mlock", unix.Mlock(b)) }

// LockUsed keeps those pages of b in memory that are there, and others as soon as they are (mlock2(2), MLOCK_ONFAULT). It fails as Lock
// does.
func LockUsed(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MLOCK_ONFAULT); errno != 0 {
		return os.NewSyscallError("mlock2", errno)
	}
	return nil
}

// NextData says where in fd's file, from offset at on, the next pages are that are there, and where they end: from when somebody has
// written to one, or looked at it in a mapping, it is there. It fails with ENXIO if there are none up to the end of the file. It moves the
// file's offset, and does not block.
func NextData(fd int, at int64) (begin, end int64, err error) {
	if begin, err = unix.Seek(fd, at, unix.SEEK_DATA); err == nil {
		end, err = unix.Seek(fd, begin, unix.SEEK_HOLE)
	}
	return begin, end, err
}

// SmallPages has the pages of b come and go one by one, where the kernel would gather them to larger ones (madvise(2), MADV_NOHUGEPAGE).
// Before Linux 6.4, while it does that, NextData may not find what is there.
func SmallPages(b []byte) {
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // EINVAL: this kernel has no larger ones
}

// Guard takes the write lock on byte at of fd's file for this process. It is a record lock of fcntl(2): it belongs to
// the process, ends with it, and falls with ANY close of ANY descriptor of that file in this process, so fd must never
// be duplicated, wrapped in an os.File, or closed before the end. flock(2) would be of no use here: it belongs to the
// open file description, which the service manager and every successor share.
//
// When another process holds the lock, its pid is returned with EAGAIN.
func Guard(fd int, at int64) (holder int, err error) {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: at, Len: 1}
	if err = unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l); err == nil {
		return 0, nil
	}
	q := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: at, Len: 1}
	if unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &q) == nil && q.Type != unix.F_UNLCK {
		return int(q.Pid), unix.EAGAIN
	}
	return 0, err
}
