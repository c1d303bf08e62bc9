// SPDX-License-Identifier: Apache-2.0

package units

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStopStops stops a broker whose sinks have not read what they were sent, with nobody sending: it stays stopped until
// there is a message, and says what it gave up.
func TestStopStops(t *testing.T) {
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		p.systemctl("start", "msgmux.target", p.service)
		// Nobody reads from any of these; the last two are a socket in the folder and a queue.
		for _, arguments := range [][]string{
			{"--bind", "@mm-hung", "--register", "/run/msgmux/register"},
			{"--bind", "/tmp/mm-hung", "--register", "/run/msgmux/register"},
			{"--bind", "/run/msgmux/sinks/hung"},
		} {
			hung := b.StartLoad(append([]string{"sink"}, arguments...)...)
			hung.Signal(unix.SIGSTOP)
			defer hung.Signal(unix.SIGKILL) // the end of the machine would wait for it
		}
		b.MustRun("sh", "-c", "touch /dev/mqueue/hung && chmod 666 /dev/mqueue/hung && ln -s /dev/mqueue/hung /run/msgmux/sinks/hungqueue")
		p.untilStatus("that all sinks are there", func(s statusLine) bool { return s.static == 2 && s.dynamic == 2 && s.absent == 0 })
		const sent = 2000 // more than the queues of all sinks hold, and less than the ring does
		b.StartLoad("send", "--to", "/run/msgmux/source", "--count", fmt.Sprint(sent)).Sender()
		b.Until("the broker has received all", 10*time.Second, func() bool { return p.account().Status.Received == sent })
		time.Sleep(200 * time.Millisecond)
		a := p.account()
		kept := sent - a.Status.Delivered
		if kept == 0 {
			t.Fatalf("the sinks took everything: %+v", a)
		}

		p.systemctl("stop", p.service)
		for range 10 {
			if state := p.show("ActiveState")["ActiveState"]; state != "inactive" {
				t.Fatalf("the stopped broker is %s", state)
			}
			time.Sleep(100 * time.Millisecond)
		}
		// The message has a structured field of that name; the text has it too.
		if journal := b.Journal("--unit="+p.service, "--priority=warning"); !strings.Contains(journal, fmt.Sprintf("messages=%d", kept)) {
			t.Errorf("of the %d messages that it gave up the stopped broker says\n%s", kept, journal)
		}

		b.StartLoad("send", "--to", "/run/msgmux/source", "--count=1", "--source=2").Sender()
		p.untilActive()
		sinks := 4
		if b.SystemdVersion() < 254 {
			// The store is gone with the ring and the dynamic sinks.
			sinks = 2
		}
		p.untilStatus("what is there after a stop", func(s statusLine) bool { return s.sinks == sinks && s.static == 2 })
		a = p.account()
		if before := uint64(sent); b.SystemdVersion() >= 254 && a.Status.Received != before+1 {
			t.Errorf("after the stop %d messages have been received, want %d", a.Status.Received, before+1)
		}

		// In use, the whole channel is what can be stopped.
		flood := b.StartLoad("send", "--to", "/run/msgmux/source", "--source=3", "--unconnected")
		reader := b.StartLoad("sink", "--bind", "@mm-reader", "--register", "/run/msgmux/register", "--option", "patience=0")
		time.Sleep(300 * time.Millisecond)
		began := time.Now()
		p.systemctl("stop", "msgmux.target")
		b.Until("the broker has ended", 10*time.Second, func() bool { return p.show("ActiveState")["ActiveState"] == "inactive" })
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a channel in use took %v to stop", took)
		}
		time.Sleep(500 * time.Millisecond)
		if state := p.show("ActiveState")["ActiveState"]; state != "inactive" {
			t.Errorf("the broker of a stopped channel is %s", state)
		}
		if left := b.MustRun("sh", "-c", "cd /run/msgmux && ls -d *"); left != "sinks\n" {
			t.Errorf("a stopped channel leaves %q", left)
		}
		reader.Signal(unix.SIGTERM)
		flood.Signal(unix.SIGTERM)
		if r := flood.Sender(); r.Errors["ENOENT"]+r.Errors["ECONNREFUSED"] == 0 {
			t.Errorf("a source of a stopped channel saw %+v", r)
		}
	})
}
