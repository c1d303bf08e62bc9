// SPDX-License-Identifier: Apache-2.0

package units

import (
	"encoding/json"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/units/rig"
	"github.com/msgmux/msgmux/units/rig/load/tally"
)

// TestHandedOverSink has a drop-in hand the socket of a static sink to the broker, as examples/hand-over.conf says. Twenty
// restarts and twenty kills lose nothing and leave the sink's unit alone; what the form costs is seen; and when the consumer
// fails for good the broker knows, although it was given the socket.
func TestHandedOverSink(t *testing.T) {
	const socket, consumer = "audit-sink.socket", "audit.service"
	onEachBed(t, func(t *testing.T, b *bed) {
		p := b.channel("")
		b.WriteFile("/etc/systemd/system/"+socket, []byte("[Socket]\nListenDatagram=/run/audit/input\nSocketUser=msgmux\nSocketMode=0600\n"+
			"FileDescriptorName=sink-audit\nService=audit.service\n"), 0o644)
		b.WriteFile("/etc/systemd/system/"+consumer, []byte("[Service]\nExecStart=/usr/bin/load sink --inherit --settle 1s\n"+
			"Sockets=audit-sink.socket\nRestart=always\nStandardOutput=truncate:/run/audit.json\nStandardError=journal\n"), 0o644)
		b.WriteFile("/etc/msgmux/sinks/audit.conf", []byte("patience=forever\n"), 0o644)
		b.Install("examples/hand-over.conf", "/etc/systemd/system/msgmux.service.d/audit.conf", 0o644)
		b.MustRun("systemctl", "daemon-reload")
		p.systemctl("start", "msgmux.target", p.service, consumer)
		b.Until("the sink is there, and waited for", 20*time.Second, func() bool {
			s := p.account().sink("audit")
			return s.State == "ready" && s.Patience == "forever"
		})
		other := b.StartLoad("sink", "--bind", "@mm-other", "--register", "/run/msgmux/register", "--option", "patience=forever", "--settle", "1s")
		unit := func() map[string]string {
			return p.showUnit(socket, "ActiveState", "Result", "NAccepted", "ActiveEnterTimestampMonotonic")
		}
		socketBefore, consumerBefore := unit(), p.showUnit(consumer, "MainPID", "NRestarts")

		// The broker has closed what it was given: the sink is the consumer's.
		broker := p.show("MainPID")["MainPID"]
		if held := b.MustRun("sh", "-c", `inode=$(awk '$8 == "/run/audit/input" && $1 ~ /:$/ { print $7; exit }' /proc/net/unix); find /proc/$1/fd -lname "socket:\[$inode\]" | wc -l`, "sh", broker); held != "0\n" {
			t.Errorf("the broker still holds the sink's own socket: %s", held)
		}

		var sources []tally.Sender
		floods := [][]string{{"--source=1", "--spread=400"}, {"--source=2", "--unconnected"}, {"--source=3", "--spread=100"}}
		var running []*rig.Process
		for _, flags := range floods {
			running = append(running, b.StartLoad(append([]string{"send", "--to", "/run/msgmux/source"}, flags...)...))
		}
		for range 20 {
			p.systemctl("restart", p.service)
			time.Sleep(50 * time.Millisecond)
		}
		for range 20 {
			p.untilActive()
			time.Sleep(50 * time.Millisecond)
			p.killAndWait("KILL")
		}
		p.untilActive()
		for _, source := range running {
			source.Signal(unix.SIGTERM)
		}
		for _, source := range running {
			sources = append(sources, source.Sender())
		}
		p.untilDelivered()
		if now := unit(); !same(now, socketBefore) {
			t.Errorf("the unit of the sink's socket was %v and is %v", socketBefore, now)
		}
		if now := p.showUnit(consumer, "MainPID", "NRestarts"); !same(now, consumerBefore) {
			t.Errorf("the consumer was %v and is %v", consumerBefore, now)
		}
		if a := p.account(); a.Status.Lost+a.Status.Abandoned != 0 || a.Status.Sinks.Absent != 0 {
			t.Errorf("the broker counts %+v", a.Status)
		}

		// What it costs: the broker runs, so a message does not start the consumer; it waits in the socket.
		b.MustRun("systemctl", "stop", consumer)
		var audit []tally.Sink
		if err := json.Unmarshal([]byte(b.ReadFile("/run/audit.json")), &audit); err != nil || len(audit) != 1 {
			t.Fatalf("cannot read the consumer's report: %v", err)
		}
		b.StartLoad("send", "--to", "/run/msgmux/source", "--source=4", "--count=10").Sender()
		p.untilDelivered()
		time.Sleep(500 * time.Millisecond)
		if state := active(t, b.Machine, consumer); state != "inactive" {
			t.Errorf("the consumer is %s after a message came to the broker's socket", state)
		}
		b.MustRun("systemctl", "start", consumer)
		b.Until("the consumer reads", 20*time.Second, func() bool { return countLines(b.Journal("--unit="+consumer, "--output=cat"), "ready") == 2 })
		b.MustRun("systemctl", "stop", consumer) // which ends when nothing has come for a second
		var late []tally.Sink
		if err := json.Unmarshal([]byte(b.ReadFile("/run/audit.json")), &late); err != nil || len(late) != 1 || late[0].Sources[4].Count != 10 {
			t.Errorf("what waited did not come: %+v, %v", late, err)
		}

		other.Signal(unix.SIGTERM)
		got := other.Sinks()[0]
		delete(got.Sources, 4)
		for _, problem := range append(got.Problems(sources...), audit[0].Problems(sources...)...) {
			t.Error(problem)
		}

		// A consumer that cannot run takes its socket with it.
		b.dropIn(consumer, "broken", "[Service]\nExecStart=\nExecStart=/usr/bin/false\n")
		b.Run(t.Context(), "systemctl", "start", consumer)
		b.Until("the socket fails with its consumer", 30*time.Second, func() bool { return active(t, b.Machine, socket) == "failed" })
		b.Until("the sink is seen as gone", 20*time.Second, func() bool { return p.account().state("audit") == "absent" })
		p.untilStatus("that the sink is absent", func(s statusLine) bool { return s.absent == 1 && s.static == 1 })
	})
}
