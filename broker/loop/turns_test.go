// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// sentTo is a kernel that has room for everything, and remembers what was sent where.
type sentTo struct {
	sys.Kernel
	fds []int
}

func (k *sentTo) Sendmmsg(_ string, fd int, hdrs []sys.Mmsghdr) (int, unix.Errno) {
	k.fds = append(k.fds, fd)
	for i := range hdrs {
		hdrs[i].Len = 64 << 10
	}
	return len(hdrs), 0
}

// roomyLoop is a data thread that does not run, with a ring of 1 MiB and that kernel.
func roomyLoop(t *testing.T) (*loop, *sentTo) {
	t.Helper()
	k := new(sentTo)
	r, err := ring.Create(ring.Geometry{Size: ring.MinSize, MaxMessage: 1024, MaxSinks: 8, MaxClients: 8}, 1, ring.Options{Ops: k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Retire)
	l := new(loop)
	if err := l.init(&Config{Ring: r, Ops: k, Limits: Limits{QueueBytes: 1 << 20}}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l, k
}

// records is a packet of so many messages, of 1,000 bytes each.
func records(n int) []byte {
	return bytes.Repeat(wire.AppendRecord(nil, make([]byte, 1000)), n)
}

// TestPacketsInARow: a sink that is behind has some packets before the next has its turn, because it is woken once for all of them; but
// in a share each has one, so that all of them have something to do.
func TestPacketsInARow(t *testing.T) {
	l, k := roomyLoop(t)
	var want []int
	for _, share := range []string{"", "", "workers", "workers"} {
		fd, _ := connection(t)
		s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Framed, Frames: true}, ring.Reading{CursorSpec: ring.CursorSpec{Share: share}}, false)
		if err != nil {
			t.Fatal(err)
		}
		l.open(s, fd, 1, nil)
		turn := inARow
		if share != "" {
			turn = 1
		}
		want = append(want, slices.Repeat([]int{fd}, turn)...)
	}
	fd, peer := connection(t)
	t.Cleanup(func() { unix.Close(fd) })
	for range 2 * inARow {
		if _, err := unix.Write(peer, records(60)); err != nil {
			t.Fatal(err)
		}
		if n, errno := l.ring.Receive(fd, ring.Packets, ring.From{}, 1); n != 1 {
			t.Fatalf("%d packets came in, %v", n, errno)
		}
		l.append()
	}
	l.weights.Of(64 << 10) // which takes long the first time
	l.tick()
	if sent, cut := l.deliver(); !sent || cut || !slices.Equal(k.fds, want) {
		t.Errorf("sent %v, cut short %v: to %v, want %v", sent, cut, k.fds, want)
	}
}

// TestGather: sources that have much are read until there is enough for the sinks, and no further: neither large packets nor many.
func TestGather(t *testing.T) {
	for name, c := range map[string]struct {
		messages    int    // in a packet
		least, most uint64 // messages before the sinks have their turn
	}{
		"large": {60, gatherBytes / 1024, gatherBytes/1024 + 64},
		"many":  {1, gatherCalls, gatherCalls},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := roomyLoop(t)
			sink, _ := connection(t)
			s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Framed, Frames: true}, ring.Reading{}, false)
			if err != nil {
				t.Fatal(err)
			}
			l.open(s, sink, 1, nil)
			for range 4 {
				source, err := l.ring.AddClient(ring.ClientSpec{ID: l.ring.NewID()})
				if err != nil {
					t.Fatal(err)
				}
				fd, peer := connection(t)
				if err := l.addClient(source, fd, nil); err != nil {
					t.Fatal(err)
				}
				for err == nil { // until its queue is full
					_, err = unix.Write(peer, records(c.messages))
				}
				l.enqueue(l.sources[source.ID()])
			}
			l.tick()
			l.receive() // one packet of each: it is not known yet that they have more
			before := l.ring.Head().Seq
			l.receive()
			if got := l.ring.Head().Seq - before; got < c.least || got > c.most {
				t.Errorf("%d messages were read, want %d to %d", got, c.least, c.most)
			}
			if l.taken.units >= takenUnits {
				t.Errorf("%d packets at once were looked at for whether one was costly", l.taken.units)
			}
		})
	}
}
