// SPDX-License-Identifier: Apache-2.0

package layout2

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/layout2/writer"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// tiny is the shape of the rings here.
func tiny() writer.Geometry {
	return writer.Geometry{Size: writer.MinSize, MaxMessage: 300, MaxSinks: 6, MaxClients: 2}
}

// stopping is the kernel, and ends the program at the n-th seam, as a kill does.
type stopping struct {
	sys.Kernel
	left int
	at   string // the seam
}

func (s *stopping) Seam(name string) {
	if s.left--; s.left == 0 {
		s.at = name
		panic(s)
	}
}

// live is a ring whose broker was ended at the n-th seam of begin.
func live(t testing.TB, n int) (r *writer.Ring, seam string) {
	t.Helper()
	r, seam = begin(t, n)
	t.Cleanup(r.Retire)
	return r, seam
}

// begin has a broker of layout 2 go through a short life, in which every operation comes but those for message queues and
// TAIL, and ends it at the n-th seam. It says at which; "" is none, for it has come to its end.
func begin(t testing.TB, n int) (r *writer.Ring, seam string) {
	t.Helper()
	ops := &stopping{left: n}
	r, err := writer.Create(tiny(), 7, writer.Options{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil && p != any(ops) {
			panic(p)
		}
		seam = ops.at
	}()
	datagrams, packets := socketpair(t, unix.SOCK_DGRAM), socketpair(t, unix.SOCK_SEQPACKET)
	out := socketpair(t, unix.SOCK_DGRAM)
	add := func(s writer.Spec, attach bool) *writer.Sink {
		s.ID = r.NewID()
		sink, err := r.Add(s, false, attach)
		if err != nil {
			t.Fatal(err)
		}
		r.Connect(sink, true)
		return sink
	}
	write := func(fd int, b []byte) {
		if err := unix.Send(fd, b, unix.MSG_DONTWAIT); err != nil {
			t.Fatal(err)
		}
	}
	a := add(writer.Spec{Kind: writer.Dynamic, Label: "a", Address: "@a", UID: 7, Inode: 99, Ordinary: true, Patience: 1e9}, false)
	m := add(writer.Spec{Kind: writer.Dynamic, Label: "m", Group: "g", UID: 8}, false)
	tap := add(writer.Spec{Kind: writer.Framed, Label: "tap", Tap: true, Frames: true}, false)
	client := add(writer.Spec{Kind: writer.Source, Label: "client", UID: 9}, true)
	r.Greet(client, packets[1], []byte("ok\n"))
	r.Advance(5 * time.Millisecond)
	for i := range 5 {
		write(datagrams[0], fmt.Appendf(nil, "datagram %d", i))
	}
	write(datagrams[0], make([]byte, 300))
	r.Receive(datagrams[1], writer.Datagrams, writer.MaxBatch)
	r.Append()
	r.Send(a, out[0])
	write(packets[0], wire.AppendRecord(wire.AppendRecord(nil, []byte("one")), []byte("the other")))
	r.Receive(packets[1], writer.Packets, 1)
	r.Append()
	r.Skip(tap)
	r.Send(tap, packets[1])
	r.Send(m, out[0])
	write(datagrams[0], []byte("registration"))
	r.Attempt()
	r.Consume(datagrams[1])
	spec := *a.Spec()
	spec.Label = "renamed"
	r.Update(a, spec)
	r.Remove(m)
	r.Remove(client)
	write(datagrams[0], make([]byte, 301))
	write(datagrams[0], []byte("last"))
	r.Receive(datagrams[1], writer.Datagrams, writer.MaxBatch)
	return r, ""
}

func socketpair(t testing.TB, kind int) [2]int {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p
}

// span is a piece of one of the two files: 0 is the data, 1 the state.
type span struct {
	file int
	off  int64
	n    int
}

// spans are all that recovery reads in a ring from begin, zeros left out: what a fuzzer may change.
func spans() []span {
	s := Geometry(tiny()).sections()
	at := func(section uint64, off int64) int64 { return int64(section) + off }
	return []span{
		{0, 0, 64}, {0, page, 512}, // header, records
		{1, 0, 64}, {1, at(s.control, 0), 592}, {1, at(s.index, 0), 16 * 8}, {1, at(s.table, 0), 8 * 360},
		{1, at(s.recv, 0), 8 * 64}, {1, at(s.recv, 136192), 8 * 4}, // headers, priorities
		{1, at(s.send, 0), 8 * 64}, {1, at(s.send, 512*(64+16)), 8 * 16}, {1, at(s.send, 512*(64+16+16)), 64 + 32 + 16}, // headers, ends, packet
		{1, at(s.consume, 0), 64}, {1, at(s.greet, 0), 64}, {1, at(s.landing, 0), 256},
	}
}

// dump is what the spans of a ring hold.
func dump(t testing.TB, data, state int) (all []byte) {
	t.Helper()
	for _, s := range spans() {
		b := make([]byte, s.n)
		if n, err := unix.Pread([]int{data, state}[s.file], b, s.off); n != s.n || err != nil {
			t.Fatal(n, err)
		}
		all = append(all, b...)
	}
	return all
}

// load writes into a ring what the spans are to hold; what is missing in b stays.
func load(t testing.TB, data, state int, b []byte) {
	t.Helper()
	for _, s := range spans() {
		n := min(s.n, len(b))
		if k, err := unix.Pwrite([]int{data, state}[s.file], b[:n], s.off); k != n || err != nil {
			t.Fatal(k, err)
		}
		b = b[n:]
	}
}

// lives are the dumps of rings whose brokers were ended at every seam, by the seams.
func lives(t testing.TB) (dumps [][]byte, seams []string) {
	t.Helper()
	for n := 1; ; n++ {
		r, seam := begin(t, n)
		data, state := r.Descriptors()
		dumps, seams = append(dumps, dump(t, data, state)), append(seams, seam)
		r.Retire()
		if seam == "" {
			return dumps, seams
		}
	}
}
