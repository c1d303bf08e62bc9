// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"runtime"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dead is an address that was one of this process's heap once and is nothing now, as what a predecessor has left in the files may
// look like.
//
//go:noinline
func dead() address {
	b := make([]byte, 1<<20)
	return addressOf(unsafe.SliceData(b))
}

// TestDeadAddresses that a predecessor has left are none of the garbage collector's business. It ends the program where it finds
// one, so what this test says when it fails is "found bad pointer in Go heap".
func TestDeadAddresses(t *testing.T) {
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	header, iov := (*Header)(unsafe.Pointer(&page[0])), unsafe.Slice((*Iovec)(unsafe.Pointer(&page[256])), 1)
	left := dead()
	debug.FreeOSMemory()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100 {
			runtime.GC()
		}
	}()
	for {
		for range 1000 {
			h := &header.h
			h.name, h.iov, h.control, iov[0].v.base = left, left, left, left
			iov[0].Set(page[512:])
			header.Bind(iov, page[1024:])
			h.iov = left
			header.Aim(iov)
		}
		if header.h.iov != addressOf(&iov[0].v) || iov[0].v.base != addressOf(&page[512]) || header.h.control != addressOf(&page[1024]) {
			t.Fatalf("%+v %+v", header.h, iov[0].v)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
