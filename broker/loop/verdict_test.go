// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/broker/journal"
	"github.com/msgmux/msgmux/broker/ring"
	"github.com/msgmux/msgmux/internal/test"
)

// fullLoop is a data thread that does not run, with a sink that reads nothing, one that reads everything, and a source. The ring is
// full for the next message of 1,000 bytes, and the one sink is waited for.
type fullLoop struct {
	*loop
	t      *testing.T
	said   *test.Output
	hung   *ring.Sink
	source [2]int
	reads  int // the end of the sink that reads
}

func newFullLoop(t *testing.T, patience time.Duration) *fullLoop {
	t.Helper()
	f := &fullLoop{loop: idleLoop(t, 2), t: t, said: new(test.Output)}
	f.log = journal.New(slog.NewTextHandler(f.said, nil))
	t.Cleanup(f.log.Close)
	for s := range f.ring.Sinks {
		f.hung = s
		break
	}
	f.ring.SetPatience(f.hung.Cursor(), patience)
	f.source = pair(t)
	sink := pair(t)
	f.reads = sink[1]
	for _, o := range f.outlets {
		if o.sink != f.hung {
			o.fd = sink[0]
		}
	}
	for f.ring.Geometry().Size-(f.ring.Head().Pos-f.hung.Cursor().Place().Pos) >= 1004 {
		if out := f.lands(1000); out.Full {
			t.Fatal("the ring is full too early")
		}
		f.deliver()
		f.read()
	}
	return f
}

// lands has messages of these sizes received at once, and appended.
func (f *fullLoop) lands(sizes ...int) ring.Outcome {
	f.t.Helper()
	for _, n := range sizes {
		if err := unix.Send(f.source[0], make([]byte, n), 0); err != nil {
			f.t.Fatal(err)
		}
	}
	if n, errno := f.ring.Receive(f.source[1], ring.Datagrams, ring.From{}, len(sizes)); n != len(sizes) {
		f.t.Fatalf("%d of %d messages came in, %v", n, len(sizes), errno)
	}
	return f.append()
}

// read has the sink that reads read everything.
func (f *fullLoop) read() {
	for {
		if _, _, err := unix.Recvfrom(f.reads, make([]byte, 2048), 0); err != nil {
			break
		}
	}
	for _, o := range f.outlets {
		o.writable = o.sink != f.hung
	}
}

// TestRefusedAfterAVerdict: what is refused once a sink was left behind, and there is room again, is told as everything else is.
func TestRefusedAfterAVerdict(t *testing.T) {
	f := newFullLoop(t, 0)
	f.lands(1000, 2000)
	if !f.hung.Cursor().Lagging() {
		t.Fatal("nobody was left behind")
	}
	test.Eventually(t, "word of the message that was too large", func() bool { return strings.Contains(f.said.String(), "message refused") })
}

// TestVerdictBeforeSleep: what a verdict by the clock lets into the ring is sent before the thread sleeps again.
func TestVerdictBeforeSleep(t *testing.T) {
	f := newFullLoop(t, 20*time.Millisecond)
	if out := f.lands(1000); !out.Full {
		t.Fatalf("the ring is not full: %+v", out)
	}
	for n := 0; !f.hung.Cursor().Lagging(); n++ {
		if f.timeout() == 0 && f.moved {
			t.Fatal("the thread does not sleep")
		}
		if n == 1000 {
			t.Fatal("the sink that hangs is not left behind")
		}
		f.turned = f.now - 5*time.Millisecond
		f.judge()
	}
	if d := f.timeout(); d != 0 {
		t.Errorf("it sleeps for %s with something to send", d)
	}
	f.pass()
	if _, _, err := unix.Recvfrom(f.reads, make([]byte, 2048), 0); err != nil {
		t.Errorf("it is not sent: %v", err)
	}
}
