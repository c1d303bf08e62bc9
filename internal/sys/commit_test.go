// SPDX-License-Identifier: Apache-2.0

package sys

// What the crash protocol of the ring assumes of the kernel (docs/proof.md), asked of the kernel that runs.

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unixPair is a connected pair of sockets; O_NONBLOCK is not set. The test closes it.
func unixPair(tb testing.TB, kind int) (one, other int) {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	return pair[0], pair[1]
}

// headers are n headers with a buffer of size bytes each, untouched.
func headers(n, size int) (vec []Mmsghdr, buffers [][]byte) {
	vec, buffers = make([]Mmsghdr, n), make([][]byte, n)
	for i := range vec {
		buffers[i] = make([]byte, size)
		vec[i].Len = Untouched
		vec[i].Hdr = unix.Msghdr{Iov: &unix.Iovec{Base: &buffers[i][0], Len: uint64(size)}, Iovlen: 1}
	}
	return vec, buffers
}

func lengths(vec []Mmsghdr) (l []uint32) {
	for i := range vec {
		l = append(l, vec[i].Len)
	}
	return l
}

// TestRecvmmsgRecordsWhatItTook: msg_len is written for the messages that were taken, in order, and for no other.
func TestRecvmmsgRecordsWhatItTook(t *testing.T) {
	one, other := unixPair(t, unix.SOCK_DGRAM)
	for _, text := range []string{"four", "", "of them, or five"} {
		if err := unix.Send(other, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	vec, buffers := headers(5, 8)
	if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 3 || errno != 0 {
		t.Fatal(n, errno)
	}
	if got, want := lengths(vec), []uint32{4, 0, 8, Untouched, Untouched}; !slices.Equal(got, want) {
		t.Errorf("records %v, want %v", got, want)
	}
	if string(buffers[0][:4]) != "four" || string(buffers[2]) != "of them," || vec[2].Hdr.Flags&unix.MSG_TRUNC == 0 {
		t.Errorf("got %q, %q, flags %x", buffers[0], buffers[2], vec[2].Hdr.Flags)
	}
	vec, _ = headers(5, 8)
	if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 0 || errno != unix.EAGAIN {
		t.Error(n, errno)
	}
	if got := lengths(vec); !slices.Equal(got, slices.Repeat([]uint32{Untouched}, 5)) {
		t.Errorf("records %v of a call that found nothing", got)
	}
}

// TestRecvmmsgRecordsWhatItTookBeforeAnError: an error behind the first message does not undo the records before it. It comes
// with the next call, once, also to another process.
func TestRecvmmsgRecordsWhatItTookBeforeAnError(t *testing.T) {
	one, other := unixPair(t, unix.SOCK_DGRAM)
	for i := range byte(4) {
		if err := unix.Send(other, []byte{i}, 0); err != nil {
			t.Fatal(err)
		}
	}
	nowhere, err := unix.Mmap(-1, 0, PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(nowhere)
	vec, buffers := headers(4, 1)
	vec[2].Hdr.Iov.Base = unsafe.SliceData(nowhere)
	if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 2 || errno != 0 {
		t.Fatal(n, errno)
	}
	if got, want := lengths(vec), []uint32{1, 1, Untouched, Untouched}; !slices.Equal(got, want) || buffers[1][0] != 1 {
		t.Errorf("records %v, want %v", got, want)
	}
	vec, buffers = headers(4, 1)
	if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 0 || errno != unix.EFAULT {
		t.Errorf("the next call brings %d, %v, want EFAULT", n, errno)
	}
	if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 1 || errno != 0 || buffers[0][0] != 3 {
		t.Errorf("the call after it brings %d, %v, message %d", n, errno, buffers[0][0])
	}
}

// TestRecvmmsgAtTheEnd: behind the end of a connection every header that is left is written, with 0. So a packet is received
// alone.
func TestRecvmmsgAtTheEnd(t *testing.T) {
	one, other := unixPair(t, unix.SOCK_SEQPACKET)
	if err := unix.Send(other, []byte("last"), 0); err != nil {
		t.Fatal(err)
	}
	unix.Shutdown(other, unix.SHUT_WR)
	vec, _ := headers(3, 8)
	if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 3 || errno != 0 || !slices.Equal(lengths(vec), []uint32{4, 0, 0}) {
		t.Error(n, errno, lengths(vec))
	}
}

// TestSendmmsgRecordsWhatWasDelivered: msg_len is written for the messages that the other end's queue has, in order, and for
// no other.
func TestSendmmsgRecordsWhatWasDelivered(t *testing.T) {
	one, other := unixPair(t, unix.SOCK_SEQPACKET)
	vec, buffers := headers(1024, 4096)
	for i := range buffers {
		binary.LittleEndian.PutUint32(buffers[i], uint32(i))
	}
	n, errno := (Kernel{}).Sendmmsg("", one, vec)
	if n == 0 || n == len(vec) || errno != 0 {
		t.Fatalf("%d of %d sent, %v: the queue should have become full", n, len(vec), errno)
	}
	for i := range vec {
		if want := uint32(4096); i < n && vec[i].Len != want || i >= n && vec[i].Len != Untouched {
			t.Fatalf("record %d of %d sent is %#x", i, n, vec[i].Len)
		}
	}
	vec[n].Len = Untouched
	if again, errno := (Kernel{}).Sendmmsg("", one, vec[n:]); again != 0 || errno != unix.EAGAIN || vec[n].Len != Untouched {
		t.Errorf("into the full queue: %d, %v, record %#x", again, errno, vec[n].Len)
	}
	got, buffers := headers(len(vec), 4096)
	for have := 0; have < n; {
		k, errno := (Kernel{}).Recvmmsg("", other, got)
		if errno != 0 {
			t.Fatalf("%d of %d arrived: %v", have, n, errno)
		}
		for i := range k {
			if nr := binary.LittleEndian.Uint32(buffers[i]); nr != uint32(have) {
				t.Fatalf("message %d arrived as number %d", nr, have)
			}
			have++
		}
	}
	if k, errno := (Kernel{}).Recvmmsg("", other, got); k != 0 || errno != unix.EAGAIN {
		t.Errorf("%d more than were delivered, %v", k, errno)
	}
}

// TestCallsDoNotBlock: MSG_DONTWAIT is enough, where the descriptor itself would block.
func TestCallsDoNotBlock(t *testing.T) {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		one, other := unixPair(t, kind)
		done := make(chan struct{})
		go func() {
			defer close(done)
			vec, _ := headers(64, 4096)
			for range 100 {
				if n, errno := (Kernel{}).Recvmmsg("", one, vec); n != 0 || errno != unix.EAGAIN {
					t.Errorf("recvmmsg: %d, %v", n, errno)
				}
			}
			for errno := unix.Errno(0); errno == 0; {
				_, errno = (Kernel{}).Sendmmsg("", one, vec)
			}
			for range 100 {
				if n, errno := (Kernel{}).Sendmmsg("", one, vec); n != 0 || errno != unix.EAGAIN {
					t.Errorf("sendmmsg: %d, %v", n, errno)
				}
			}
		}()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("a call blocks")
		}
		_ = other // open until here
	}
}

// victims are what a child of this test does until it is killed, by the value of victimMark. Descriptor 3 is the memory,
// descriptor 4 a socket.
var victims = map[string]func(memory []byte){
	"send": func(memory []byte) {
		m := shared(memory)
		vec, buffers := headers(victimBatch, 4)
		for base := uint32(0); ; {
			for i := range vec {
				binary.LittleEndian.PutUint32(buffers[i], base+uint32(i))
			}
			n := m.call(base, vec, func(vec []Mmsghdr) (int, unix.Errno) { return Kernel{}.Sendmmsg("", 4, vec) })
			base += uint32(n)
		}
	},
	"receive": func(memory []byte) {
		m := shared(memory)
		vec := make([]Mmsghdr, victimBatch)
		for i := range vec {
			vec[i].Hdr = unix.Msghdr{Iov: &unix.Iovec{Base: (*byte)(unsafe.Pointer(&m.number[i])), Len: 4}, Iovlen: 1}
		}
		for base := uint32(0); ; {
			n := m.call(base, vec, func(vec []Mmsghdr) (int, unix.Errno) { return Kernel{}.Recvmmsg("", 4, vec) })
			base += uint32(n)
		}
	},
	"guard": func(memory []byte) {
		if _, err := Guard(3, 0); err == nil {
			atomic.StoreUint64(&shared(memory).state, 1)
		}
		select {}
	},
}

const (
	victimMark  = "MSGMUX_SYS_VICTIM"
	victimBatch = 64
)

// victimMemory is what outlives a victim.
type victimMemory struct {
	state  uint64 // twice the messages of all calls before; one more: a call is under way
	vec    [victimBatch]Mmsghdr
	number [victimBatch]uint32
}

func shared(memory []byte) *victimMemory { return (*victimMemory)(unsafe.Pointer(&memory[0])) }

// call makes one system call as the ring does: presets the records, says that it is under way, and says how far it came.
func (m *victimMemory) call(base uint32, vec []Mmsghdr, f func([]Mmsghdr) (int, unix.Errno)) int {
	for i := range m.vec {
		m.vec[i] = vec[i]
		m.vec[i].Len = Untouched
	}
	atomic.StoreUint64(&m.state, 2*uint64(base)+1)
	n, _ := f(m.vec[:])
	atomic.StoreUint64(&m.state, 2*(uint64(base)+uint64(n)))
	return n
}

// done is how many messages the victim has sent or received by its memory.
func (m *victimMemory) done() (n uint32, within bool) {
	n = uint32(m.state / 2)
	if m.state&1 == 0 {
		return n, false
	}
	touched := uint32(0)
	for touched < victimBatch && m.vec[touched].Len != Untouched {
		touched++
	}
	return n + touched, touched > 0 && touched < victimBatch
}

// TestMain makes this program a victim if it was started as one.
func TestMain(m *testing.M) {
	if what := os.Getenv(victimMark); what != "" {
		memory, err := Map(3, 0, victimBytes())
		if err != nil {
			panic(err)
		}
		victims[what](memory)
	}
	os.Exit(m.Run())
}

func victimBytes() int {
	return (int(unsafe.Sizeof(victimMemory{})) + PageSize - 1) / PageSize * PageSize
}

// victim starts a child. The caller kills it and waits for it.
func victim(t *testing.T, what string, socket int) (*exec.Cmd, *victimMemory, int) {
	t.Helper()
	fd, err := CreateMemfd("victim", int64(victimBytes()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	memory, err := Map(fd, 0, victimBytes())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Unmap(memory) })
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimMark+"="+what)
	for _, own := range []int{fd, socket} {
		if own < 0 {
			continue
		}
		dup, err := unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(dup), strconv.Itoa(dup))
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, shared(memory), fd
}

// victimKills is how many children each of the tests below kills.
const victimKills = 40

// TestKilledInSendmmsg: killed at any moment, also within sendmmsg, the records of a broker say how many messages are in the
// other end's queue.
func TestKilledInSendmmsg(t *testing.T) {
	within := 0
	for n := range victimKills {
		one, other := unixPair(t, unix.SOCK_SEQPACKET)
		cmd, m, _ := victim(t, "send", one)
		vec, buffers := headers(victimBatch, 4)
		next := uint32(0)
		drain := func() (got bool) {
			for i := range vec {
				vec[i].Len = Untouched
			}
			n, _ := Kernel{}.Recvmmsg("", other, vec)
			for i := range n {
				if nr := binary.LittleEndian.Uint32(buffers[i]); nr != next {
					t.Fatalf("message %d came as number %d", nr, next)
				}
				next++
			}
			return n > 0
		}
		for next == 0 {
			drain()
		}
		for until := time.Now().Add(time.Duration(n%20) * 300 * time.Microsecond); time.Now().Before(until); {
			drain()
		}
		cmd.Process.Kill()
		cmd.Wait()
		for drain() {
		}
		done, in := m.done()
		if done != next {
			t.Errorf("kill %d: %d messages arrived, and the records say %d", n, next, done)
		}
		if in {
			within++
		}
	}
	t.Logf("%d of %d kills fell where a call had done a part", within, victimKills)
}

// TestKilledInRecvmmsg: killed at any moment, also within recvmmsg, the records of a broker say how many messages it has
// taken, each of them lies where it was to go, and the others are still in the queue.
func TestKilledInRecvmmsg(t *testing.T) {
	within := 0
	for n := range victimKills {
		one, other := unixPair(t, unix.SOCK_SEQPACKET)
		cmd, m, _ := victim(t, "receive", one)
		vec, buffers := headers(victimBatch, 4)
		sent := uint32(0)
		fill := func() {
			for i := range vec {
				binary.LittleEndian.PutUint32(buffers[i], sent+uint32(i))
				vec[i].Len = Untouched
			}
			n, _ := Kernel{}.Sendmmsg("", other, vec)
			sent += uint32(n)
		}
		for atomic.LoadUint64(&m.state) < 2 {
			fill()
		}
		for until := time.Now().Add(time.Duration(n%20) * 300 * time.Microsecond); time.Now().Before(until); {
			fill()
		}
		cmd.Process.Kill()
		cmd.Wait()
		done, in := m.done()
		base := uint32(m.state / 2)
		for i := uint32(0); m.state&1 == 1 && base+i < done; i++ {
			if m.number[i] != base+i {
				t.Errorf("kill %d: record %d is of message %d, want %d", n, i, m.number[i], base+i)
			}
		}
		next := done
		for {
			k, _ := Kernel{}.Recvmmsg("", one, vec)
			if k == 0 {
				break
			}
			for i := range k {
				if nr := binary.LittleEndian.Uint32(buffers[i]); nr != next {
					t.Fatalf("kill %d: message %d is next in the queue, and the records say %d were taken", n, nr, done)
				}
				next++
			}
		}
		if next != sent {
			t.Errorf("kill %d: %d were sent, %d found", n, sent, next)
		}
		if in {
			within++
		}
	}
	t.Logf("%d of %d kills fell where a call had done a part", within, victimKills)
}

// TestGuardFallsWithTheProcess: whoever holds the guard is named, and when it is dead the guard is free, although others have
// descriptors of the same file.
func TestGuardFallsWithTheProcess(t *testing.T) {
	cmd, m, fd := victim(t, "guard", -1)
	for atomic.LoadUint64(&m.state) == 0 {
		time.Sleep(time.Millisecond)
	}
	if holder, err := Guard(fd, 0); err != unix.EAGAIN || holder != cmd.Process.Pid {
		t.Errorf("the guard of process %d: %d, %v", cmd.Process.Pid, holder, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := Guard(fd, 0); err != nil {
		t.Errorf("the guard of a dead process: %v", err)
	}
}

// TestQueueReceiveWritesThePriority when it took a message, and not when there was none.
func TestQueueReceiveWritesThePriority(t *testing.T) {
	name := append([]byte("msgmux-test-"+strconv.Itoa(os.Getpid())), 0)
	attr := QueueAttributes{MaxMessages: 2, MessageSize: 16}
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600,
		uintptr(unsafe.Pointer(&attr)), 0, 0)
	if e != 0 {
		t.Fatal(e)
	}
	defer unix.Close(int(fd))
	unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(&name[0])), 0, 0)
	b, priority := make([]byte, 16), uint32(Untouched)
	if _, errno := (Kernel{}).QueueReceive("", int(fd), b, &priority); errno != unix.EAGAIN || priority != Untouched {
		t.Errorf("nothing to take: %v, priority %#x", errno, priority)
	}
	for range 2 {
		if errno := (Kernel{}).QueueSend("", int(fd), []byte("text")); errno != 0 {
			t.Fatal(errno)
		}
	}
	if errno := (Kernel{}).QueueSend("", int(fd), []byte("text")); errno != unix.EAGAIN {
		t.Errorf("a full queue says %v", errno)
	}
	if n, errno := (Kernel{}).QueueReceive("", int(fd), b, &priority); errno != 0 || priority != 0 || !bytes.Equal(b[:n], []byte("text")) {
		t.Errorf("%q, %v, priority %#x", b[:n], errno, priority)
	}
}

// TestWrittenPagesAreData: lseek finds the pages of a memfd that a process has written to in its mapping, also when it was killed, and when
// they are not in memory any more, and no others.
func TestWrittenPagesAreData(t *testing.T) {
	const writes = "MSGMUX_WRITES_PAGES"
	page := unix.Getpagesize()
	if os.Getenv(writes) != "" {
		b, err := Map(3, 0, 8*page)
		if err != nil {
			t.Fatal(err)
		}
		b[2*page], b[3*page+5], b[6*page] = 1, 1, 1
		unix.Kill(unix.Getpid(), unix.SIGKILL)
	}
	fd, err := CreateMemfd("pages", int64(8*page))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	look := func(when string, want ...int) {
		t.Helper()
		var got []int
		for at := int64(0); ; {
			begin, end, err := NextData(fd, at)
			if err == unix.ENXIO {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got, at = append(got, int(begin)/page, int(end)/page), end
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: data in pages %v instead of %v", when, got, want)
		}
	}
	look("new")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWrittenPagesAreData$")
	cmd.Env = append(os.Environ(), writes+"=yes")
	copied, err := Duplicate(fd)
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(copied), "")}
	defer cmd.ExtraFiles[0].Close()
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("it was not killed: %v", err)
	}
	look("killed", 2, 4, 6, 7)
	b, err := Map(fd, 0, 8*page)
	if err != nil {
		t.Fatal(err)
	}
	defer Unmap(b)
	if err := unix.Madvise(b, unix.MADV_PAGEOUT); err != nil {
		t.Fatal(err)
	}
	look("paged out", 2, 4, 6, 7)
	Populate(b[page+1 : 2*page+1]) // which begins within a page
	look("populated", 1, 4, 6, 7)
}
