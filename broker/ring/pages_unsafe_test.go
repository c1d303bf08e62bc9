// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// largePages says, in the environment of a process, that mmap(2) is to be to it what it is on a kernel with pages of 64 KiB.
const largePages = "MSGMUX_LARGE_PAGES"

// TestLargePages: a ring lives on a kernel with pages of 64 KiB, where nothing can be mapped at an offset that is no multiple of that
// (mmap(2), EINVAL). Here a filter of system calls refuses it, in a process of its own, which cannot get rid of the filter.
func TestLargePages(t *testing.T) {
	if os.Getenv(largePages) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLargePages$", "-test.v")
		cmd.Env = append(os.Environ(), largePages+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("a ring of large pages")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	refuseSmallOffsets(t)
	file, err := unix.MemfdCreate("pages", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	if err := unix.Ftruncate(file, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Mmap(file, 4096, 4096, unix.PROT_READ, unix.MAP_SHARED); err != unix.EINVAL {
		t.Fatalf("the filter lets a mapping at 4096 pass: %v", err)
	}
	g := newRig(t, small())
	a := g.add(wish{Kind: Dynamic, Label: "a"}, false)
	for i := range 3000 { // round the ring
		g.enter(text64(i))
		g.send(a)
		if got := g.read(a); len(got) != 1 || !bytes.Equal(got[0], text64(i)) {
			t.Fatalf("message %d came as %d messages", i, len(got))
		}
	}
	g.enter(text64(7))
	n, err := g.moved(Geometry{Size: 2 * MinSize, MaxMessage: 64 << 10, MaxSinks: 9})
	if err != nil {
		t.Fatal(err)
	}
	if head := g.reopen().Head(); head != n.Head() || head.Seq != 3001 {
		t.Errorf("head is %v after all", head)
	}
	t.Log("a ring of large pages")
}

func text64(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 500+i%64) }

// refuseSmallOffsets has mmap(2) fail for offsets that are no multiple of 64 KiB, in all threads of this process and for good
// (seccomp(2)).
func refuseSmallOffsets(t *testing.T) {
	t.Helper()
	const (
		number = 0          // of the call, in struct seccomp_data
		offset = 16 + 8*5   // the low half of the sixth argument
		sync   = 1          // SECCOMP_FILTER_FLAG_TSYNC
		errno  = 0x00050000 // SECCOMP_RET_ERRNO
		allow  = 0x7fff0000 // SECCOMP_RET_ALLOW
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MMAP, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 64<<10 - 1, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: errno | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, sync, uintptr(unsafe.Pointer(&program))); err != 0 {
		t.Fatalf("cannot filter system calls: %v", err)
	}
}
