// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring/layout2"
	"github.com/msgmux/msgmux/broker/ring/layout2/writer"
	"github.com/msgmux/msgmux/internal/wire"
)

// before is a broker of the layout before, at work.
type before struct {
	t       *testing.T
	r       *writer.Ring
	in, out [2]int
}

func newBefore(t *testing.T, kind int) *before {
	t.Helper()
	r, err := writer.Create(writer.Geometry{Size: MinSize, MaxMessage: 64 << 10, MaxSinks: 16, MaxClients: 4}, 5, writer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	b := &before{t: t, r: r, out: pair(t)}
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	_ = unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	b.in = p
	return b
}

func (b *before) add(s writer.Spec) *writer.Sink {
	b.t.Helper()
	s.ID = b.r.NewID()
	sink, err := b.r.Add(s, false, false)
	if err != nil {
		b.t.Fatal(err)
	}
	b.r.Connect(sink, true)
	return sink
}

func (b *before) upgrade(g Geometry) (*Ring, error) {
	b.t.Helper()
	d, s := b.r.Descriptors()
	if !Outdated(d, s) {
		b.t.Fatal("not known for the layout before")
	}
	if _, err := Open(d, s, Options{}); !errors.Is(err, ErrBroken) {
		b.t.Fatalf("opened as a ring of this layout: %v", err)
	}
	n, err := Upgrade(d, s, g, Options{})
	if err == nil {
		b.t.Cleanup(n.Retire)
		n.Publish()
	}
	return n, err
}

// TestUpgradeKeepsEverything: what a broker of the layout before has left is there in a ring of this one: the messages, also those
// that wait for room, where everybody stands, who is there, and the counts.
func TestUpgradeKeepsEverything(t *testing.T) {
	for name, kind := range map[string]int{"datagrams": unix.SOCK_DGRAM, "packets": unix.SOCK_SEQPACKET} {
		for _, g := range []Geometry{{Size: 4 * MinSize, MaxMessage: 64 << 10, MaxSinks: 16, MaxClients: 4}, {Size: MinSize, MaxMessage: 1000, MaxSinks: 2}} {
			t.Run(fmt.Sprintf("%s, to %d bytes", name, g.MaxMessage), func(t *testing.T) {
				b := newBefore(t, kind)
				done := b.add(writer.Spec{Kind: writer.Dynamic, Label: "done", Address: "@done", UID: 7, Inode: 70, Patience: time.Second, Ordinary: true})
				slow := b.add(writer.Spec{Kind: writer.Static, Label: "slow", Address: "/slow", Frames: true})
				tap := b.add(writer.Spec{Kind: writer.Framed, Label: "tap", Tap: true, Frames: true})
				m1 := b.add(writer.Spec{Kind: writer.Dynamic, Label: "m1", Group: "g", UID: 8, Patience: time.Minute})
				b.add(writer.Spec{Kind: writer.Dynamic, Label: "m2", Group: "g", UID: 8, Patience: time.Minute})
				b.add(writer.Spec{Kind: writer.Source, Label: "source", UID: 9})
				var want [][]byte
				for full := false; !full; {
					var packet []byte
					for k := range 3 {
						m := numbered(len(want), 20_000+k)
						want = append(want, m)
						if packet = wire.AppendRecord(packet, m); kind == unix.SOCK_DGRAM {
							_ = unix.Send(b.in[0], m, 0)
						}
					}
					landing := uint32(writer.Datagrams)
					if kind == unix.SOCK_SEQPACKET {
						landing = writer.Packets
						_ = unix.Send(b.in[0], packet, 0)
					}
					if n, errno := b.r.Receive(b.in[1], landing, 64); n == 0 {
						t.Fatal(errno)
					}
					full = b.r.Append().Full
					for _, s := range []*writer.Sink{done, m1} {
						for b.r.Behind(s) && len(want) < 30 {
							if _, errno := b.r.Send(s, b.out[0]); errno != 0 {
								break
							}
							for buf := make([]byte, 1<<17); ; {
								if _, _, err := unix.Recvfrom(b.out[1], buf, unix.MSG_DONTWAIT); err != nil {
									break
								}
							}
						}
					}
				}
				n, err := b.upgrade(g)
				if err != nil {
					t.Fatal(err)
				}
				if out := n.Append(); out.Full == (n.geo.Size > MinSize) {
					t.Errorf("%+v in a ring of %d bytes", out, n.geo.Size)
				}
				if err := n.check(); err != nil {
					t.Error(err)
				}
				for p := n.Tail(); p.Seq < n.Head().Seq; p = n.next(p) {
					if got := n.data.Slice(p.Pos&n.mask+wire.RecordHeader, uint64(n.length(p.Pos))); string(got) != string(want[p.Seq]) {
						t.Fatalf("message %d is another", p.Seq)
					}
				}
				if got := n.Head().Seq; n.geo.Size > MinSize && got != uint64(len(want)) {
					t.Errorf("%d messages of %d", got, len(want))
				}
				compare(t, b, n, 5)
				if s := n.Sink(slow.ID()); s.Spec().Kind != Static || !s.Spec().Frames || s.cursor.Place().Seq != 0 {
					t.Errorf("%+v at %d", s.Spec(), s.cursor.Place().Seq)
				}
				if s := n.Sink(tap.ID()); !s.cursor.tap || s.cursor.Spec().ID != s.ID() {
					t.Errorf("%+v", s.cursor.Spec())
				}
				if s := n.Sink(m1.ID()); s.cursor.Spec().Share != "g" || s.cursor.Spec().Patience != time.Minute || len(s.cursor.members) != 2 {
					t.Errorf("%+v", s.cursor.Spec())
				}
			})
		}
	}
}

// compare holds the sinks of a ring of the layout before against one that was made of it.
func compare(t *testing.T, b *before, n *Ring, want int) {
	t.Helper()
	d, st := b.r.Descriptors()
	old, err := layout2.Open(d, st)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	shares := make(map[uint64]*layout2.Cursor)
	for i := range old.Shares {
		shares[old.Shares[i].ID] = &old.Shares[i].Cursor
	}
	for i := range old.Sinks {
		was := &old.Sinks[i]
		s, at := n.Sink(was.ID), &was.Cursor
		if s == nil {
			t.Errorf("sink %s is gone", was.Label)
			continue
		}
		if was.ShareID != 0 {
			at = shares[was.ShareID]
		}
		is, reads := s.Spec(), s.cursor.Spec()
		if at.Place.Seq != s.cursor.Place().Seq || at.Lost != s.cursor.Lost() || at.Start != s.cursor.e.Start.Load() || was.Label != is.Label ||
			was.Address != is.Address || was.UID != is.UID || was.Inode != is.Inode || was.Ordinary != reads.Ordinary ||
			was.Patience != reads.Patience || was.Tap != reads.Tap || was.Frames != is.Frames || was.Group != reads.Share {
			t.Errorf("sink was %+v and is %+v, %+v at %d", was, is, reads, s.cursor.Place().Seq)
		}
	}
	if total, rows := n.Snapshot(nil); len(rows) != want || len(old.Sinks) != want || total.Accepted == 0 {
		t.Errorf("%d sinks of %d are there, and have accepted %d", len(rows), want, total.Accepted)
	}
	clients := 0
	for c := range n.Clients {
		clients++
		if c.Spec().Label != "source" || c.Spec().UID != 9 {
			t.Errorf("%+v", c.Spec())
		}
	}
	if clients != 1 {
		t.Errorf("%d connected sources", clients)
	}
}
