// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

const (
	testRing   = 64 << 10
	testRingAt = 64 << 10
)

// writer overwrites a ring as fast as it can and publishes as a broker does: it waits for nobody, so that a reader is overtaken all the
// time.
type writer struct {
	data, page int // descriptors

	header, twice []byte
	pos, seq      uint64
	tail, tailSeq uint64
}

func newWriter(t *testing.T) *writer {
	t.Helper()
	w := &writer{}
	var p *Page
	var err error
	if w.data, err = sys.CreateMemfd("ring", testRingAt+testRing); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(w.data) })
	if w.header, err = sys.Map(w.data, 0, PublishedAt+4096); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Unmap(w.header) })
	if w.twice, err = sys.MapTwice(w.data, testRingAt, testRing); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.UnmapTwice(w.twice) })
	for at, v := range map[int]uint64{MagicAt: Magic, RingAt: testRingAt, SizeAt: testRing, GenerationAt: 1, EpochAt: 1} {
		w.word(at).Store(v)
	}
	if p, w.page, err = NewPage(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); sys.Close(w.page) })
	return w
}

func (w *writer) word(at int) *atomic.Uint64 { return sys.Word(w.header, PublishedAt+at) }

// payload is the size of message n, and the word that it consists of.
func payload(n uint64) (size int, of uint64) {
	return int(8 * (1 + n*2654435761%500)), n * 0x9e3779b97f4a7c15
}

// write appends the next message.
func (w *writer) write() {
	n, of := payload(w.seq)
	size := uint64(wire.Padded(n))
	for w.pos+size-w.tail > testRing {
		old, _ := payload(w.tailSeq)
		w.tail, w.tailSeq = w.tail+uint64(wire.Padded(old)), w.tailSeq+1
	}
	w.word(TailAt).Store(w.tail)
	w.word(TailSeqAt).Store(w.tailSeq)
	w.word(TailAgainAt).Store(w.tail)
	_ = w.word(TailAgainAt).Load()
	at := w.twice[w.pos%testRing:]
	binary.LittleEndian.PutUint32(at, uint32(n))
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(at[wire.RecordHeader+i:], of)
	}
	w.pos, w.seq = w.pos+size, w.seq+1
	w.word(HeadAt).Store(w.pos)
}

// run has it write until end is called.
func (w *writer) run() (end func()) {
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			w.write()
		}
	}()
	return func() { stop.Store(true); <-ended }
}

// TestPromise12_Overtaken: what a reader believes is the message that its number stands for, however often what it copies is
// overwritten meanwhile, and what it has missed is counted.
func TestPromise12_Overtaken(t *testing.T) {
	w := newWriter(t)
	r, err := NewReader(w.data, w.page)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	end := w.run()
	defer end() // before anything is unmapped
	buf := make([]byte, 48<<10)
	var next, lost, jumps uint64
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		b, err := r.Read(buf, math.MaxUint64)
		if err != nil {
			t.Fatalf("%v, after %d", err, next)
		}
		if b.Lost > 0 {
			lost, jumps, next = lost+b.Lost, jumps+1, next+b.Lost
		}
		if b.Count == 0 {
			continue
		}
		if b.First != next {
			t.Fatalf("message %d comes where %d should", b.First, next)
		}
		for at := buf[:b.Size]; len(at) > 0; next++ {
			size, of := payload(next)
			if n := int(binary.LittleEndian.Uint32(at)); n != size {
				t.Fatalf("message %d has %d bytes instead of %d", next, n, size)
			}
			for i := 0; i < size; i += 8 {
				if got := binary.LittleEndian.Uint64(at[wire.RecordHeader+i:]); got != of {
					t.Fatalf("byte %d of message %d is another's", i, next)
				}
			}
			at = at[wire.Padded(size):]
		}
		if next != b.First+uint64(b.Count) {
			t.Fatalf("%d messages came, and %d were counted", next-b.First, b.Count)
		}
	}
	end()
	t.Logf("%d messages were read, and %d lost in %d jumps", next-lost, lost, jumps)
	if jumps < 10 || next == lost {
		t.Errorf("it was left behind %d times, and has read %d messages", jumps, next-lost)
	}
}

// TestPromise12_OvertakenInC is the same of the header for programs in C.
func TestPromise12_OvertakenInC(t *testing.T) {
	program := buildC(t, "overtaken")
	w := newWriter(t)
	defer w.run()()
	fd, err := unix.FcntlInt(uintptr(w.data), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := os.NewFile(uintptr(fd), "ring")
	defer data.Close()
	cmd := exec.Command(program)
	cmd.ExtraFiles = []*os.File{data}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var copied, jumps, looked, void int
	_, err = fmt.Sscanf(string(out), "%d copied, %d jumps, %d read in place, %d times for nothing", &copied, &jumps, &looked, &void)
	if err != nil || copied == 0 || jumps < 10 || looked == 0 || void == 0 {
		t.Errorf("%q, %v", out, err)
	}
	t.Logf("%s", out)
}
