// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/test"
	"github.com/msgmux/msgmux/internal/view"
	"github.com/msgmux/msgmux/internal/wire"
)

// askedViewer is a sink in view, the only one of a data thread that does not run, and its end of the page and of the connection. The ring is
// full, so it has been asked to tell when it is done with more.
func askedViewer(t *testing.T) (l *loop, o *outlet, r *view.Reader, peer int) {
	t.Helper()
	l = stagedLoopOf(t, 0)
	page, refusal := NewPage()
	if refusal != nil {
		t.Fatal(refusal)
	}
	s, err := l.ring.Add(ring.Spec{ID: l.ring.NewID(), Kind: ring.Framed, UID: 1000, Frames: true, View: true},
		ring.Reading{CursorSpec: ring.CursorSpec{Ack: true, UID: 1000, Patience: wire.Forever}}, true)
	if err != nil {
		t.Fatal(err)
	}
	fd, peer := connection(t)
	l.Greet(s, fd, page)
	if r, err = view.NewReader(l.viewFD, page.FD()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	ends := pair(t)
	for l.tick(); !l.ring.Full(); l.deliver() {
		if err := unix.Send(ends[0], make([]byte, 1000), 0); err != nil {
			t.Fatal(err)
		}
		if n, errno := l.ring.Receive(ends[1], ring.Datagrams, ring.From{}, 1); n != 1 {
			t.Fatalf("%d messages came in, %v", n, errno)
		}
		l.append()
	}
	if o = l.byID[s.ID()]; !o.view.asked {
		t.Fatal("the sink that all wait for is not asked")
	}
	return l, o, r, peer
}

// saysInRest has the sink send a packet while its bill rests. When that is returned the rest is over.
func saysInRest(t *testing.T, l *loop, o *outlet, peer int, packet []byte) {
	t.Helper()
	b := o.effort.bill
	o.effort.costly, b.rest = true, l.clock()+time.Hour
	if _, err := unix.Write(peer, packet); err != nil {
		t.Fatal(err)
	}
	l.poll(0)
	if o.lookAt != b.rest {
		t.Fatalf("it is looked at in %v, and rests until %v", o.lookAt, b.rest)
	}
	b.rest = l.now
	l.look(o, l.now)
}

// TestViewAnswersInRest: a sink in view that answers while its bill rests is asked again, or sources would wait for ever for what it
// does afterwards.
func TestViewAnswersInRest(t *testing.T) {
	l, o, r, peer := askedViewer(t)
	if !r.Say(1) {
		t.Fatal("the sink is not asked")
	}
	saysInRest(t, l, o, peer, wire.AppendAck(nil, 1))
	test.Eventually(t, "the sink is asked again", func() bool {
		l.poll(0)
		l.pass()
		return r.Say(1)
	})
}

// TestViewLeavesInRest: a sink in view that says while its bill rests that it leaves is gone when the rest is over.
func TestViewLeavesInRest(t *testing.T) {
	l, o, _, peer := askedViewer(t)
	saysInRest(t, l, o, peer, []byte(wire.Leave))
	if l.poll(0); l.byID[o.sink.ID()] != nil {
		t.Error("it is still there")
	}
}

// TestViewEndsUncalled: a sink in view that is thrown out for what its page says was sent nothing then, so its user is not suspected.
func TestViewEndsUncalled(t *testing.T) {
	l, o, r, _ := askedViewer(t)
	b := o.effort.bill
	time.Sleep(2 * checkEvery)
	l.tick()
	b.watch = false // calls before may have taken long
	r.Say(1 << 40)
	l.deliver()
	if l.byID[o.sink.ID()] != nil {
		t.Fatal("it is still there")
	}
	if b.watch {
		t.Errorf("its user is measured: %+v", b)
	}
}
