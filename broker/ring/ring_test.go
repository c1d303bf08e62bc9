// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/wire"
)

// rig is a ring with a real datagram socket to feed it and one for each sink.
type rig struct {
	t   *testing.T
	r   *Ring
	in  [2]int           // in[0] is written to, in[1] is the source
	out map[*Sink][2]int // [0] is the ring's, [1] the sink's
	buf []byte
}

func pair(t *testing.T) [2]int {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p
}

func newRig(t *testing.T, g Geometry) *rig {
	t.Helper()
	r, err := Create(g, 1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	return &rig{t: t, r: r, in: pair(t), out: map[*Sink][2]int{}, buf: make([]byte, 5<<20)}
}

// wish is what a test wants of a sink.
type wish struct {
	Kind                  Kind
	Label, Address, Group string
	UID, Inode            uint32
	Tap, Frames, Ordinary bool
	Meta, Credentials     bool
	Patience              time.Duration
	Form                  Form
}

// spec is the sink with that id, and how it reads.
func (w wish) spec(id uint64, oldest bool) (Spec, Reading) {
	return Spec{ID: id, Kind: w.Kind, Label: w.Label, Address: w.Address, UID: w.UID, Inode: w.Inode, Frames: w.Frames, Meta: w.Meta, Form: w.Form,
			Credentials: w.Credentials},
		Reading{CursorSpec: CursorSpec{Share: w.Group, UID: w.UID, Tap: w.Tap, Ordinary: w.Ordinary, Patience: w.Patience}, Start: from(oldest)}
}

func (g *rig) add(w wish, oldest bool) *Sink {
	g.t.Helper()
	spec, how := w.spec(g.r.NewID(), oldest)
	s, err := g.r.Add(spec, how, false)
	if err != nil {
		g.t.Fatal(err)
	}
	g.out[s] = pair(g.t)
	g.r.Connect(s, true, 0)
	return s
}

func (g *rig) write(b []byte) {
	g.t.Helper()
	if err := unix.Send(g.in[0], b, unix.MSG_DONTWAIT); err != nil {
		g.t.Fatal(err)
	}
}

// enter writes one message and takes it into the ring.
func (g *rig) enter(b []byte) Outcome {
	g.t.Helper()
	g.write(b)
	if n, errno := g.r.Receive(g.in[1], Datagrams, From{}, MaxBatch); n != 1 || errno != 0 {
		g.t.Fatalf("receive: %d %v", n, errno)
	}
	return g.r.Append()
}

// read takes what the sink's socket holds.
func (g *rig) read(s *Sink) (got [][]byte) {
	for {
		n, _, err := unix.Recvfrom(g.out[s][1], g.buf, unix.MSG_DONTWAIT)
		if err != nil {
			return got
		}
		got = append(got, bytes.Clone(g.buf[:n]))
	}
}

// send sends s all that it is behind with, as far as its queue goes.
func (g *rig) send(s *Sink) (n int, errno unix.Errno) {
	for g.r.Behind(s) {
		k, e := g.r.Send(s, g.out[s][0])
		if e != 0 {
			return n, e
		}
		n += k
	}
	return n, 0
}

func small() Geometry { return Geometry{Size: MinSize, MaxMessage: 64 << 10, MaxSinks: 16} }

func TestMessagesComeOutAsTheyWentIn(t *testing.T) {
	g := newRig(t, small())
	a, b := g.add(wish{Kind: Dynamic, Label: "a"}, false), g.add(wish{Kind: Dynamic, Label: "b"}, false)
	var want [][]byte
	for i := range 2000 {
		m := bytes.Repeat([]byte{byte(i)}, i*37%9000)
		want = append(want, m)
		if out := g.enter(m); out.Entered != 1 || out.Refused != 0 {
			t.Fatalf("message %d: %+v", i, out)
		}
		for _, s := range []*Sink{a, b} {
			if _, errno := g.send(s); errno != 0 {
				t.Fatal(errno)
			}
			got := g.read(s)
			if len(got) != 1 || !bytes.Equal(got[0], m) {
				t.Fatalf("message %d: got %d messages", i, len(got))
			}
		}
	}
	if g.r.Head().Seq != uint64(len(want)) || g.r.Delivered() != g.r.Head() {
		t.Fatalf("head %v delivered %v", g.r.Head(), g.r.Delivered())
	}
	if err := g.r.check(); err != nil {
		t.Fatal(err)
	}
	tot, nums := g.r.Snapshot(nil)
	if tot.Accepted != 4000 || len(nums) != 2 || nums[0].Waiting != 0 {
		t.Fatalf("%+v %+v", tot, nums)
	}
}

func TestFullRingWaitsAndGoesOn(t *testing.T) {
	g := newRig(t, small())
	s := g.add(wish{Kind: Dynamic, Label: "s"}, false)
	m := make([]byte, 60<<10)
	entered := 0
	for !g.r.Full() {
		entered += g.enter(m).Entered
		if entered > 100 {
			t.Fatal("never full")
		}
	}
	if want := MinSize / wire.Padded(len(m)); entered != want || !g.r.Landed() {
		t.Fatalf("full after %d records instead of %d", entered, want)
	}
	if _, errno := g.send(s); errno != unix.EAGAIN {
		t.Fatal(errno)
	}
	if out := g.r.Append(); out.Entered != 1 || g.r.Full() || g.r.Landed() {
		t.Fatalf("no room made: %+v", out)
	}
}

// reopen maps the same files again, as a successor would.
func (g *rig) reopen() *Ring {
	g.t.Helper()
	d, s := g.r.Descriptors()
	r, err := Open(d, s, Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

func TestSuccessorGoesOn(t *testing.T) {
	g := newRig(t, small())
	a := g.add(wish{Kind: Dynamic, Label: "a", Address: "@a", UID: 7, Inode: 99}, false)
	m1 := g.add(wish{Kind: Dynamic, Label: "m1", Group: "grp", UID: 7}, false)
	m2 := g.add(wish{Kind: Dynamic, Label: "m2", Group: "grp", UID: 7}, false)
	if m1.cursor != m2.cursor || m1.cursor == nil {
		t.Fatal("no share")
	}
	for i := range 100 {
		g.enter(fmt.Appendf(nil, "message %d", i))
	}
	g.send(a)
	g.r.Send(m1, g.out[m1][0])
	r := g.reopen()
	if r.Freed() != 0 || len(r.cursors) != 2 || len(r.sinkByID) != 3 {
		t.Fatalf("%d freed, %d cursors, %d entries", r.Freed(), len(r.cursors), len(r.sinkByID))
	}
	if got := r.Sink(a.ID()); *got.Spec() != *a.Spec() || got.cursor.Place() != a.cursor.Place() {
		t.Fatalf("%+v is not %+v", got.Spec(), a.Spec())
	}
	if got := r.Sink(m2.ID()); got.cursor.Place() != r.Head() {
		t.Fatalf("share at %v", got.cursor.Place())
	}
	if r.NewID() <= m2.ID() {
		t.Fatal("id used twice")
	}
}
