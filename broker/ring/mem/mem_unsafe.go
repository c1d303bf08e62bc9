// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
)

// Kind is what a store is, for a test that looks at it.
type Kind uint8

// The kinds of stores.
const (
	Word    Kind = iota // a word that a successor reads
	Scratch             // an address, or what else means nothing in another process: every process writes it anew before it reads it
	Payload             // bytes of messages, behind the words that say whether they count
)

// noCopy has go vet refuse an assignment that would be a store of its own.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// Value is a T that one thread alone reads and writes while the process lives: its stores are plain ones.
type Value[T any] struct {
	_ noCopy
	v T
}

// Load is the value.
func (w *Value[T]) Load() T { return w.v }

// Store sets it. One of several words is not set at once.
func (w *Value[T]) Store(v T) {
	if Watched && watch(Word, unsafe.Pointer(&w.v), unsafe.Pointer(&v), unsafe.Sizeof(v)) {
		return
	}
	w.v = v
}

// ForKernel is where a system call may put one.
func (w *Value[T]) ForKernel() *T { return &w.v }

// Uint32 is a word that other threads may read at any time.
type Uint32 struct{ v atomic.Uint32 }

// Load is its value.
func (w *Uint32) Load() uint32 { return w.v.Load() }

// Store sets it, after every store before it and before every one behind.
func (w *Uint32) Store(v uint32) {
	if Watched && watch(Word, unsafe.Pointer(&w.v), unsafe.Pointer(&v), unsafe.Sizeof(v)) {
		return
	}
	w.v.Store(v)
}

// Add adds to it.
func (w *Uint32) Add(d uint32) {
	if Watched {
		w.Store(w.v.Load() + d)
		return
	}
	w.v.Add(d)
}

// Uint64 is a word that other threads may read at any time.
type Uint64 struct{ v atomic.Uint64 }

// Load is its value.
func (w *Uint64) Load() uint64 { return w.v.Load() }

// Store sets it, after every store before it and before every atomic load and store behind.
func (w *Uint64) Store(v uint64) {
	if Watched && watch(Word, unsafe.Pointer(&w.v), unsafe.Pointer(&v), unsafe.Sizeof(v)) {
		return
	}
	w.v.Swap(v) // under the race detector an atomic store lets loads behind it go first
}

// Int64 is a word that other threads may read at any time.
type Int64 struct{ v atomic.Int64 }

// Load is its value.
func (w *Int64) Load() int64 { return w.v.Load() }

// Store sets it, after every store before it and before every one behind.
func (w *Int64) Store(v int64) {
	if Watched && watch(Word, unsafe.Pointer(&w.v), unsafe.Pointer(&v), unsafe.Sizeof(v)) {
		return
	}
	w.v.Store(v)
}

// address is where something is in this process: a number, and no pointer, for the files outlive the process. A store of a pointer
// shows the garbage collector what stood there before, an address in a process that has died, and where that happens to be one of
// its own that is not in use, it stops the program ("found bad pointer in Go heap"). As nothing here keeps what an address leads
// to, that must be mapped, or held by someone else, and never be on a stack.
type address uintptr

func addressOf[T any](p *T) address { return address(unsafe.Pointer(p)) }

// msghdr is struct msghdr of sendmsg(2), and iovec that of readv(2), as unix.Msghdr and unix.Iovec have them, but for the pointers.
type (
	msghdr struct {
		name    address
		namelen uint32
		iov     address
		iovlen  uint64
		control address

		controllen uint64
		flags      int32
		_          int32
	}
	iovec struct {
		base address
		len  uint64
	}
	mmsghdr struct {
		msghdr
		len uint32
	}
)

// They are what the kernel takes them for.
const (
	_ = -(unsafe.Sizeof(mmsghdr{}) ^ unsafe.Sizeof(sys.Mmsghdr{}))
	_ = -(unsafe.Sizeof(iovec{}) ^ unsafe.Sizeof(unix.Iovec{}))
	_ = -(unsafe.Offsetof(mmsghdr{}.len) ^ unsafe.Offsetof(sys.Mmsghdr{}.Len))
	_ = -(unsafe.Offsetof(msghdr{}.iov) ^ unsafe.Offsetof(unix.Msghdr{}.Iov))
	_ = -(unsafe.Offsetof(msghdr{}.control) ^ unsafe.Offsetof(unix.Msghdr{}.Control))
	_ = -(unsafe.Offsetof(msghdr{}.controllen) ^ unsafe.Offsetof(unix.Msghdr{}.Controllen))
	_ = -(unsafe.Offsetof(msghdr{}.flags) ^ unsafe.Offsetof(unix.Msghdr{}.Flags))
)

// Header is struct mmsghdr of sendmmsg(2) and recvmmsg(2). The kernel writes its length, flags and control length.
type Header struct {
	_ noCopy
	h mmsghdr
}

// Len is what the kernel wrote: how long the message was that it took or delivered; or sys.Untouched.
func (h *Header) Len() uint32 { return h.h.len }

// Preset sets the length to sys.Untouched: from now on it says whether the kernel has been here.
func (h *Header) Preset() { h.SetLen(sys.Untouched) }

// SetLen writes the length in the kernel's place, where its call has no header.
func (h *Header) SetLen(n uint32) {
	if Watched && watch(Word, unsafe.Pointer(&h.h.len), unsafe.Pointer(&n), unsafe.Sizeof(n)) {
		return
	}
	h.h.len = n
}

// Truncated says whether the kernel had to cut the message (MSG_TRUNC, recvmsg(2)).
func (h *Header) Truncated() bool { return h.h.flags&unix.MSG_TRUNC != 0 }

// SetFlags writes the flags in the kernel's place.
func (h *Header) SetFlags(flags int32) {
	if Watched && watch(Word, unsafe.Pointer(&h.h.flags), unsafe.Pointer(&flags), unsafe.Sizeof(flags)) {
		return
	}
	h.h.flags = flags
}

// ControlLen is how much control data the kernel wrote, in bytes.
func (h *Header) ControlLen() uint64 { return h.h.controllen }

// SetControlLen says how much control data there is room for, in bytes, or writes the length in the kernel's place.
func (h *Header) SetControlLen(n uint64) {
	if Watched && watch(Word, unsafe.Pointer(&h.h.controllen), unsafe.Pointer(&n), unsafe.Sizeof(n)) {
		return
	}
	h.h.controllen = n
}

// Bind says where the message's bytes and its control data are in this process. The lengths, and what else the kernel wrote,
// stay; but where there is no control data, it has no length either.
func (h *Header) Bind(iov []Iovec, control []byte) {
	m, size := h.h.msghdr, unsafe.Offsetof(h.h.controllen)
	m.name, m.namelen, m.iov, m.iovlen, m.control = 0, 0, addressOf(&iov[0].v), uint64(len(iov)), addressOf(unsafe.SliceData(control))
	if control == nil {
		m.controllen, size = 0, unsafe.Offsetof(h.h.flags)
	}
	if Watched && !same(unsafe.Pointer(&h.h.msghdr), unsafe.Pointer(&m), size) {
		watched := m // so that what is the same needs no memory: who takes over binds a thousand of them
		if watch(Scratch, unsafe.Pointer(&h.h.msghdr), unsafe.Pointer(&watched), size) {
			return
		}
	}
	h.h.msghdr = m
}

// Aim says where the message's bytes are in this process, and leaves its control data.
func (h *Header) Aim(iov []Iovec) {
	to := struct {
		iov address
		n   uint64
	}{addressOf(&iov[0].v), uint64(len(iov))}
	if Watched && watch(Scratch, unsafe.Pointer(&h.h.iov), unsafe.Pointer(&to), unsafe.Sizeof(to)) {
		return
	}
	h.h.iov, h.h.iovlen = to.iov, to.n
}

// Carry has the message carry b as its control data; nil: none.
func (h *Header) Carry(b []byte) {
	to := struct {
		control address
		n       uint64
	}{addressOf(unsafe.SliceData(b)), uint64(len(b))}
	if Watched && watch(Scratch, unsafe.Pointer(&h.h.control), unsafe.Pointer(&to), unsafe.Sizeof(to)) {
		return
	}
	h.h.control, h.h.controllen = to.control, to.n
}

// ForKernel are the headers as a system call takes them.
func ForKernel(h []Header) []sys.Mmsghdr {
	return unsafe.Slice((*sys.Mmsghdr)(unsafe.Pointer(unsafe.SliceData(h))), len(h))
}

// Iovec is struct iovec of readv(2).
type Iovec struct {
	_ noCopy
	v iovec
}

// Set points it to b. Addresses mean nothing to a successor, which sets them anew.
func (v *Iovec) Set(b []byte) {
	n := iovec{addressOf(unsafe.SliceData(b)), uint64(len(b))}
	if Watched && !same(unsafe.Pointer(&v.v), unsafe.Pointer(&n), unsafe.Sizeof(n)) {
		watched := n
		if watch(Scratch, unsafe.Pointer(&v.v), unsafe.Pointer(&watched), unsafe.Sizeof(n)) {
			return
		}
	}
	v.v = n
}

// Bytes are bytes of messages.
type Bytes struct{ b []byte }

// Over are the bytes b, which must be mapped from one of the two files.
func Over(b []byte) Bytes { return Bytes{b} }

// Len is how many they are.
func (b Bytes) Len() int { return len(b.b) }

// Slice are n of them from at on, to be read, or to be written by a system call.
func (b Bytes) Slice(at, n uint64) []byte { return b.b[at : at+n : at+n] }

// Uint32 is the little-endian number at at, a multiple of 4.
func (b Bytes) Uint32(at uint64) uint32 { return *(*uint32)(unsafe.Pointer(&b.b[at])) }

// PutUint32 writes the little-endian number at at, a multiple of 4.
func (b Bytes) PutUint32(at uint64, v uint32) {
	if Watched && watch(Payload, unsafe.Pointer(&b.b[at]), unsafe.Pointer(&v), unsafe.Sizeof(v)) {
		return
	}
	*(*uint32)(unsafe.Pointer(&b.b[at])) = v
}

// Copy copies from to at. A kill may leave any part of it.
func (b Bytes) Copy(at uint64, from []byte) {
	if len(from) == 0 {
		return
	}
	if Watched && watch(Payload, unsafe.Pointer(&b.b[at]), unsafe.Pointer(&from[0]), uintptr(len(from))) {
		return
	}
	copy(b.b[at:], from)
}
