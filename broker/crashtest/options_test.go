// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/wire"
)

// TestLargerMessagesAfterARestart: a broker that may take larger messages than the one before it gives them to the sinks that were
// there before, too; the send buffers of their sockets are the last broker's.
func TestLargerMessagesAfterARestart(t *testing.T) {
	k := newKeeper(t)
	k.Setup.Geometry = ring.Geometry{Size: 8 << 20, MaxMessage: 64 << 10, MaxSinks: 64, MaxClients: 16}
	up(t, k, Death{})
	old := member(t, k, "old")
	framed, _, err := greet(k.Setup.Dir, "subscribe", wire.Hello{Options: wire.Options{Label: "framed"}})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(framed)
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	k.Setup.Geometry.MaxMessage = 2 << 20
	up(t, k, Death{})
	o, err := newOutlet(k.Setup.Dir, NonBlocking, 0, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	big := bytes.Repeat([]byte("x"), 1<<20)
	if err := o.send([][]byte{big}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4<<20)
	for what, fd := range map[string]int{"datagram": old.fd, "framed": framed} {
		timeouts(fd, patience, patience)
		if n, err := receive(fd, buf, 0); n < len(big) {
			t.Errorf("the %s sink from before got %d bytes, %v", what, n, err)
		}
	}
	if st, _, err := k.List(); err != nil || st.Lost != 0 {
		t.Errorf("%d lost, %v", st.Lost, err)
	}
}

// TestFullRingIsGivenMoreRoom: what helps a ring that is full works while it is full.
func TestFullRingIsGivenMoreRoom(t *testing.T) {
	k := newKeeper(t)
	k.Setup.Geometry = ring.Geometry{Size: 1 << 20, MaxMessage: 64 << 10, MaxSinks: 64, MaxClients: 16}
	up(t, k, Death{})
	hung := member(t, k, "hung")
	o, err := newOutlet(k.Setup.Dir, NonBlocking, 0, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	const messages = 60
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := o.send([][]byte{bytes.Repeat([]byte{byte(i)}, 60<<10)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	blocked := func() (bool, error) {
		st, _, err := k.List()
		return err == nil && st.Sources.Blocked && st.Landed > 0, err
	}
	if err := until(patience, blocked); err != nil {
		t.Fatal(err)
	}
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	k.Setup.Geometry.Size = 16 << 20
	up(t, k, Death{})
	if st, _, err := k.List(); err != nil || st.Buffer != 16<<20 {
		t.Fatalf("the ring has %d bytes after a restart with more, %v", st.Buffer, err)
	}
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the source is blocked")
	}
	buf := make([]byte, 64<<10)
	timeouts(hung.fd, patience, patience)
	for i := range messages {
		if n, err := receive(hung.fd, buf, 0); n != 60<<10 || buf[0] != byte(i) {
			t.Fatalf("message %d: %d bytes that begin with %d, %v", i, n, buf[0], err)
		}
	}
}
